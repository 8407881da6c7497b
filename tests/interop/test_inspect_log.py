"""Real logs of inspect_ai 0.3.285 (`.eval` under Zstandard), and small ones made by hand."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.interop.foreign_files import DATA, inspect_log, inspect_sample, write_inspect
from trueup.errors import UserError
from trueup.interop import ForeignLog, read_log
from trueup.interop.inspect_log import ZSTANDARD, _archive


def numbers(log: ForeignLog) -> dict[str, float]:
    (task,) = log.tasks
    return {row.metric: row.value for row in task.estimate(log.tables[task.name])}


@pytest.mark.parametrize("name", ["before.eval", "after.eval"])
def test_totals_are_those_that_inspect_wrote(name: str):
    header, _ = _archive(DATA / name)
    written = {
        score["name"]: next(iter(score["metrics"].values()))["value"]
        for score in header["results"]["scores"]
    }
    found = numbers(read_log(DATA / name))
    expected = {"match": "match", "length": "length", "two/a": "a", "two/b": "b"}
    assert found == {ours: pytest.approx(written[name]) for ours, name in expected.items()}


def test_real_logs_are_packed_as_this_python_cannot_unpack():
    with zipfile.ZipFile(DATA / "before.eval") as archive:
        assert {info.compress_type for info in archive.infolist()} == {ZSTANDARD}


@pytest.mark.parametrize("suffix", [".json", ".eval"])
def test_every_form_of_a_log_gives_the_same_items(tmp_path: Path, suffix: str):
    header, rows = _archive(DATA / "before.eval")
    file = write_inspect(tmp_path / f"log{suffix}", header | {"samples": [*rows]})
    real = read_log(DATA / "before.eval")
    assert read_log(file).tables["sums"].equals(real.tables["sums"])
    assert read_log(file).model == real.model == "mockllm/model"


def test_epochs_are_repeated_measurements_of_one_cluster():
    table = read_log(DATA / "before.eval").tables["sums"]
    assert table.groupby("cluster").size().tolist() == [2, 2, 2]
    assert table["id"].is_unique


def test_ids_of_messages_are_no_content(tmp_path: Path):
    # the maker gives every message a random id, another one in every epoch
    samples = [inspect_sample(1, epoch=epoch, match="C") for epoch in (1, 2)]
    table = read_log(write_inspect(tmp_path / "log.json", inspect_log(samples))).tables["asking"]
    assert table["cluster"].nunique() == 1
    assert table["input"].tolist() == ["Ask 1", "Ask 1"]


@pytest.mark.parametrize(
    ("value", "number"),
    [("C", 1), ("P", 0.5), ("I", 0), ("N", 0), (True, 1), ("Yes", 1), ("false", 0), ("0.75", 0.75),
     (3, 3)],
)  # fmt: skip
def test_grades_are_read_as_inspect_reads_them(tmp_path: Path, value: Any, number: float):
    samples = [inspect_sample(1, own=value), inspect_sample(2, own="C")]
    log = read_log(write_inspect(tmp_path / "log.eval", inspect_log(samples)))
    assert numbers(log) == {"own": (number + 1) / 2}


@pytest.mark.parametrize("value", ["A-", [1, 0]])
def test_score_that_is_no_number_is_left_out(tmp_path: Path, value: Any):
    samples = [inspect_sample(n, own=value, match="C") for n in range(3)]
    log = read_log(write_inspect(tmp_path / "log.json", inspect_log(samples)))
    assert list(numbers(log)) == ["match"]
    assert log.notes == (f"asking: own is left out, its {value!r} is no number",)


def test_sample_without_a_score_does_not_count(tmp_path: Path):
    samples = [inspect_sample(n, match="C") for n in range(3)] + [inspect_sample(3)]
    log = read_log(write_inspect(tmp_path / "log.json", inspect_log(samples)))
    (task,) = log.tasks
    (estimate,) = task.estimate(log.tables["asking"])
    assert estimate.n == 3
    assert task.notes(log.tables["asking"]) == ["asking: 1 samples have no score"]


def test_same_prompt_under_several_ids_is_several_items(tmp_path: Path):
    samples = [inspect_sample(n, match="C") for n in range(4)]
    for sample in samples[:2]:
        sample |= {"input": "Do the task.", "target": ""}
    table = read_log(write_inspect(tmp_path / "log.json", inspect_log(samples))).tables["asking"]
    assert table["id"].is_unique
    assert set(table["cluster"]) == {""}


def test_numbers_without_grades_are_told_to_be_better_when_higher(tmp_path: Path):
    samples = [inspect_sample(n, match="C", harm=0.25) for n in range(3)]
    log = read_log(write_inspect(tmp_path / "log.json", inspect_log(samples)))
    assert log.notes == ("asking: more is taken to be better of harm",)


def test_epochs_that_the_log_joins_in_another_way_are_told(tmp_path: Path):
    about = inspect_log([])["eval"] | {"config": {"epochs_reducer": ["max"]}}
    log = inspect_log([inspect_sample(1, match="C")], eval=about)
    told = read_log(write_inspect(tmp_path / "log.json", log)).notes
    assert told == ("asking: the log joins epochs by max; here each one counts",)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_log(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("status", ["error", "cancelled", "started"])
def test_evaluation_that_did_not_succeed_is_refused(tmp_path: Path, status: str):
    log = inspect_log([inspect_sample(1, match="C")], status=status)
    said = refusal(write_inspect(tmp_path / "log.eval", log))
    assert f"the evaluation is {status!r}, not 'success'" in said


def test_archive_without_header_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as archive:
        archive.writestr("_journal/start.json", "{}")
    assert "has no header.json; the evaluation did not finish" in refusal(tmp_path / "log.eval")


def test_damaged_archive_is_one_line(tmp_path: Path):
    file = Path(shutil.copy(DATA / "before.eval", tmp_path / "log.eval"))
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo("samples/1_epoch_1.json")
    data = bytearray(file.read_bytes())
    data[info.header_offset + 500] ^= 0xFF
    file.write_bytes(data)
    assert "samples/1_epoch_1.json is damaged" in refusal(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "no log of inspect_ai, which is one JSON object"),
        ('{"a": 1}', "no log of inspect_ai, whose 'eval' names the task and the model"),
        (json.dumps(inspect_log([])), "no score can be read; it has none"),
    ],
)
def test_file_that_is_no_log_is_one_line(tmp_path: Path, text: str, said: str):
    file = tmp_path / "log.json"
    file.write_text(text)
    assert said in refusal(file)


def test_folder_of_several_logs_is_refused(tmp_path: Path):
    for name in ("a.eval", "b.eval"):
        shutil.copy(DATA / "before.eval", tmp_path / name)
    assert "holds 2 inspect logs; give one, as a.eval" in refusal(tmp_path)
