"""Everything of the issue's section 4: one line, the right exit code, nothing lost."""

import errno
import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Trueup, write_rows, write_sentences
from trueup.cli.session import CRASHED, INTERRUPTED


def align(
    model: Path | str, data: Path, out: Path, *more: object, objective: str = "dpo"
) -> list[object]:
    words = ["align", model, "--objective", objective, "--data", data, "--out", out]
    return [*words, "--set", "batch_size=4", *more]


def audit(model: Path, data: Path, out: Path, *more: object) -> list[object]:
    return ["audit", model, "--audit", "crows-pairs", "--data", data, "--out", out, *more]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_wrong_column(trueup: Trueup, roomy_model: Path, pairs: Path, out: Path):
    pairs.write_text(pairs.read_text("utf-8").replace("rejected", "worst"), "utf-8")
    line = trueup(*align(roomy_model, pairs, out)).error()
    assert line.startswith(f"error: {pairs}:1: 'rejected' is missing")
    assert not out.exists()


def test_broken_json_at_line_17(trueup: Trueup, roomy_model: Path, pairs: Path, out: Path):
    lines = pairs.read_text("utf-8").splitlines()
    lines[16] = '{"prompt": "x", '
    pairs.write_text("\n".join(lines), "utf-8")
    line = trueup(*align(roomy_model, pairs, out)).error()
    assert line.startswith(f"error: {pairs}:17: not valid JSON")
    assert not out.exists()


def test_empty_file(trueup: Trueup, roomy_model: Path, pairs: Path, out: Path):
    pairs.write_text("", "utf-8")
    assert trueup(*align(roomy_model, pairs, out)).error() == f"error: {pairs}: the file is empty"


def test_label_that_is_neither(trueup: Trueup, roomy_model: Path, tmp_path: Path, out: Path):
    rows = [{"prompt": "a", "completion": "b", "label": label} for label in (True, "maybe")]
    data = write_rows(tmp_path / "labels.jsonl", rows)
    line = trueup(*align(roomy_model, data, out, objective="kto")).error()
    assert line == f"error: {data}:2: 'label' must be true or false, got 'maybe'"


def test_chosen_equal_to_rejected(trueup: Trueup, roomy_model: Path, tmp_path: Path, out: Path):
    data = write_rows(tmp_path / "p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}])
    line = trueup(*align(roomy_model, data, out)).error()
    assert line.startswith(f"error: {data}:1: 'chosen' and 'rejected' are equal, got 'b'")


def test_example_longer_than_the_limit(trueup: Trueup, roomy_model: Path, pairs: Path, out: Path):
    limits = ("--set", "truncate=error", "--set", "max_length=10")
    line = trueup(*align(roomy_model, pairs, out, *limits)).error()
    assert line.startswith(f"error: {pairs}:1: prompt and completion have")
    assert not out.exists()  # nothing was made, so the same folder may be named again


def test_prompt_longer_than_the_context(
    trueup: Trueup, tiny_model_folder: Path, tmp_path: Path, out: Path
):
    data = write_rows(tmp_path / "p.jsonl", [{"prompt": "short"}, {"prompt": "x" * 300}])
    line = trueup("generate", tiny_model_folder, "--prompts", data, "--out", out).error()
    assert line.startswith(f"error: {data}:2: the prompt has 301 tokens")
    assert not out.exists()


def test_probe_longer_than_the_context(
    trueup: Trueup, tiny_model_folder: Path, tmp_path: Path, out: Path
):
    data = tmp_path / "c.csv"
    data.write_text(f"id,sent_more,sent_less\n7,{'x' * 300},y\n", "utf-8")
    line = trueup(*audit(tiny_model_folder, data, out)).error()
    assert "crows-pairs, probes 7 to 7" in line
    assert "256" in line
    assert not out.exists()


def test_loss_that_is_not_a_number(trueup: Trueup, roomy_model: Path, pairs: Path, out: Path):
    words = align(roomy_model, pairs, out, "--set", "learning_rate=1e30", "--set", "warmup=0")
    line = trueup(*words).error(CRASHED)
    assert "the loss is nan" in line
    assert "lower learning_rate" in line


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c"])
def test_missing_model_folder(trueup: Trueup, pairs: Path, out: Path, name: str):
    assert "no such model folder" in trueup(*align(name, pairs, out)).error()
    assert not out.exists()


def test_model_folder_without_weights(trueup: Trueup, pairs: Path, tmp_path: Path, out: Path):
    (tmp_path / "model").mkdir()
    assert "no config.json" in trueup(*align(tmp_path / "model", pairs, out)).error()


def test_unknown_objective(trueup: Trueup, roomy_model: Path, pairs: Path, out: Path):
    line = trueup(*align(roomy_model, pairs, out, objective="dpoo")).error()
    assert line.startswith("error: no objective 'dpoo'; did you mean 'dpo'? known: ")


def test_unknown_audit(trueup: Trueup, roomy_model: Path, sentences: Path):
    line = trueup("audit", roomy_model, "--audit", "crow-pairs", "--data", sentences).error()
    assert line.startswith("error: no audit 'crow-pairs'; did you mean 'crows-pairs'?")


def test_unknown_setting_of_align(trueup: Trueup, roomy_model: Path, pairs: Path, out: Path):
    line = trueup(*align(roomy_model, pairs, out, "--set", "bta=0.1")).error()
    assert line.startswith("error: no setting 'bta'; did you mean 'beta'? known to dpo: beta")
    assert "learning_rate" in line


def test_unknown_setting_of_audit(trueup: Trueup, roomy_model: Path, sentences: Path, out: Path):
    line = trueup(*audit(roomy_model, sentences, out, "--set", "lvel=0.9")).error()
    assert (
        line
        == "error: no audit has a field 'lvel'; crows-pairs has ties, level, score, mask_whole_word"
    )


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("beta=many", "dpo.beta must be a number, got 'many'"),
        ("beta=-1", "beta must be above 0, got -1.0"),
        ("epochs=1.5", "training.epochs must be a whole number, got '1.5'"),
        ("beta", "--set needs a name, '=' and a value such as beta=0.1, got 'beta'"),
        ("=1", "--set needs a name, '=' and a value such as beta=0.1, got '=1'"),
    ],
)
def test_setting_with_a_wrong_value(
    trueup: Trueup, roomy_model: Path, pairs: Path, out: Path, setting: str, said: str
):
    line = trueup(*align(roomy_model, pairs, out, "--set", setting)).error()
    assert line == f"error: {said}"


def test_setting_given_twice(trueup: Trueup, roomy_model: Path, pairs: Path, out: Path):
    line = trueup(*align(roomy_model, pairs, out, "--set", "beta=1", "--set", "beta=2")).error()
    assert line == "error: --set beta is given twice, '1' and '2'"


@pytest.mark.parametrize("verb", ["audit", "align", "generate", "compare"])
def test_folder_that_holds_something_else_stays_as_it_is(
    trueup: Trueup, finished_audit: Path, roomy_model: Path, pairs: Path, prompts: Path,
    sentences: Path, out: Path, verb: str
):  # fmt: skip
    out.mkdir()
    (out / "thesis.txt").write_text("precious", "utf-8")
    words = {
        "audit": audit(roomy_model, sentences, out),
        "align": align(roomy_model, pairs, out),
        "generate": ["generate", roomy_model, "--prompts", prompts, "--out", out],
        "compare": ["compare", finished_audit, finished_audit, "--out", out],
    }[verb]
    assert "not empty and not a trueup run, holds 'thesis.txt'" in trueup(*words).error()
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    assert (out / "thesis.txt").read_text("utf-8") == "precious"


def test_finished_run_is_not_written_again(
    trueup: Trueup, finished_audit: Path, roomy_model: Path, sentences: Path
):
    before = (finished_audit / "metrics.json").read_bytes()
    line = trueup(*audit(roomy_model, sentences, finished_audit)).error()
    assert "holds a finished run of 'audit'" in line
    assert (finished_audit / "metrics.json").read_bytes() == before


def test_resuming_with_another_model_is_refused(
    trueup: Trueup, finished_audit: Path, other_model: Path, sentences: Path
):
    line = trueup(*audit(other_model, sentences, finished_audit, "--resume")).error()
    assert "cannot resume, model hash differs" in line


def test_resume_needs_a_folder(trueup: Trueup, roomy_model: Path, sentences: Path):
    words = ("audit", roomy_model, "--audit", "crows-pairs", "--data", sentences, "--resume")
    assert "--resume needs the --out" in trueup(*words).error()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["audti"], "error: no verb 'audti'; did you mean 'audit'? known: "),
        (["synthesize", "model"], "error: no verb 'synthesize'; known: "),
        (["audit"], "error: missing argument 'MODEL'; see trueup audit --help"),
        (
            ["audit", "m"],
            "error: name what to measure: --audit NAME, repeatable, or one --suite NAME",
        ),
        (["--nope"], "error: no such option: --nope; see trueup --help"),
        (
            ["audit", "m", "--sed", "1"],
            "error: no such option: --sed (Possible options: --seed, --set",
        ),
        (["demo", "--seed", "x"], "error: invalid value for '--seed'"),
        (["demo", "--seed", "-1"], "error: invalid value for '--seed'"),
        (["report", "nowhere"], "error: nowhere: no such run folder"),
        (["compare", "x", "y"], "error: x: no such run folder"),
        (["run", "nowhere.yaml"], "error: nowhere.yaml: no such file"),
    ],
)
def test_wrong_command_line(trueup: Trueup, words: list[str], said: str):
    assert trueup(*words).error().startswith(said)


def test_unknown_decoder(trueup: Trueup, roomy_model: Path, prompts: Path):
    words = ("generate", roomy_model, "--prompts", prompts, "--decoder", "dealt")
    assert trueup(*words).error().startswith("error: no decoder 'dealt'; did you mean 'deal'")


def test_data_that_do_not_match_the_audits(trueup: Trueup, roomy_model: Path, sentences: Path):
    words = ["audit", roomy_model]
    words += [word for name in ("bbq", "winogender", "crows-pairs") for word in ("--audit", name)]
    line = trueup(*words, "--data", sentences, "--data", sentences).error()
    assert line.startswith("error: --data is given 2 times for 3 audits")


class FullDisk:
    """The disk is full from the n-th flush on; counting starts at 1."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.count = 0
        self._fsync = os.fsync

    def __call__(self, file: int) -> None:
        self.count += 1
        if self.count >= self.first:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._fsync(file)


@pytest.mark.parametrize("first", [1, 2, 3, 4, 5])
def test_full_disk_while_auditing_loses_nothing(
    trueup: Trueup, finished_audit: Path, roomy_model: Path, sentences: Path, out: Path,
    monkeypatch: pytest.MonkeyPatch, first: int
):  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(first))
        line = trueup(*audit(roomy_model, sentences, out)).error()
    assert "no space left on the device" in line
    again = trueup(*audit(roomy_model, sentences, out, "--resume"))
    assert again.code == 0, again.err
    for name in ("items.parquet", "metrics.json"):
        assert (out / name).read_bytes() == (finished_audit / name).read_bytes()


@pytest.mark.parametrize("first", [1, 4, 9])
def test_full_disk_while_aligning_ends_in_one_line_and_can_be_resumed(
    trueup: Trueup, roomy_model: Path, pairs: Path, out: Path, monkeypatch: pytest.MonkeyPatch,
    first: int
):  # fmt: skip
    words = align(roomy_model, pairs, out, "--set", "save_every=1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(first))
        assert "no space left on the device" in trueup(*words).error()
    again = trueup(*words, "--resume")
    assert again.code == 0, again.err
    assert (out / "model.safetensors").is_file()


def test_disk_error_of_another_library_is_one_line(
    trueup: Trueup, finished_audit: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("trueup.report.report_run", full)
    assert trueup("report", finished_audit).error().startswith("error: no space left")


def test_ctrl_c_says_how_to_go_on(
    trueup: Trueup, finished_audit: Path, roomy_model: Path, tmp_path: Path, out: Path,
    monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    from trueup.audits import CrowsPairs

    data = write_sentences(tmp_path / "long.csv", 300)  # two chunks
    measure, calls = CrowsPairs.measure, []

    def stopped(self: CrowsPairs, model: object, probes: list[object]) -> object:
        calls.append(len(probes))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, model, probes)

    words = audit(roomy_model, data, out)
    with monkeypatch.context() as patch:
        patch.setattr(CrowsPairs, "measure", stopped)
        line = trueup(*words).error(INTERRUPTED)
    again = " ".join(map(str, words))
    assert line == f"interrupted: what was done is kept; go on with: trueup {again} --resume"
    assert json.loads((out / "run.json").read_text("utf-8"))["status"] == "interrupted"
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(CrowsPairs, "measure", lambda *a: calls.append(len(a[2])) or measure(*a))
        assert trueup(*words, "--resume").code == 0
    assert calls == [44]  # the first 256 were kept


def test_unexpected_error_is_one_line_and_a_file(
    trueup: Trueup, finished_audit: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    secret = "sk-canary-0123456789abcdef"

    def broken(*_: object) -> None:
        raise RuntimeError(f"header was {secret}\nsecond line")

    monkeypatch.setenv("OPENAI_API_KEY", secret)
    monkeypatch.setattr("trueup.report.report_run", broken)
    line = trueup("report", finished_audit).error(CRASHED)
    assert line.startswith("error: unexpected RuntimeError: header was ***; the traceback is in ")
    text = Path(line.rpartition(" is in ")[2]).read_text("utf-8")
    assert "Traceback (most recent call last)" in text
    assert "second line" in text
    assert secret not in text
