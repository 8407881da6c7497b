"""`trueup select` through the command line."""

from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import Trueup, write_rows
from trueup.data import read


def words(pool: Path, model: Path | str, out: Path, *more: object) -> list[object]:
    wanted = ["--method", "ches", "--model", model, "--keep", "0.75", "--out", out]
    return ["select", pool, *wanted, *more]


def test_select_writes_rows_that_align_reads(
    trueup: Trueup, roomy_model: Path, pairs: Path, tmp_path: Path
):
    out = tmp_path / "chosen"
    outcome = trueup(*words(pairs, roomy_model, out))
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == "15 of 20 rows kept"
    assert lines[1].startswith("kept scores: ")
    assert lines[2].startswith("dropped scores: ")
    assert lines[-2:] == [
        f"selected: {out / 'selected.jsonl'}",
        f"scores: {out / 'scores.parquet'}",
    ]
    names = {"run.json", "items.parquet", "scores.parquet", "selected.jsonl"}
    assert {path.name for path in out.iterdir()} == names
    kept = read(out / "selected.jsonl", "pairs").rows
    assert [row for row in read(pairs, "pairs").rows if row in kept] == kept  # in data order
    tuned = ["align", roomy_model, "--objective", "dpo", "--data", out / "selected.jsonl"]
    assert trueup(*tuned, "--out", tmp_path / "tuned", "--set", "steps=1").code == 0


def test_select_json(trueup: Trueup, roomy_model: Path, pairs: Path, tmp_path: Path):
    out = tmp_path / "chosen"
    more = ("--json", "--set", "length-normalize=false")
    outcome = trueup(*words(pairs, roomy_model, out, *more))
    assert (outcome.code, outcome.err) == (0, "")
    told = outcome.json
    assert list(told) == [
        "schema", "selector", "model", "rows", "kept", "work", "selected", "scores"
    ]  # fmt: skip
    assert (told["selector"], told["rows"], told["kept"]) == ("ches", 20, 15)
    assert pd.read_parquet(told["scores"])["kept"].sum() == 15


def test_keeping_all_drops_nothing(trueup: Trueup, roomy_model: Path, pairs: Path, tmp_path: Path):
    outcome = trueup(*words(pairs, roomy_model, tmp_path / "all", "--keep", "1"))
    assert outcome.out.startswith("20 of 20 rows kept")
    assert "dropped" not in outcome.out


def test_a_finished_folder_is_not_written_again(
    trueup: Trueup, roomy_model: Path, pairs: Path, tmp_path: Path
):
    out = tmp_path / "chosen"
    first = trueup(*words(pairs, roomy_model, out))
    assert "holds a finished run of 'select'" in trueup(*words(pairs, roomy_model, out)).error()
    assert trueup(*words(pairs, roomy_model, out, "--resume")).out == first.out


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--method", "chess"), "error: no selector 'chess'; did you mean 'ches'? known: ches"),
        (("--keep", "1.5"), "error: keep must be above 0 and at most 1, got 1.5"),
        (("--set", "keep=1"), "error: ches has no field 'keep'; known: length_normalize"),
        (("--model", "no/such/model/here"), "error: no/such/model/here: no such model folder"),
    ],
)
def test_what_is_wrong_is_one_line(
    trueup: Trueup, roomy_model: Path, pairs: Path, tmp_path: Path, more: tuple[str], line: str
):
    out = tmp_path / "chosen"
    assert trueup(*words(pairs, roomy_model, out, *more)).error().startswith(line)
    assert not out.exists()


def test_a_wrong_row_is_named_with_its_line(trueup: Trueup, roomy_model: Path, tmp_path: Path):
    pool = write_rows(tmp_path / "p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}])
    line = trueup(*words(pool, roomy_model, tmp_path / "chosen")).error()
    assert line.startswith(f"error: {pool}:1: 'chosen' and 'rejected' are equal")
