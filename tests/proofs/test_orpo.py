"""ORPO: sheet 00's odds and losses, the clamp, the optimum on two responses."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import logsigmoid

from tests.proofs.dpo_family import BATCH, POLICY, is_close, leaves, row, slopes, swapped
from tests.proofs.trl_peer import trl_class
from trueup.objectives.log1mexp import log1mexp
from trueup.objectives.orpo import ORPO, orpo_loss
from trueup.worlds.enumerable import EnumerableWorld

RATIO = (0.754338491, 0.556914341, 0.542947034, 0.762980814)
CHOSEN_MEANS = BATCH["chosen_logps"] / BATCH["chosen_lengths"]
REJECTED_MEANS = BATCH["rejected_logps"] / BATCH["rejected_lengths"]


def ratio_term(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The preference term alone: what a weight of 1 adds to a weight of 0."""
    return orpo_loss(**batch, weight=1) - orpo_loss(**batch, weight=0)


def test_log_odds_are_the_sheets() -> None:
    chosen, rejected = CHOSEN_MEANS, REJECTED_MEANS
    assert is_close(
        chosen - log1mexp(chosen), -0.912420435, -0.855897061, -0.541324855, -0.676432096
    )
    assert is_close(
        rejected - log1mexp(rejected), -0.793567257, -1.149893900, -0.868341899, -0.541324855
    )


def test_ratio_term_is_the_sheets() -> None:
    assert is_close(ratio_term(POLICY), *RATIO)
    assert is_close(ratio_term(POLICY).mean(), 0.654295170)


def test_total_is_the_sheets() -> None:
    losses = ORPO().loss(BATCH)
    assert is_close(losses, 1.325433849, 1.265691434, 1.054294703, 1.163798081)
    assert is_close(losses.mean(), 1.202304517)


def test_a_wrong_sign_is_seen() -> None:
    assert not is_close(ratio_term(swapped(POLICY)), *RATIO, tolerance=0.01)


def test_weight_zero_is_fine_tuning_on_the_chosen() -> None:
    assert torch.allclose(ORPO(weight=0).loss(BATCH), -CHOSEN_MEANS, atol=1e-15)


def test_another_likelihood_term_replaces_the_response_only_one() -> None:
    nll = row(1, 2, 3, 4)
    losses = orpo_loss(**POLICY, weight=0.1, chosen_nll=nll)
    assert torch.allclose(losses - nll, 0.1 * ratio_term(POLICY), atol=1e-14)


def test_a_certain_completion_stays_finite() -> None:
    batch = leaves(POLICY | {"chosen_logps": row(0, -1e-9, -1e-12, -4000)})
    loss = orpo_loss(**batch, weight=0.1)
    assert torch.isfinite(loss).all()
    found = slopes(loss, batch["chosen_logps"], batch["rejected_logps"])
    assert all(torch.isfinite(slope).all() for slope in found)


def test_gradients_pass_gradcheck() -> None:
    batch = leaves(POLICY)

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return orpo_loss(
            **(POLICY | {"chosen_logps": chosen, "rejected_logps": rejected}), weight=0.5
        )

    assert torch.autograd.gradcheck(of, (batch["chosen_logps"], batch["rejected_logps"]))


@pytest.mark.parametrize("weight", [0.0, 0.1, 2.0])
def test_two_responses_reach_the_stationary_margin(weight: float) -> None:
    # one token each: odds = logit, so d loss / dm = s(m) - p + 2 weight (s(2m) - p)
    world = EnumerableWorld(rewards=torch.tensor([0.9, 0.0]), ref_logits=torch.zeros(2))
    p = 1 / (1 + math.exp(-float(world.rewards[0])))
    found = world.trained(lambda b: ORPO(weight=weight).loss(b))
    m = found[0] - found[1]
    slope = torch.sigmoid(m) - p + 2 * weight * (torch.sigmoid(2 * m) - p)
    assert abs(float(slope)) < 1e-6
    if weight == 0:
        assert float(found[0].exp()) == pytest.approx(p, abs=1e-6)


def test_equal_rewards_teach_nothing() -> None:
    world = EnumerableWorld(rewards=torch.zeros(2), ref_logits=torch.tensor([1.0, 0.0]))
    found = world.trained(lambda b: ORPO(weight=1).loss(b))
    assert torch.allclose(found.exp(), row(0.5, 0.5), atol=1e-7)


def test_trl_has_the_same_ratio_term() -> None:
    trainer = trl_class("experimental.orpo.orpo_trainer", "ORPOTrainer")
    stand_in = SimpleNamespace(beta=1.0, accelerator=SimpleNamespace(device="cpu"))
    theirs = trainer.odds_ratio_loss(stand_in, CHOSEN_MEANS, REJECTED_MEANS)[0]
    assert torch.allclose(ratio_term(POLICY).float(), -theirs, atol=2e-7)  # theirs is float32
    assert torch.allclose(-logsigmoid(row(0.0)), row(math.log(2)))
