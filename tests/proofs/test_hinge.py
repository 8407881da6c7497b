"""The hinge: sheet 00's numbers, where it stops pulling, and its optimum."""

import pytest
import torch

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
from trueup.objectives.hinge import Hinge, hinge_loss
from trueup.worlds.enumerable import EnumerableWorld


def test_hinge_is_the_sheets() -> None:
    losses = Hinge().loss(BATCH)
    assert is_close(losses, 0.9, 1.225, 0.875, 0.475)
    assert is_close(losses.mean(), 0.86875)


def test_a_wrong_sign_is_seen() -> None:
    losses = hinge_loss(**swapped(SUMS), beta=BETA)
    assert not is_close(losses, 0.9, 1.225, 0.875, 0.475, tolerance=0.1)


def test_the_reference_itself_costs_one() -> None:
    same = {name: SUMS[name.replace("ref_", "")] for name in SUMS}
    assert is_close(hinge_loss(**same, beta=BETA), 1, 1, 1, 1)


def test_a_pair_far_enough_apart_pulls_no_more() -> None:
    batch = leaves(SUMS)
    loss = hinge_loss(**batch, beta=0.5)  # 1 / beta = 2: only the margin 5.25 is beyond
    to_chosen, to_rejected = slopes(loss, batch["chosen_logps"], batch["rejected_logps"])
    assert torch.equal(to_chosen, torch.where(MARGIN < 2, row(-0.5), row(0.0)))
    assert torch.equal(to_chosen, -to_rejected)


def test_gradients_pass_gradcheck() -> None:
    batch = leaves(SUMS)

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        given = SUMS | {"chosen_logps": chosen, "rejected_logps": rejected}
        return hinge_loss(**given, beta=0.5)

    assert torch.autograd.gradcheck(of, (batch["chosen_logps"], batch["rejected_logps"]))


@pytest.mark.parametrize(("reward", "margin"), [(0.5, 2.0), (-0.5, -2.0)])
def test_two_responses_stop_at_one_over_beta(reward: float, margin: float) -> None:
    world = EnumerableWorld(
        rewards=torch.tensor([reward, 0.0]), ref_logits=torch.tensor([0.3, 0.0])
    )
    grid = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    logits = [torch.stack([0.3 + m, torch.zeros_like(m)]) for m in grid]
    costs = torch.stack(
        [world.expected_loss(lambda b: Hinge(beta=0.5).loss(b), one) for one in logits]
    )
    assert grid[costs.argmin()] == pytest.approx(margin, abs=0.0101)


def test_trl_has_the_same_loss() -> None:
    theirs = dpo_trainer_loss(BATCH, ["hinge"], [1.0], beta=BETA)
    assert torch.allclose(Hinge().loss(BATCH).mean(), theirs, atol=1e-12)
