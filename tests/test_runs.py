import itertools
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion
from syrupy.matchers import path_type

from trueup.errors import InterruptedRun, UserError
from trueup.runs import COMPARISON_KEYS, ESTIMATE_KEYS, Run

ESTIMATE = {
    "audit": "crows-pairs",
    "metric": "share",
    "slice": "gender",
    "value": 0.393,
    "low": 0.236,
    "high": 0.576,
    "level": 0.95,
    "n": 28,
    "ideal": 0.5,
    "method": "wilson",
}
COMPARISON = {
    "audit": "crows-pairs",
    "metric": "share",
    "slice": "all",
    "before": 0.61,
    "after": 0.52,
    "delta": -0.09,
    "low": -0.15,
    "high": -0.03,
    "p_value": 0.004,
    "p_adjusted": 0.012,
    "n_pairs": 262,
    "test": "exact mcnemar",
    "verdict": "improved",
}


def begin(out: Path, **changes: Any) -> Run:
    asked: dict[str, Any] = {
        "verb": "audit",
        "arguments": {"audit": "crows-pairs", "level": 0.95},
        "seed": 7,
        "model": "models/tiny",
        "model_hash": "aa",
        "data": "pairs.csv",
        "data_hash": "bb",
    }
    return Run.create(out, **asked | changes)


def frame(start: int, stop: int) -> pd.DataFrame:
    """Rows whose columns have holes, so that chunks disagree about their types."""
    ids = range(start, stop)
    return pd.DataFrame(
        {
            "id": [f"p{i}" for i in ids],
            "group": [None if i < 4 else f"g{i % 3}" for i in ids],
            "more": [math.nan if i % 5 == 0 else -i / 3 for i in ids],
            "count": list(ids),
        }
    )


def killed(run: Run) -> None:
    """What the system does to a process that is killed: its locks go, its files stay."""
    assert run._lock is not None
    run._lock.release(force=True)


def test_a_finished_run_reads_back_what_was_written(tmp_path: Path) -> None:
    run = begin(tmp_path / "r")
    run.append_items(frame(0, 3), work={"trunk_tokens": 10, "head_rows": 2})
    run.append_items(frame(3, 8), work={"trunk_tokens": 5, "head_rows": 1})
    run.write_metrics([ESTIMATE])
    run.write_comparison([COMPARISON])
    run.finish()
    again = Run.open(tmp_path / "r")
    assert again.is_done
    assert again.work() == {"trunk_tokens": 15, "head_rows": 3}
    assert again.estimates() == [ESTIMATE]
    assert again.comparison() == [COMPARISON]
    pd.testing.assert_frame_equal(again.items(), frame(0, 8), check_dtype=False)
    names = {"run.json", "items.parquet", "metrics.json", "compare.json"}
    assert {child.name for child in again.path.iterdir()} == names


def test_undefined_bounds_are_null_in_the_file_and_nan_in_memory(tmp_path: Path) -> None:
    run = begin(tmp_path / "r")
    run.write_metrics([ESTIMATE | {"low": math.nan, "high": math.nan, "n": 1, "ideal": None}])
    text = (tmp_path / "r" / "metrics.json").read_text()
    assert '"low": null' in text
    assert "NaN" not in text
    (row,) = run.estimates()
    assert math.isnan(row["low"])
    assert row["ideal"] is None


def test_estimates_may_be_objects_and_keep_the_order_of_the_keys(tmp_path: Path) -> None:
    class Shuffled:
        def as_dict(self) -> dict[str, Any]:
            return dict(reversed(ESTIMATE.items())) | {"value": np.float64(0.393)}

    run = begin(tmp_path / "r")
    run.write_metrics([Shuffled()])
    (row,) = json.loads((tmp_path / "r" / "metrics.json").read_text())["estimates"]
    assert tuple(row) == ESTIMATE_KEYS
    assert row == ESTIMATE


def test_a_row_without_a_key_of_the_schema_is_not_written(tmp_path: Path) -> None:
    run = begin(tmp_path / "r")
    with pytest.raises(KeyError, match="n_pairs"):
        run.write_comparison([{k: v for k, v in COMPARISON.items() if k != "n_pairs"}])
    assert not (tmp_path / "r" / "compare.json").exists()


# --- resuming -------------------------------------------------------------------------------------


def measure_all(out: Path, n: int = 12, chunk: int = 5) -> None:
    """A verb as it should be: resume, measure what is missing in chunks, finish."""
    run = begin(out, resume=True)
    if run.is_done:
        return
    try:
        done = run.done_ids()
        left = [i for i in range(n) if f"p{i}" not in done]
        for start in range(0, len(left), chunk):
            part = left[start : start + chunk]
            run.append_items(frame(part[0], part[-1] + 1), work={"trunk_tokens": len(part)})
        run.write_metrics([ESTIMATE | {"value": float(run.items()["more"].sum())}])
        run.finish()
    except Killed:
        killed(run)
        raise


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def files(out: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    info = json.loads(found["run.json"])
    volatile = dict.fromkeys(("started", "ended", "seconds"), "")
    return found | {"run.json": json.dumps(info | volatile).encode()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "r"
    measure_all(out)
    return files(out)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kill_at", range(1, 9))
def test_a_kill_at_any_rename_changes_no_byte_of_the_resumed_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, bytes],
    kill_at: int,
    moment: str,
) -> None:
    out, renames, replace = tmp_path / "r", 0, Path.replace

    def deadly(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == kill_at and moment == "before":
            raise Killed
        result = replace(self, target)
        if renames == kill_at and moment == "after":
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", deadly)
        with pytest.raises(Killed):
            measure_all(out)
    measure_all(out)
    assert files(out) == undisturbed


def test_all_renames_of_a_run_are_killed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames, replace = [], Path.replace

    def counted(self: Path, target: Path) -> Path:
        renames.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", counted)
    measure_all(tmp_path / "r")
    assert len(renames) == 8  # run, 3 chunks, metrics, items, run, chunks: the range above


def test_a_process_killed_by_the_system_leaves_whole_chunks_and_no_lock(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from tests.test_runs import begin, frame
        run = begin(Path(sys.argv[1]), resume=True)
        run.append_items(frame(0, 5), work={"trunk_tokens": 5})
        print("ready", flush=True)
        sys.stdin.read()
    """)
    command = [sys.executable, "-c", script, str(tmp_path / "r")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(UserError, match="another trueup process is writing this run"):
            begin(tmp_path / "r", resume=True)
        os.kill(process.pid, signal.SIGKILL)
    assert Run.open(tmp_path / "r").status == "running"
    measure_all(tmp_path / "r")
    assert files(tmp_path / "r") == undisturbed


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(cuts=st.sets(st.integers(1, 11)))
def test_how_rows_are_cut_into_chunks_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory, undisturbed: dict[str, bytes], cuts: set[int]
) -> None:
    out = tmp_path_factory.mktemp("cuts") / "r"
    run = begin(out)
    edges = [0, *sorted(cuts), 12]
    for start, stop in itertools.pairwise(edges):
        run.append_items(frame(start, stop))
    before = run.items()
    run.finish()
    assert (out / "items.parquet").read_bytes() == undisturbed["items.parquet"]
    pd.testing.assert_frame_equal(Run.open(out).items(), before)


def test_all_rows_written_at_once_are_the_same_file(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    run = begin(tmp_path / "r")
    run.append_items(frame(0, 2))
    run.write_items(frame(0, 12))
    run.finish()
    assert (tmp_path / "r" / "items.parquet").read_bytes() == undisturbed["items.parquet"]


def test_steps_that_were_taken_twice_count_once(tmp_path: Path) -> None:
    run = begin(tmp_path / "r")
    run.append_items(frame(0, 6))
    run.append_items(frame(4, 9))
    assert run.items()["id"].tolist() == [f"p{i}" for i in range(9)]


def test_two_audits_of_one_run_keep_their_own_columns(tmp_path: Path) -> None:
    run = begin(tmp_path / "r")
    first = pd.DataFrame({"id": ["1", "2"], "audit": "bbq", "is_right": [True, False]})
    second = pd.DataFrame({"id": ["1"], "audit": "perplexity", "nats": [3]})
    run.append_items(first)
    run.append_items(second)
    assert run.done_ids() == {"1", "2"}
    assert run.done_ids("perplexity") == {"1"}
    run.finish()
    for each in (run, Run.open(run.path)):
        pd.testing.assert_frame_equal(
            each.items("bbq"), first, check_dtype=False, check_column_type=False
        )
        assert each.items("bbq")["is_right"].dtype == bool
        assert each.items("perplexity")["nats"].dtype == "int64"
        assert len(each.items()) == 3


def test_resuming_a_finished_run_is_done_and_changes_nothing(tmp_path: Path) -> None:
    measure_all(tmp_path / "r")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").iterdir()}
    run = begin(tmp_path / "r", resume=True)
    assert run.is_done
    with pytest.raises(UserError, match="open for reading only"):
        run.append_items(frame(0, 1))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "r").iterdir()} == stamps


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"verb": "align"}, "verb differs: the run began with 'audit', got 'align'"),
        (
            {"arguments": {"audit": "crows-pairs", "level": 0.9}},
            "argument 'level' differs: the run began with 0.95, got 0.9",
        ),
        (
            {"arguments": {"audit": "crows-pairs"}},
            "argument 'level' differs: the run began with 0.95, got None",
        ),
        ({"seed": 8}, "seed differs: the run began with 7, got 8"),
        ({"model_hash": "cc"}, "model hash differs: the run began with 'aa', got 'cc'"),
        ({"data_hash": "cc"}, "data hash differs: the run began with 'bb', got 'cc'"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_resuming_refuses_another_command_and_names_the_first_difference(
    tmp_path: Path, changes: dict[str, Any], line: str, finished: bool
) -> None:
    run = begin(tmp_path / "r")
    run.finish("done" if finished else "interrupted")
    before = files(tmp_path / "r")
    with pytest.raises(UserError) as error:
        begin(tmp_path / "r", resume=True, **changes)
    assert str(error.value) == (
        f"{tmp_path / 'r'}: cannot resume, {line};"
        " repeat the command as it was, or choose another --out"
    )
    assert files(tmp_path / "r") == before


def test_resuming_under_another_torch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path / "r").finish("interrupted")
    info = json.loads((tmp_path / "r" / "run.json").read_text())
    info["versions"]["torch"] = "0.1"
    (tmp_path / "r" / "run.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="version of torch differs"):
        begin(tmp_path / "r", resume=True)


def test_where_the_run_is_written_is_no_difference(tmp_path: Path) -> None:
    begin(tmp_path / "r", arguments={"out": "r", "resume": False, "a": 1}).finish("interrupted")
    (tmp_path / "r").rename(tmp_path / "moved")
    arguments = {"out": "moved", "resume": True, "a": 1}
    assert begin(tmp_path / "moved", arguments=arguments, resume=True).status == "running"


def test_time_adds_up_over_sessions(tmp_path: Path) -> None:
    run = begin(tmp_path / "r")
    run.info["seconds"] = 100.0
    run.finish("interrupted")
    info = json.loads((tmp_path / "r" / "run.json").read_text())
    (tmp_path / "r" / "run.json").write_text(json.dumps(info | {"seconds": 100.0}))
    begin(tmp_path / "r", resume=True).finish()
    assert 100.0 <= Run.open(tmp_path / "r").info["seconds"] < 160.0


# --- refusing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty and not a trueup run"):
        begin(tmp_path / "r", resume=resume)
    assert [child.name for child in (tmp_path / "r").iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r").touch()
    with pytest.raises(UserError, match="r: is a file, not a folder; choose another --out"):
        begin(tmp_path / "r")


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("done", "holds a finished run of 'audit'; choose another --out"),
        (
            "interrupted",
            "holds an unfinished run of 'audit'; add --resume to go on, or choose another --out",
        ),
    ],
)
def test_a_run_is_not_overwritten(tmp_path: Path, status: Any, line: str) -> None:
    begin(tmp_path / "r").finish(status)
    with pytest.raises(UserError, match=line):
        begin(tmp_path / "r")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "r: not a trueup run, run.json is missing"),
        ('{"schema": 1,\n  oops}', "run.json:2: broken JSON, Expecting property name"),
        ("[]", "run.json: not written by trueup, 'schema' is missing"),
        ('{"schema": 2}', "run.json: schema 2 is newer than 1, .*; upgrade trueup"),
        ('{"schema": 1, "verb": "audit"}', "run.json: 'arguments' is missing"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, text: str | None, line: str) -> None:
    (tmp_path / "r").mkdir()
    if text is not None:
        (tmp_path / "r" / "run.json").write_text(text)
    with pytest.raises(UserError, match=line) as error:
        Run.open(tmp_path / "r")
    assert "\n" not in str(error.value)


def test_a_missing_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone: no such run folder"):
        Run.open(tmp_path / "gone")


def test_a_run_without_items_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no items\.parquet, the run has measured nothing yet"):
        begin(tmp_path / "r").items()


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    measure_all(tmp_path / "r")
    (tmp_path / "r" / "items.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(UserError, match=r"items\.parquet: not a readable Parquet file"):
        Run.open(tmp_path / "r").items()


def test_rows_without_an_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="items need a column 'id', got step"):
        begin(tmp_path / "r").append_items(pd.DataFrame({"step": [1]}))


# --- endings and secrets --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (InterruptedRun("stopped at step 3"), "interrupted"),
        (ValueError("loss is nan\nat step 3"), "failed"),
    ],
)
def test_an_error_inside_the_block_ends_the_run_and_keeps_its_chunks(
    tmp_path: Path, error: BaseException, status: str
) -> None:
    def broken() -> None:
        with begin(tmp_path / "r") as run:
            run.append_items(frame(0, 3))
            raise error

    with pytest.raises(type(error)):
        broken()
    found = Run.open(tmp_path / "r")
    assert found.status == status
    assert found.info["error"] == str(error).partition("\n")[0]
    assert found.done_ids() == {"p0", "p1", "p2"}
    again = begin(tmp_path / "r", resume=True)
    assert again.status == "running"
    again.finish()
    assert "error" not in Run.open(tmp_path / "r").info


def test_a_canary_in_the_environment_is_found_nowhere_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_API_KEY", "sk-canary-93ab17")
    arguments = {"set": ["url=http://h?k=sk-canary-93ab17"], "api_key": "another-canary"}
    with pytest.raises(ValueError, match="canary"), begin(tmp_path / "r", arguments=arguments):
        raise ValueError("refused: sk-canary-93ab17")
    for path in (tmp_path / "r").rglob("*"):
        assert b"canary" not in path.read_bytes()


def test_versions_are_read_without_importing_anything_heavy() -> None:
    script = (
        "import sys, trueup.runs as r; r._versions();"
        "sys.exit(bool({'torch', 'transformers', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=root).returncode == 0


def test_the_files_have_their_published_schema(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    run = begin(tmp_path / "r")
    run.append_items(frame(0, 6), work={"trunk_tokens": 10, "head_rows": 2})
    run.write_metrics([ESTIMATE])
    run.write_comparison([COMPARISON])
    run.finish(extra={"guards": []})
    volatile: dict[str, tuple[type[Any], ...]] = {
        "started": (str,),
        "ended": (str,),
        "seconds": (float,),
        r"versions\..*": (str,),
    }
    for name in ("run.json", "metrics.json", "compare.json"):
        content = json.loads((tmp_path / "r" / name).read_text())
        assert content == snapshot(name=name, matcher=path_type(volatile, regex=True))
    schema = {name: str(kind) for name, kind in run.items().dtypes.items()}
    assert schema == {"id": "str", "group": "str", "more": "float64", "count": "int64"}


def test_the_comparison_has_the_keys_of_the_design() -> None:
    assert tuple(COMPARISON) == COMPARISON_KEYS


def test_columns_of_two_audits_that_differ_in_type_are_told_apart(tmp_path: Path):
    numbers = pd.DataFrame({"audit": "a", "id": ["1"], "neutral": [0.5], "none": [math.nan]})
    words = pd.DataFrame({"audit": "b", "id": ["1"], "neutral": ["plain"], "more": [1.0]})
    with begin(tmp_path / "run") as run:
        run.append_items(numbers)
        run.append_items(words)
        run.finish("done")
    again = Run.open(tmp_path / "run")
    assert list(again.items("a").columns) == ["audit", "id", "neutral", "none"]
    assert list(again.items("b").columns) == ["audit", "id", "neutral", "more"]
    assert again.items("a")["neutral"].tolist() == [0.5]
    assert again.items("b")["neutral"].tolist() == ["plain"]
