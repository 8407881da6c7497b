"""The study's hinge: sheet 60's numbers, its gradients, and where two responses come to rest."""

import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit

from tests.proofs.chain_world import ChainWorld
from tests.proofs.dpo_family import BATCH, POLICY_SUMS, is_close, leaves, row, slopes, swapped
from trueup.objectives.daa_hinge import DAAHinge, daa_hinge_loss
from trueup.objectives.slic import slic_loss
from trueup.worlds.enumerable import EnumerableWorld

GIVEN = {name: value for name, value in BATCH.items() if name != "ref_rejected_logps"}
RANK = (1.083333333, 0.785, 0.78125, 1.0875)
PULL = (0.974076984, 2.350206559, 0.974076984, 1.136871006)
ONES = {"chosen_lengths": row(1), "rejected_lengths": row(1)}


def test_the_rank_term_on_averages_is_the_sheets() -> None:
    assert is_close(daa_hinge_loss(**GIVEN, gamma=1, alpha=0), *RANK)


def test_the_rank_term_on_sums_is_the_sheets() -> None:
    assert is_close(daa_hinge_loss(**GIVEN | ONES, gamma=1, alpha=0), 0, 2.75, 0, 0)


def test_the_whole_loss_is_the_sum_of_the_sheets_terms() -> None:
    assert is_close(DAAHinge().loss(BATCH), *(a + b for a, b in zip(RANK, PULL, strict=True)))
    half = (a + 0.5 * b for a, b in zip(RANK, PULL, strict=True))
    assert is_close(DAAHinge(alpha=0.5).loss(BATCH), *half)


def test_swapped_completions_are_seen() -> None:
    turned = swapped(BATCH)
    assert not is_close(DAAHinge(alpha=0).loss(turned), *RANK, tolerance=0.01)


def test_without_the_pull_and_per_sequence_it_is_slics_rank_term() -> None:
    ours = daa_hinge_loss(**GIVEN | ONES, gamma=0.7, alpha=0)
    assert torch.equal(ours, slic_loss(**POLICY_SUMS, gamma=0.7))


def test_the_reference_of_the_rejected_side_is_not_read() -> None:
    moved = BATCH | {"ref_rejected_logps": BATCH["ref_rejected_logps"] - 50}
    assert torch.equal(DAAHinge().loss(moved), DAAHinge().loss(BATCH))


def test_gradients_are_the_formulas() -> None:
    batch = leaves(GIVEN)
    loss = daa_hinge_loss(**batch, gamma=0.8, alpha=0.5)  # pairs 1 and 3 lie within the margin
    to_chosen, to_rejected = slopes(loss, batch["chosen_logps"], batch["rejected_logps"])
    is_within = daa_hinge_loss(**GIVEN, gamma=0.8, alpha=0) > 0
    assert is_within.tolist() == [True, True, True, True]
    pull = -0.5 * torch.sigmoid(1 - (BATCH["chosen_logps"] - BATCH["ref_chosen_logps"]))
    assert torch.allclose(to_chosen, -1 / BATCH["chosen_lengths"] + pull, atol=1e-15)
    assert torch.allclose(to_rejected, 1 / BATCH["rejected_lengths"], atol=1e-15)


def test_gradients_pass_gradcheck() -> None:
    batch = leaves(GIVEN)

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        given = GIVEN | {"chosen_logps": chosen, "rejected_logps": rejected}
        return daa_hinge_loss(**given, gamma=1.0, alpha=1.0)

    assert torch.autograd.gradcheck(of, (batch["chosen_logps"], batch["rejected_logps"]))


def test_an_empty_completion_has_a_loss() -> None:
    empty = GIVEN | {"rejected_lengths": row(0, 0, 0, 0), "rejected_logps": row(0, 0, 0, 0)}
    assert torch.isfinite(daa_hinge_loss(**empty, gamma=1, alpha=1)).all()


# two responses of one token, reference 1/2 each, the first preferred with probability p


def balance(m: float, p: float, alpha: float) -> float:
    """The derivative of the expected loss in the logit difference m, for |m| below gamma."""
    first, second = expit(m), expit(-m)
    up, down = (1 - torch.tensor([first, second]).mul(2).log()).tolist()
    pull = -p * expit(up) * second + (1 - p) * expit(down) * first
    return float(-p + (1 - p) + alpha * pull)


def grid_minimum(p: float, gamma: float, alpha: float) -> float:
    reward = torch.tensor(p, dtype=torch.float64).logit()
    world = EnumerableWorld(rewards=torch.stack([reward, 0 * reward]), ref_logits=torch.zeros(2))
    grid = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    objective = DAAHinge(gamma=gamma, alpha=alpha)
    costs = [
        world.expected_loss(objective.loss, torch.stack([m, torch.zeros_like(m)])) for m in grid
    ]
    return float(grid[torch.stack(costs).argmin()])


def test_the_rank_term_alone_stops_at_gamma() -> None:
    assert grid_minimum(0.6, gamma=1.5, alpha=0) == pytest.approx(1.5, abs=0.0051)
    assert grid_minimum(0.4, gamma=1.5, alpha=0) == pytest.approx(-1.5, abs=0.0051)


def test_the_pull_to_the_reference_balances_the_rank_term() -> None:
    truth = brentq(balance, -4, 4, args=(0.6, 2.0))
    assert 0 < truth < 4
    assert grid_minimum(0.6, gamma=4.0, alpha=2.0) == pytest.approx(truth, abs=0.0051)
    assert abs(grid_minimum(0.6, gamma=4.0, alpha=0.0) - truth) > 0.5  # without it, gamma


def test_the_pull_keeps_a_transformers_chosen_completions_likely() -> None:
    world = ChainWorld(0)
    held, _, held_margin = world.trained(DAAHinge(alpha=1.0).loss, steps=60)
    loose, _, loose_margin = world.trained(DAAHinge(alpha=0.0).loss, steps=60)
    assert held > 0
    assert loose < held - 1
    assert min(held_margin, loose_margin) > 1
