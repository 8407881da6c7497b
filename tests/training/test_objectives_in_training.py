"""What the engine hands to objectives, against numbers made apart from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.models.multi_head import MultiHead
from trueup.objectives import OBJECTIVES, Needs
from trueup.training import TrainingConfig
from trueup.training.batches import Plan

ROWS = {
    name: name
    for name in ("pairs", "routed", "anchored", "traces", "labelled", "completions", "scored")
}
OFFLINE = sorted(
    name
    for name, kind in OBJECTIVES.items()
    if kind.data in ROWS and not hasattr(kind, "source") and not kind.needs.teacher
)


@dataclass(frozen=True)
class Probe:
    """Keeps the batches that it is given; its loss is the mean log-probability."""

    seen: list[dict[str, Tensor]]
    name: ClassVar[str] = "probe"
    data: ClassVar[str] = "labelled"
    needs: ClassVar[Needs] = Needs(reference=True, mismatched=True)
    arxiv: ClassVar[str] = ""

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        self.seen.append({name: value.detach() for name, value in batch.items()})
        return -batch["logps"]

    def weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        return batch["lengths"]


@pytest.mark.parametrize("name", OFFLINE)
def test_every_objective_trains(name: str, run: Any, request: pytest.FixtureRequest) -> None:
    rows = request.getfixturevalue(ROWS[OBJECTIVES[name].data])
    result = run(name, rows, steps=12, eval_fraction=0.25, schedule="constant", warmup=0.0)
    losses = result.evaluations["loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    assert np.isfinite(result.steps.drop(columns="false_change", errors="ignore")["loss"]).all()


def test_kto_z0_is_the_mean_over_mismatched_rows(
    lm: LanguageModel, run: Any, labelled: list[dict[str, Any]]
) -> None:
    """Training from a reference that differs: z0 of step 1 from plain scores of both models."""
    other = run("sft", [dict(row, label=True) for row in labelled], out="other", steps=6).model
    batch = Plan.of(len(labelled), TrainingConfig(batch_size=4)).batch(0)
    prompts = [labelled[index]["prompt"] for index in batch]
    texts = [[labelled[batch[(place + 1) % 4]]["completion"]] for place in range(4)]
    sums = [
        np.array(model.score(prompts, texts, add_eos=True).logps)[:, 0] for model in (other, lm)
    ]
    expected = max(0.0, float((sums[0] - sums[1]).mean()))
    steps = run("kto", labelled, model=other, options={"reference": lm}, steps=1).steps
    assert expected > 0
    assert steps["kl"].iloc[0] == pytest.approx(expected, abs=1e-4)


def test_z0_of_equal_policy_and_reference_is_0(run: Any, labelled: list[dict[str, Any]]) -> None:
    steps = run("kto", labelled, steps=1).steps
    assert steps["kl"].iloc[0] == pytest.approx(0.0, abs=1e-4)
    assert steps["loss"].iloc[0] == pytest.approx(0.5, abs=1e-5)


def test_z0_of_a_batch_of_one_is_0(run: Any, labelled: list[dict[str, Any]]) -> None:
    assert run("kto", labelled, batch_size=1, steps=5).steps["kl"].tolist() == [0.0] * 5


def test_the_canonical_batch(run: Any, lm: LanguageModel, labelled: list[dict[str, Any]]) -> None:
    probe = Probe([])
    steps = run(probe, labelled, batch_size=12, steps=1, shuffle=False).steps
    (batch,) = probe.seen
    expected = lm.score(
        [row["prompt"] for row in labelled],
        [[row["completion"]] for row in labelled],
        add_eos=True,
    )
    logps = np.array(expected.logps)[:, 0]
    lengths = np.array(expected.lengths)[:, 0]
    assert sorted(batch["logps"].tolist()) == pytest.approx(sorted(logps), abs=1e-4)
    assert batch["mask"].sum(1).tolist() == batch["lengths"].tolist()
    weighted = -(logps * lengths).sum() / lengths.sum()
    assert steps["loss"].iloc[0] == pytest.approx(weighted, abs=1e-4)
    assert torch.equal(batch["token_logps"] != 0, batch["mask"])


@pytest.mark.parametrize("name", ["bco", "mah-dpo"])
def test_a_joint_objective_does_not_depend_on_how_the_batch_is_cut(
    name: str, run: Any, request: pytest.FixtureRequest
) -> None:
    rows = request.getfixturevalue(ROWS[OBJECTIVES[name].data])
    whole, cut = (
        run(name, rows, out=str(budget), token_budget=budget, steps=4, batch_size=6)
        for budget in (10_000, 1)
    )
    assert list(cut.steps["loss"]) == pytest.approx(list(whole.steps["loss"]), abs=1e-5)


def test_a_pair_trains_its_own_head_only(
    run: Any, routed: list[dict[str, Any]], lm: LanguageModel, tmp_path: Path
) -> None:
    """One step on one pair of "helpful": the head of "brief" is as it was drawn."""
    rows = sorted(routed, key=lambda row: row["objective"], reverse=True)
    run("mah-dpo", rows, out="out", steps=1, batch_size=1, shuffle=False)
    generator = torch.Generator().manual_seed(TrainingConfig().seed)
    before = MultiHead.started(lm, ["brief", "helpful"], noise=1e-3, generator=generator)
    after = MultiHead.load(tmp_path / "out")
    assert after.names == before.names
    brief, helpful = (
        torch.equal(one, other) for one, other in zip(before.weights, after.weights, strict=True)
    )
    assert brief
    assert not helpful


def test_heads_are_mixed_when_the_model_is_loaded(
    run: Any, routed: list[dict[str, Any]], tmp_path: Path
) -> None:
    run("mah-dpo", routed, out="out", steps=4)
    mixed, even, one = (
        load(tmp_path / "out", device="cpu", heads=heads).score(["a"], [["b"]]).logps[0][0]
        for heads in (None, {"brief": 0.5, "helpful": 0.5}, {"brief": 1.0})
    )
    assert mixed == pytest.approx(even, abs=1e-5)
    assert one != pytest.approx(mixed, abs=1e-4)
    with pytest.raises(UserError, match=r"no head 'honest'.*known: brief, helpful"):
        load(tmp_path / "out", heads={"honest": 1.0})


def test_poft_weighs_rows_by_the_scoring_models(run: Any, scored: list[dict[str, Any]]) -> None:
    """Rows whose scores equal the policy's own start at ln 2, and half of the gradient of sft."""
    steps = run("poft", scored, steps=1, batch_size=12).steps
    assert np.isfinite(steps["loss"].iloc[0])
    own = run("sft", scored, out="sft", steps=1, batch_size=12, learning_rate=1e-9)
    rows = [
        {**row, "mean_ref_logp": float(value)}
        for row, value in zip(
            scored,
            own.model.score(
                [row["prompt"] for row in scored],
                [[row["completion"]] for row in scored],
                add_eos=True,
            ).token_logps,
            strict=True,
        )
        for value in [np.mean(value[0])]
    ]
    steps = run("poft", rows, out="own", steps=1, batch_size=12).steps
    assert steps["loss"].iloc[0] == pytest.approx(np.log(2), abs=1e-5)


def test_bco_weighs_bad_answers_by_their_density(run: Any, labelled: list[dict[str, Any]]) -> None:
    """Policy and reference are equal at step 1, so each loss is its weight times ln 2."""
    rows = [dict(row, density_weights=1.0 if row["label"] else 3.0) for row in labelled]
    weighted, plain, absent = (
        run("bco", data, out=out, steps=3, batch_size=12).steps["loss"]
        for out, data in (
            ("weighted", rows),
            ("plain", labelled),
            ("absent", [row | ({"density_weights": None} if row["label"] else {}) for row in rows]),
        )
    )
    assert plain.iloc[0] == pytest.approx(np.log(2), abs=1e-5)
    assert weighted.iloc[0] == pytest.approx((6 * 1 + 6 * 3) / 12 * np.log(2), abs=1e-5)
    assert list(absent) == list(weighted)
    assert weighted.iloc[-1] < weighted.iloc[0]


@pytest.mark.parametrize("value", ["many", -1.0, float("nan"), float("inf"), [1]])
def test_a_density_weight_that_is_none_is_told_with_its_row(
    run: Any, labelled: list[dict[str, Any]], value: object
) -> None:
    labelled[3]["density_weights"] = value
    with pytest.raises(UserError, match="4: 'density_weights' must be a number from 0 up, got"):
        run("bco", labelled)


def tokens(lm: LanguageModel, rows: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    groups = lm.encoder.groups(
        [row["prompt"] for row in rows], [[row["completion"]] for row in rows], add_eos=True
    )
    return [(group.prompt, group.completions[0][:-1]) for group in groups]


def test_examples_of_one_prompt_share_a_row(
    run: Any, lm: LanguageModel, pairs: list[dict[str, Any]]
) -> None:
    """Both answers of a prompt with their labels cost what the pair does, and keep their losses."""
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs
        for side in ("chosen", "rejected")
    ]
    labelled = run("bco", rows, out="labelled", steps=1, batch_size=24, shuffle=False)
    paired = run("dpo", pairs, out="paired", steps=1, batch_size=12, shuffle=False)
    assert labelled.work.trunk_tokens <= paired.work.trunk_tokens
    apart = sum(len(p) + len(c) for p, c in tokens(lm, rows))
    assert labelled.work.trunk_tokens < 2 * 0.8 * apart  # policy and reference
    scores = lm.score(
        [row["prompt"] for row in rows], [[row["completion"]] for row in rows], add_eos=True
    )
    mean = np.mean([row[0] for row in scores.logps])
    assert labelled.steps["logps"].iloc[0] == pytest.approx(mean, abs=1e-4)
