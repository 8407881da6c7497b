"""What `monitor` measures beside the loss, against plain dense computation."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.selection import Ches
from trueup.training import TrainingConfig
from trueup.training.monitoring import (
    Monitor,
    good_so_far,
    overoptimisation_note,
)

ADDED = ["entropy_bits", "top_k_mass", "chosen_likelihood", "rejected_likelihood"]


def dense(lm: LanguageModel, prompts: list[str], texts: list[str], k: int) -> list[float]:
    """Entropy, mass and likelihood per token: means over rows of means over positions."""
    groups = lm.encoder.groups(prompts, [[text] for text in texts], add_eos=True)
    rows = []
    for group in groups:
        ids = torch.tensor([[*group.prompt, *group.completions[0]]])
        with torch.no_grad():
            logits = lm.model(ids).logits[0, len(group.prompt) - 1 : -1].double()
        p = logits.softmax(-1)
        top = p.sort(dim=-1, descending=True).values[:, :k]
        mass = top.sum(-1)
        q = top / mass[:, None]
        entropy = -(q * q.log2()).sum(-1)
        logps = p.log()[torch.arange(len(p)), ids[0, len(group.prompt) :]]
        rows.append([float(values.mean()) for values in (entropy, mass, logps)])
    means: list[float] = np.mean(rows, axis=0).tolist()
    return means


def test_the_columns_equal_a_dense_computation_before_and_after(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    held, rest = pairs[:4], pairs[4:]
    options = {"eval_rows": held}
    result = run("dpo", rest, steps=4, eval_every=2, monitor=True, monitor_k=3, options=options)
    assert result.evaluations["step"].tolist() == [0, 2, 4]
    for model, row in ((lm, 0), (result.model, 2)):
        prompts = [row["prompt"] for row in held]
        chosen = dense(model, prompts, [row["chosen"] for row in held], 3)
        rejected = dense(model, prompts, [row["rejected"] for row in held], 3)
        found = result.evaluations[ADDED].iloc[row].tolist()
        assert found == pytest.approx([*chosen, rejected[2]], abs=1e-5)


def test_of_labelled_rows_the_ones_labelled_true_are_wanted(
    run: Any, labelled: list[dict[str, Any]], lm: LanguageModel
) -> None:
    rows = run("kto", labelled, steps=1, monitor=True, options={"eval_rows": labelled}).evaluations
    parts = {label: [row for row in labelled if row["label"] is label] for label in (True, False)}
    prompts, texts = (
        {label: [row[name] for row in part] for label, part in parts.items()}
        for name in ("prompt", "completion")
    )
    wanted = dense(lm, prompts[True], texts[True], 10)
    unwanted = dense(lm, prompts[False], texts[False], 10)
    assert rows[ADDED].iloc[0].tolist() == pytest.approx([*wanted, unwanted[2]], abs=1e-5)


def test_one_completion_has_no_unwanted_likelihood(run: Any, pairs: list[dict[str, Any]]) -> None:
    columns = run("sft", pairs, steps=1, eval_fraction=0.3, monitor=True).evaluations.columns
    assert set(ADDED) - set(columns) == {"rejected_likelihood"}


def test_routed_rows_are_measured_under_their_own_heads(
    run: Any, routed: list[dict[str, Any]], lm: LanguageModel
) -> None:
    held = routed[:4]
    options = {"eval_rows": held}
    first = run("mah-dpo", routed[4:], steps=1, monitor=True, options=options).evaluations.iloc[0]
    chosen = dense(lm, [row["prompt"] for row in held], [row["chosen"] for row in held], 10)
    assert first[ADDED[:3]].tolist() == pytest.approx(chosen, abs=5e-2)  # heads start with noise


def test_watching_changes_no_weight(run: Any, pairs: list[dict[str, Any]]) -> None:
    settings = {"steps": 4, "eval_every": 2, "eval_fraction": 0.3}
    quiet = run("dpo", pairs, **settings, out="quiet")
    watched = run("dpo", pairs, **settings, monitor=True, out="watched")
    assert watched.model.fingerprint == quiet.model.fingerprint
    pd.testing.assert_frame_equal(watched.steps, quiet.steps)
    pd.testing.assert_frame_equal(watched.evaluations.drop(columns=ADDED), quiet.evaluations)
    assert not any("over-optimisation" in note for note in quiet.notes)
    assert watched.work.trunk_tokens > quiet.work.trunk_tokens


def test_an_adapter_in_small_passes_measures_the_same(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    held = pairs[:4]
    options = {"eval_rows": held}
    settings = {"steps": 1, "lora_r": 2, "token_budget": 16, "monitor": True}
    first = run("dpo", pairs[4:], **settings, options=options).evaluations.iloc[0]
    chosen = dense(lm, [row["prompt"] for row in held], [row["chosen"] for row in held], 10)
    assert first[ADDED[:3]].tolist() == pytest.approx(chosen, abs=1e-5)


def test_a_head_that_cannot_be_split_off_measures_the_same(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    lm._layout = replace(lm.layout, splits_head=False)
    held = pairs[:4]
    options = {"eval_rows": held}
    first = run("sft", pairs[4:], steps=1, monitor=True, options=options).evaluations.iloc[0]
    chosen = dense(lm, [row["prompt"] for row in held], [row["chosen"] for row in held], 10)
    assert first[ADDED[:3]].tolist() == pytest.approx(chosen, abs=1e-5)


def test_a_model_that_does_not_move_shows_no_sign(run: Any, pairs: list[dict[str, Any]]) -> None:
    result = run(
        "dpo", pairs, steps=6, eval_every=1, eval_fraction=0.3, monitor=True, learning_rate=1e-12
    )
    assert any(note.startswith("over-optimisation: no sign; chosen ") for note in result.notes)


def test_sharpening_a_model_is_seen(run: Any, pairs: list[dict[str, Any]]) -> None:
    same = [{**row, "chosen": "no no no", "rejected": "no"} for row in pairs]
    result = run(
        "sft", same, epochs=20, eval_every=2, eval_fraction=0.3, monitor=True, learning_rate=0.02,
    )  # fmt: skip
    (note,) = [note for note in result.notes if note.startswith("over-optimisation")]
    assert "entropy" in note
    entropies = result.evaluations["entropy_bits"]
    assert entropies.iloc[-1] < entropies.iloc[0] - 0.02


def test_the_note_names_the_step_to_go_back_to() -> None:
    entropies = [1.0, 1.2, 1.4, 1.3, 1.1]
    rows = [
        {"step": 10 * n, "entropy_bits": h, "top_k_mass": 0.9, "chosen_likelihood": -1.0}
        for n, h in enumerate(entropies)
    ]
    assert "entropy turned by 40, best 20" in overoptimisation_note(rows)
    assert "too few" in overoptimisation_note(rows[:2])
    rows[1]["top_k_mass"] = math.nan
    assert "not judged" in overoptimisation_note(rows)


def test_pairs_get_their_displacement_risk(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    result = run("dpo", pairs[4:], steps=1, monitor=True, options={"eval_rows": pairs[:4]})
    (note,) = [note for note in result.notes if note.startswith("displacement risk")]
    scores = Ches().score(lm, pairs[4:])
    assert f"CHES median {np.median(scores):.3g}, 12% of 8 pairs above" in note


def test_monitoring_needs_rows_to_measure(run: Any, pairs: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="monitor measures evaluation rows, but there are none"):
        run("dpo", pairs, steps=1, monitor=True)
    with pytest.raises(UserError, match="monitor_k must be at least 1"):
        run("dpo", pairs, steps=1, monitor_k=0)


def evaluation(step: int, entropy: float, mass: float) -> dict[str, float]:
    return {"step": step, "entropy_bits": entropy, "top_k_mass": mass}


def test_the_last_good_evaluation_is_the_one_that_the_detector_suggests() -> None:
    """Sheet 60, 7e: entropy turns after the fourth evaluation; the sign shows at the sixth."""
    series = [2.0, 2.2, 2.4, 2.5, 2.45, 2.3, 2.1]
    rows = [evaluation(step, entropy, 0.99) for step, entropy in enumerate(series)]
    found = [good_so_far(rows[:end]) for end in range(1, len(rows) + 1)]
    assert [good for good, _ in found] == [True] * 4 + [False] * 3
    assert [stop for _, stop in found] == [0] * 5 + [1] * 2


def test_leaking_mass_ends_training_too() -> None:
    masses = [0.99, 0.985, 0.97, 0.95, 0.92]
    rows = [evaluation(step, 2 + step / 10, mass) for step, mass in enumerate(masses)]
    found = [good_so_far(rows[:end]) for end in range(1, len(rows) + 1)]
    assert [good for good, _ in found] == [True, True, False, False, False]
    assert [stop for _, stop in found] == [0, 0, 0, 1, 1]


def test_training_stops_at_the_sign_and_keeps_the_good_weights(
    run: Any, pairs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The series of 7e in place of what is measured: one evaluation a step, best at step 3."""
    series = iter([2.0, 2.2, 2.4, 2.5, 2.45, 2.3, 2.1, 2.0])
    monkeypatch.setattr(Monitor, "_statistics", lambda *_: (next(series), 0.99))
    settings = {"eval_fraction": 0.25, "eval_every": 1, "monitor": True, "save_every": 2}
    result = run("dpo", pairs, steps=20, monitor_stop=True, out="stopped", **settings)
    assert (result.best_step, len(result.steps)) == (3, 5)
    flat = iter([2.0] * 30)
    monkeypatch.setattr(Monitor, "_statistics", lambda *_: (next(flat), 0.99))
    calm = run("dpo", pairs, steps=5, monitor_stop=True, out="calm", **settings)
    assert (calm.best_step, len(calm.steps)) == (None, 5)
    assert calm.model.fingerprint != result.model.fingerprint


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"monitor_stop": True}, "monitor_stop needs evaluations that are monitored"),
        (
            {"monitor_stop": True, "monitor": True, "eval_every": 1, "early_stopping": 2},
            "give one of them",
        ),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        TrainingConfig(**settings)
