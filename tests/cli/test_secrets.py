from pathlib import Path

import pytest

from tests.cli.conftest import Trueup, write_rows

CANARY = "sk-canary-7f3a9e51c0d24b68"


def test_key_in_the_environment_is_written_nowhere(
    trueup: Trueup, roomy_model: Path, sentences: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    """Run folders, cache, reports, both streams, and the traceback of a crash."""

    def broken(run: object) -> None:
        raise RuntimeError(f"cannot post {run} with {CANARY}")

    monkeypatch.setenv("TRUEUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("HF_TOKEN", f"hf_{CANARY}")
    pairs = write_rows(
        tmp_path / "p.jsonl", [{"prompt": f"{n}", "chosen": "a", "rejected": "b"} for n in range(4)]
    )
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    audit = ["audit", roomy_model, "--audit", "crows-pairs", "--data"]
    align = ["align", roomy_model, "--objective", "sft", "--data", pairs, "--out", tuned]
    shown = []
    for words in (
        [*audit, sentences, "--out", run],
        ["report", run],
        align,
        [*audit, tmp_path / f"{CANARY}.csv"],  # failures that quote what was typed
        ["generate", f"./{CANARY}", "--prompts", pairs],
        ["run", f"{CANARY}.yaml"],
        ["report", run, f"--{CANARY}"],
    ):
        outcome = trueup(*words)
        shown.append(outcome.out + outcome.err)
    monkeypatch.setattr("trueup.report.report_run", broken)
    shown.append(trueup("report", run).err)
    assert "***" in shown[-1]
    assert [text for text in shown if CANARY in text] == []
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.parent.name == "crashes" for path in written)
    assert [path for path in written if CANARY.encode() in path.read_bytes()] == []
