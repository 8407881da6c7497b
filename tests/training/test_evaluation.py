from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.training.guards import guards
from trueup.training.monitors import measure_names, measures


def test_evaluation_numbers_are_those_of_plain_scores(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    held, rest = pairs[:4], pairs[4:]
    result = run("dpo", rest, steps=6, eval_every=2, options={"eval_rows": held})
    prompts = [row["prompt"] for row in held]
    texts = [[row["chosen"], row["rejected"]] for row in held]
    before = np.array(lm.score(prompts, texts, add_eos=True).logps)
    after = np.array(result.model.score(prompts, texts, add_eos=True).logps)
    items = result.items
    sides = ["chosen_before", "rejected_before", "chosen_after", "rejected_after"]
    expected = np.hstack([before, after])
    assert items[sides].to_numpy() == pytest.approx(expected, abs=1e-4)
    change = after - before
    margin = change[:, 0] - change[:, 1]
    assert items["margin"].tolist() == pytest.approx(margin, abs=1e-4)
    assert result.evaluations["step"].tolist() == [0, 2, 4, 6]
    last = result.evaluations.iloc[-1]
    assert last["loss"] == pytest.approx(np.log1p(np.exp(-0.1 * margin)).mean(), abs=1e-5)
    assert last["margin"] == pytest.approx(margin.mean(), abs=1e-4)
    assert last["chosen_change"] == pytest.approx(change[:, 0].mean(), abs=1e-4)
    assert last["accuracy"] == (margin > 0).mean()


def test_before_training_nothing_has_changed(run: Any, pairs: list[dict[str, Any]]) -> None:
    first = run("dpo", pairs, steps=1, eval_fraction=0.25).evaluations.iloc[0]
    assert first["loss"] == pytest.approx(0.6931471806, abs=1e-6)
    assert abs(first["margin"]) < 1e-4


def test_training_measures_equal_those_of_plain_scores(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    steps = run("sft", pairs, steps=1, batch_size=12).steps
    scores = lm.score(
        [row["prompt"] for row in pairs], [[row["chosen"]] for row in pairs], add_eos=True
    )
    logps = np.array(scores.logps)[:, 0]
    lengths = np.array(scores.lengths)[:, 0]
    assert steps["logps"][0] == pytest.approx(logps.mean(), abs=1e-3)
    assert steps["mean_token_logps"][0] == pytest.approx((logps / lengths).mean(), abs=1e-5)
    assert steps["loss"][0] == pytest.approx(-logps.sum() / lengths.sum(), abs=1e-5)


def test_measures_without_rows_of_a_class_are_nan() -> None:
    batch = {
        "logps": torch.tensor([-3.0, -4.0]),
        "ref_logps": torch.tensor([-5.0, -5.0]),
        "labels": torch.tensor([True, True]),
    }
    names = measure_names("labelled", has_reference=True)
    table = measures("labelled", batch)
    assert names == ["logps", "true_change", "false_change"]
    assert table[:, 1].tolist() == [2.0, 1.0]
    assert table[:, 2].isnan().all()


def test_early_stopping_stops_and_keeps_the_best_weights(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path, lm: LanguageModel
) -> None:
    """Too high a rate: the loss on held-out rows falls at first and then rises."""
    held, rest = pairs[:4], pairs[4:]
    result = run(
        "sft",
        rest,
        epochs=40,
        learning_rate=0.02,
        schedule="constant",
        warmup=0.0,
        eval_every=1,
        early_stopping=3,
        options={"eval_rows": held},
    )
    losses = result.evaluations.set_index("step")["loss"]
    assert result.best_step == losses.idxmin()
    assert len(result.steps) == result.best_step + 3 < 80
    assert result.best_step > 0
    kept = load(tmp_path / "out", device="cpu")
    scores = kept.score(
        [row["prompt"] for row in held], [[row["chosen"]] for row in held], add_eos=True
    )
    loss = -np.sum(scores.logps) / np.sum(scores.lengths)
    assert loss == pytest.approx(losses.min(), abs=1e-5)
    assert result.items["after"].to_numpy() == pytest.approx(np.array(scores.logps)[:, 0], abs=1e-4)


def test_training_that_only_harms_keeps_the_model_as_it_was(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs[:4]]
    result = run(
        "dpo",
        pairs[4:],
        steps=6,
        eval_every=1,
        early_stopping=2,
        options={"eval_rows": turned},
    )
    assert result.best_step == 0
    assert len(result.steps) == 2
    assert result.model.fingerprint == lm.fingerprint


def test_evaluations_need_rows(run: Any, pairs: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="eval_every is 2, but there are no evaluation rows"):
        run("dpo", pairs, eval_every=2)


def test_without_evaluation_rows_no_guard_is_claimed(run: Any, pairs: list[dict[str, Any]]) -> None:
    result = run("dpo", pairs, steps=1)
    assert result.guards == []
    assert result.evaluations.empty
    assert any("no guards were measured" in note for note in result.notes)


def test_guards_of_pairs() -> None:
    items = pd.DataFrame(
        {
            "chosen_before": [-10.0, -20.0, -30.0, -40.0],
            "chosen_after": [-12.0, -23.0, -31.0, -42.0],
            "rejected_before": [-10.0] * 4,
            "rejected_after": [-20.0, -20.0, -20.0, -9.0],
            "margin": [8.0, 7.0, 9.0, -3.0],
        }
    )
    fell, lost, won = guards("pairs", items)
    assert (fell.metric, fell.slice, fell.ideal) == ("likelihood-displacement", "chosen", 0.0)
    assert fell.value == pytest.approx((-2 - 3 - 1 - 2) / 4, abs=1e-12)
    assert fell.low < fell.value < fell.high < 0
    assert (lost.slice, lost.n) == ("rejected", 4)
    assert (won.metric, won.value, won.n) == ("positive-margin", 0.75, 4)
    assert won.low < 0.75 < won.high


def test_guards_of_an_untrained_model_find_nothing(run: Any, pairs: list[dict[str, Any]]) -> None:
    result = run("dpo", pairs, steps=1, eval_fraction=0.5, learning_rate=1e-12)
    displaced = result.guards[0]
    assert abs(displaced.value) < 1e-4
    assert result.guards[-1].metric == "positive-margin"


def test_one_evaluation_row_has_no_interval() -> None:
    items = pd.DataFrame({"before": [-3.0], "after": [-2.0]})
    (guard,) = guards("completions", items)
    assert guard.value == 1.0
    assert np.isnan([guard.low, guard.high]).all()


def test_labelled_guards_look_at_each_class(run: Any, labelled: list[dict[str, Any]]) -> None:
    result = run("kto", labelled, steps=8, eval_fraction=0.5)
    assert [guard.slice for guard in result.guards] == ["true", "false"]
    assert sum(guard.n for guard in result.guards) == len(result.items)


def test_the_progress_tells_step_loss_and_time(run: Any, pairs: list[dict[str, Any]]) -> None:
    told: list[Any] = []
    result = run("dpo", pairs, steps=3, options={"progress": told.append})
    assert told[0].stage == "reference"
    training = [report for report in told if report.stage == "training"]
    assert [report.step for report in training] == [1, 2, 3]
    assert {report.steps for report in training} == {3}
    assert [report.loss for report in training] == result.steps["loss"].tolist()
    assert training[-1].eta_seconds == 0
    assert all(report.eta_seconds >= 0 for report in training)
