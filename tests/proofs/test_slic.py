"""SLiC-HF: sheet 00's rank term, its likelihood term, and where both settle."""

import pytest
import torch

from tests.proofs.dpo_family import BATCH, POLICY_SUMS, SUMS, is_close, leaves, slopes, swapped
from trueup.objectives.slic import SLiC, slic_loss
from trueup.worlds.enumerable import EnumerableWorld

RANK = (0, 2.75, 0, 0)


def test_rank_term_is_the_sheets() -> None:
    losses = slic_loss(**POLICY_SUMS, gamma=1)
    assert is_close(losses, *RANK)
    assert is_close(losses.mean(), 0.6875)


def test_a_wrong_sign_is_seen() -> None:
    assert not is_close(slic_loss(**swapped(POLICY_SUMS), gamma=1), *RANK, tolerance=0.1)


def test_weight_adds_the_chosen_completions_likelihood() -> None:
    rank, both = SLiC(weight=0).loss(BATCH), SLiC(weight=0.2).loss(BATCH)
    assert torch.equal(rank, slic_loss(**POLICY_SUMS, gamma=1))
    assert torch.allclose(both - rank, -0.2 * SUMS["chosen_logps"], atol=1e-14)


def test_no_reference_enters() -> None:
    moved = {name: value + (3 if "ref" in name else 0) for name, value in BATCH.items()}
    assert torch.equal(SLiC().loss(moved), SLiC().loss(BATCH))


def test_gradients_are_opposite_and_pass_gradcheck() -> None:
    batch = leaves(POLICY_SUMS)
    inputs = (batch["chosen_logps"], batch["rejected_logps"])
    to_chosen, to_rejected = slopes(slic_loss(**batch, gamma=1), *inputs)
    assert torch.equal(to_chosen, -to_rejected)
    assert torch.autograd.gradcheck(
        lambda up, down: slic_loss(chosen_logps=up, rejected_logps=down, gamma=1), inputs
    )


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 1.5), (50.0, 0.6)])
def test_two_responses_settle_at_gamma_or_at_the_labels(weight: float, expected: float) -> None:
    # ranking alone asks for the margin gamma; a heavy likelihood term for the labels' frequency
    world = EnumerableWorld(rewards=torch.tensor([0.6, 0.0]), ref_logits=torch.zeros(2))
    grid = torch.linspace(-4, 4, 1601, dtype=torch.float64)
    objective = SLiC(gamma=1.5, weight=weight)
    costs = torch.stack(
        [world.expected_loss(objective.loss, torch.stack([m, torch.zeros_like(m)])) for m in grid]
    )
    assert grid[costs.argmin()] == pytest.approx(expected, abs=0.03)
