"""`trueup generate --decoder`: chains, rewards, documents, runs, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Trueup


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    rows = [
        {"id": n, "prefix": "Facts: ", "docs": ["A is b. ", f"C is {n}. "], "suffix": "What is A?"}
        for n in range(2)
    ]
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def words_of(model: Path, prompts: Path, *more: object) -> tuple[object, ...]:
    short = ("--max-new-tokens", 6, "--device", "cpu")
    return ("generate", model, "--prompts", prompts, *short, *more)


def test_help_lists_the_decoders(trueup: Trueup, snapshot):
    assert trueup("generate", "m", "--prompts", "p", "--decoder", "help").out == snapshot


def test_best_of_n_tells_scores_and_rewards(trueup: Trueup, roomy_model: Path, prompts: Path):
    chosen = ("--decoder", "best-of-n", "--reward", "words", "--set", "candidates=4")
    [first, *_] = rows = lines(trueup(*words_of(roomy_model, prompts, *chosen)).out)
    assert first["settings"]["decoders"] == {"best-of-n": {"candidates": 4, "weights": None}}
    pool = lines(trueup(*words_of(roomy_model, prompts, "--n", 4)).out)
    for row in rows:
        own = [len(one["text"].split()) for one in pool if one["prompt"] == row["prompt"]]
        assert row["score"] == row["rewards"]["words"] == max(own)


def test_several_rewards_are_weighed_by_name(trueup: Trueup, roomy_model: Path, prompts: Path):
    chosen = ("--decoder", "deal", "--reward", "long=words", "--reward", "short=max-words:2")
    fields = ("--set", "weights=1,0.5", "--set", "lookahead=2", "--set", "top_k=2")
    rows = lines(trueup(*words_of(roomy_model, prompts, *chosen, *fields)).out)
    for row in rows:
        total = row["rewards"]["long"] + 0.5 * row["rewards"]["short"]
        assert row["score"] == pytest.approx(row["logp"] + total, abs=1e-4)


def test_a_run_keeps_the_search_and_goes_on(
    trueup: Trueup, roomy_model: Path, prompts: Path, tmp_path: Path
):
    chosen = ("--decoder", "deal", "--reward", "words", "--set", "lookahead=2")
    words = words_of(roomy_model, prompts, *chosen)
    told = trueup(*words, "--out", tmp_path / "g").out
    assert told.splitlines()[-1] == f"report: {tmp_path / 'g' / 'report.html'}"
    kept = (tmp_path / "g" / "samples.jsonl").read_text("utf-8")
    assert kept == trueup(*words).out
    assert "trace" not in lines(kept)[0]
    trueup(*words, "--out", tmp_path / "g", "--resume")
    assert (tmp_path / "g" / "samples.jsonl").read_text("utf-8") == kept
    said = trueup(*words, "--set", "lam=2", "--out", tmp_path / "g", "--resume").error()
    assert "lam" in said or "decoders" in said


def test_documents_are_read_as_a_set(
    trueup: Trueup, roomy_model: Path, documents: Path, tmp_path: Path
):
    words = words_of(roomy_model, documents, "--decoder", "pine", "--temperature", 0)
    found = [row["text"] for row in lines(trueup(*words).out)]
    swapped = tmp_path / "swapped.jsonl"
    rows = [json.loads(line) for line in documents.read_text().splitlines()]
    swapped.write_text("".join(json.dumps(r | {"docs": r["docs"][::-1]}) + "\n" for r in rows))
    words = words_of(roomy_model, swapped, "--decoder", "pine", "--temperature", 0)
    assert [row["text"] for row in lines(trueup(*words).out)] == found


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--decoder", "deal"), "deal needs a reward, got none; give --reward"),
        (("--reward", "words"), "sample reads no reward, got words"),
        (("--decoder", "deal+urial", "--reward", "words"), "in this order; got deal (search)"),
        (("--decoder", "deal", "--reward", "no-such"), "no-such"),
        (("--decoder", "deal", "--reward", "words", "--set", "lamb=1"), "no field 'lamb'"),
        (("--decoder", "pine"), "no document stands between <doc> and </doc>"),
        (("--decoder", "deal", "--reward", "FILE:nan"), "reward FILE:nan must be finite, got nan"),
        (("--decoder", "best-of-n", "--reward", "FILE:bad"), "1 / 0"),
    ],
)
def test_errors(
    trueup: Trueup, roomy_model: Path, prompts: Path, tmp_path: Path, more: tuple[str, ...], said
):
    path = tmp_path / "rewards.py"
    path.write_text(
        "def nan(prompts, completions):\n    return [float('nan')] * len(prompts)\n\n\n"
        "def bad(prompts, completions):\n    raise ValueError('1 / 0')\n"
    )
    told = trueup(*words_of(roomy_model, prompts, *(w.replace("FILE", str(path)) for w in more)))
    line = told.error()
    assert said.replace("FILE", str(path)) in line
    assert "\n" not in line


def test_errors_name_the_prompt(trueup: Trueup, roomy_model: Path, prompts: Path, tmp_path: Path):
    path = tmp_path / "reward.py"
    path.write_text("def reward(prompts, completions):\n    return [float('nan')] * len(prompts)\n")
    words = words_of(roomy_model, prompts, "--decoder", "best-of-n", "--reward", f"{path}:reward")
    assert trueup(*words).error().startswith(f"error: {prompts}:1: reward ")
