import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.stats import proportion
from trueup.training import write_model_card


def test_a_trained_folder_says_what_was_done(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path, lm: LanguageModel
) -> None:
    run("rpo", pairs, steps=2, eval_fraction=0.25)
    card = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head == {
        "library_name": "transformers",
        "base_model": lm.name,
        "tags": ["trueup", "rpo"],
    }
    run_json = json.loads((tmp_path / "out" / "training" / "run.json").read_text())
    assert run_json["status"] == "finished"
    for fact in ("2405.16436", lm.fingerprint, "learning_rate | `0.001`", "eta | `0.005`"):
        assert fact in card
    assert "likelihood-displacement | chosen" in card
    assert "Before and after" not in card


def test_audits_stand_side_by_side(tmp_path: Path) -> None:
    before = [proportion(40, 100, audit="bbq", metric="bias"), proportion(1, 2, metric="only")]
    after = [proportion(10, 100, audit="bbq", metric="bias")]
    path = write_model_card(
        tmp_path,
        method="dpo",
        base_model="base",
        base_fingerprint="f" * 64,
        data_source="prefs.jsonl",
        data_hash="d" * 64,
        rows=7,
        objective={"beta": 0.1},
        settings={},
        before=before,
        after=after,
        notes=["a note"],
    )
    card = path.read_text()
    assert f"| bbq | bias | all | {before[0].numbers()} | {after[0].numbers()} |" in card
    assert f"|  | only | all | {before[1].numbers()} |  |" in card
    assert "- a note" in card
    assert "`prefs.jsonl`, 7 training rows" in card
    assert "## Training" not in card


@pytest.mark.parametrize("text", ["a | b", "two\nlines"])
def test_no_text_breaks_the_table(text: str, tmp_path: Path) -> None:
    path = write_model_card(
        tmp_path,
        method="dpo",
        base_model="base",
        base_fingerprint="",
        data_source=text,
        data_hash="",
        rows=1,
        objective={},
        settings={"field": text},
    )
    rows = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows)


def test_tensorboard_gets_the_numbers(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    run("dpo", pairs, steps=2, trackers=("tensorboard",))
    logs = tmp_path / "out" / "training" / "logs"
    events = [path for path in logs.rglob("events.out.tfevents*") if path.stat().st_size > 0]
    assert events
    assert any(b"grad_norm" in path.read_bytes() for path in events)


def test_an_unknown_tracker_is_refused_before_any_work(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no tracker 'tensorbord'; did you mean 'tensorboard'"):
        run("dpo", pairs, trackers=("tensorbord",))
    with pytest.raises(UserError, match="tracker 'wandb' is not installed"):
        run("dpo", pairs, trackers=("wandb",))
    assert not (tmp_path / "out").exists()
