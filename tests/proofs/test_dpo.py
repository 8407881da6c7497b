"""DPO, cDPO, robust and length-normalised DPO: sheet 00's numbers, identities and optimum."""

import math

import pytest
import torch

from tests.proofs import displacement_toy as toy
from tests.proofs.chain_world import ChainWorld
from tests.proofs.dpo_family import (
    BATCH,
    BETA,
    MARGIN,
    SUMS,
    is_close,
    leaves,
    row,
    slopes,
    swapped,
)
from tests.proofs.trl_peer import dpo_trainer_loss
from trueup.objectives.dpo import DPO, dpo_loss, length_normalized_dpo_loss, robust_dpo_loss
from trueup.worlds.enumerable import EnumerableWorld

DPO_VALUES = (0.644396660, 0.811962002, 0.632599035, 0.464711755)
WORLD = EnumerableWorld(
    rewards=torch.tensor([0.9, 0.1, -0.4, 0.3]), ref_logits=torch.tensor([0.2, -0.6, 0.8, 0.0])
)


def test_dpo_is_the_sheets() -> None:
    losses = dpo_loss(**SUMS, beta=BETA)
    assert is_close(losses, *DPO_VALUES)
    assert is_close(losses.mean(), 0.638417363)


def test_smoothed_dpo_is_the_sheets() -> None:
    losses = dpo_loss(**SUMS, beta=BETA, label_smoothing=0.1)
    assert is_close(losses, 0.654396660, 0.789462002, 0.645099035, 0.517211755)
    assert is_close(losses.mean(), 0.651542363)


def test_robust_dpo_is_the_sheets() -> None:
    losses = robust_dpo_loss(**SUMS, beta=BETA, label_smoothing=0.1)
    assert is_close(losses, 0.631896660, 0.840087002, 0.616974035, 0.399086755)
    assert is_close(losses.mean(), 0.622011113)


def test_length_normalised_dpo_is_the_sheets() -> None:
    losses = length_normalized_dpo_loss(**BATCH, beta=2)
    assert is_close(losses, 0.605676032, 0.798138869, 0.549054862, 0.565070668)
    assert is_close(losses.mean(), 0.629485108)


@pytest.mark.parametrize(
    ("settings", "mean"),
    [
        ({}, 0.638417363),
        ({"label_smoothing": 0.1}, 0.651542363),
        ({"label_smoothing": 0.1, "robust": True}, 0.622011113),
        ({"beta": 2.0, "length_normalized": True}, 0.629485108),
    ],
)
def test_fields_choose_the_formula(settings: dict[str, float], mean: float) -> None:
    assert is_close(DPO(**settings).loss(BATCH).mean(), mean)


def test_a_wrong_sign_is_seen() -> None:
    losses = dpo_loss(**swapped(SUMS), beta=BETA)
    assert not is_close(losses, *DPO_VALUES, tolerance=0.01)


def test_both_labels_differ_by_the_scaled_margin() -> None:
    there, back = dpo_loss(**SUMS, beta=BETA), dpo_loss(**swapped(SUMS), beta=BETA)
    assert torch.allclose(there - back, -BETA * MARGIN, atol=1e-15)


def test_half_smoothing_forgets_the_label() -> None:
    there = dpo_loss(**SUMS, beta=BETA, label_smoothing=0.5)
    back = dpo_loss(**swapped(SUMS), beta=BETA, label_smoothing=0.5)
    assert torch.allclose(there, back, atol=1e-15)


def test_robust_loss_averaged_over_flips_is_dpo() -> None:
    there = robust_dpo_loss(**SUMS, beta=BETA, label_smoothing=0.3)
    back = robust_dpo_loss(**swapped(SUMS), beta=BETA, label_smoothing=0.3)
    assert torch.allclose(0.7 * there + 0.3 * back, dpo_loss(**SUMS, beta=BETA), atol=1e-14)


def test_a_constant_on_both_policy_sums_changes_nothing() -> None:
    moved = SUMS | {
        "chosen_logps": SUMS["chosen_logps"] - 7,
        "rejected_logps": SUMS["rejected_logps"] - 7,
    }
    assert torch.allclose(dpo_loss(**moved, beta=BETA), dpo_loss(**SUMS, beta=BETA), atol=1e-14)


def test_the_reference_itself_costs_ln_two() -> None:
    same = {name: SUMS[name.replace("ref_", "")] for name in SUMS}
    assert is_close(dpo_loss(**same, beta=BETA), *[math.log(2)] * 4, tolerance=1e-15)


def test_extreme_margins_stay_finite() -> None:
    far = SUMS | {"chosen_logps": SUMS["chosen_logps"] - row(1e6, -1e6, 0, 1e4)}
    batch = leaves(far)
    loss = dpo_loss(**batch, beta=BETA)
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(s).all() for s in slopes(loss, batch["chosen_logps"]))


@pytest.mark.parametrize("formula", [dpo_loss, robust_dpo_loss])
def test_gradients_are_right_and_opposite(formula: object) -> None:
    batch = leaves(SUMS)
    loss = formula(**batch, beta=BETA, label_smoothing=0.1)
    to_chosen, to_rejected = slopes(loss, batch["chosen_logps"], batch["rejected_logps"])
    assert torch.allclose(to_chosen, -to_rejected, atol=1e-16)

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        given = SUMS | {"chosen_logps": chosen, "rejected_logps": rejected}
        return formula(**given, beta=BETA, label_smoothing=0.1)

    assert torch.autograd.gradcheck(of, (batch["chosen_logps"], batch["rejected_logps"]))


def test_gradient_is_the_papers() -> None:
    batch = leaves(SUMS)
    (found,) = slopes(dpo_loss(**batch, beta=BETA), batch["chosen_logps"])
    assert torch.allclose(found, -BETA * torch.sigmoid(-BETA * MARGIN), atol=1e-15)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_the_minimiser_is_the_tilted_reference(beta: float) -> None:
    found = WORLD.trained(lambda batch: DPO(beta=beta).loss(batch))
    assert torch.allclose(found.exp(), WORLD.optimum(beta).exp(), atol=1e-6)


def test_robust_dpo_finds_the_optimum_through_flipped_labels_and_dpo_does_not() -> None:
    noise, beta = 0.2, 0.5

    def through_noise(objective: DPO) -> torch.Tensor:
        return WORLD.trained(
            lambda batch: (
                (1 - noise) * objective.loss(batch)
                + noise
                * objective.loss(
                    swapped({k: v for k, v in batch.items() if not k.endswith("lengths")})
                )
            )
        )

    robust = through_noise(DPO(beta=beta, label_smoothing=noise, robust=True))
    assert torch.allclose(robust.exp(), WORLD.optimum(beta).exp(), atol=1e-6)
    plain = through_noise(DPO(beta=beta))
    assert (plain.exp() - WORLD.optimum(beta).exp()).abs().max() > 0.02


def test_a_wrong_sign_finds_the_wrong_optimum() -> None:
    found = WORLD.trained(lambda batch: DPO(beta=0.5).loss(swapped(batch)))
    assert (found.exp() - WORLD.optimum(0.5).exp()).abs().max() > 0.1


def test_equal_rewards_leave_the_reference() -> None:
    world = EnumerableWorld(rewards=torch.zeros(4), ref_logits=WORLD.ref_logits)
    found = world.trained(lambda batch: DPO().loss(batch))
    assert torch.allclose(found, world.ref_logps, atol=1e-7)


def test_the_toys_chosen_answer_collapses() -> None:
    path = toy.descended(lambda b: dpo_loss(**b, beta=BETA), rate=0.2, steps=200)
    expected = {
        0: (0.347293, 0.347293, 0.190599),
        10: (0.331506, 0.294306, 0.267369),
        50: (0.195042, 0.089527, 0.678842),
        100: (0.051099, 0.002550, 0.945243),
    }
    for step, values in expected.items():
        assert toy.probabilities(path[step]) == pytest.approx(values, abs=1e-6)
    no, _, yes = toy.probabilities(path[200])
    assert (no, yes) == pytest.approx((0.044633, 0.955367), abs=1e-6)


def test_a_transformers_chosen_completions_lose_likelihood() -> None:
    up, down, _ = ChainWorld(seed=0).trained(lambda b: DPO().loss(b))
    assert up < -1
    assert down < up


@pytest.mark.parametrize(
    ("loss_type", "fields", "settings"),
    [
        ("sigmoid", {"beta": 0.1}, {}),
        ("robust", {"beta": 0.1, "label_smoothing": 0.1}, {"label_smoothing": 0.1, "robust": True}),
        ("sigmoid_norm", {"beta": 2.0}, {"beta": 2.0, "length_normalized": True}),
    ],
)
def test_trl_has_the_same_loss(
    loss_type: str, fields: dict[str, float], settings: dict[str, float]
) -> None:
    theirs = dpo_trainer_loss(BATCH, [loss_type], [1.0], **fields)
    assert torch.allclose(DPO(**settings).loss(BATCH).mean(), theirs, atol=1e-12)
