"""REINFORCE: its formula as arithmetic, TRL's RLOO, and the best policy under a KL."""

import contextlib
import io
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.proofs.dpo_family import is_close, row
from tests.proofs.trl_peer import trl_class
from trueup.errors import UserError
from trueup.objectives.reinforce import Reinforce, reinforce_advantages, reinforce_loss
from trueup.worlds.enumerable import tilted

REF = row(0.4, 0.3, 0.15, 0.1, 0.05)
REWARDS = row(0, 1, 2, 0.5, -1)
BASELINES = ("none", "mean", "leave-one-out")

every_baseline = pytest.mark.parametrize("baseline", BASELINES)

# the formula


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("none", (1, 2, 6)),
        ("mean", (1 - 3, 2 - 3, 6 - 3)),
        ("leave-one-out", (1 - 4, 2 - 3.5, 6 - 1.5)),
    ],
)
def test_advantages_are_their_arithmetic(baseline: str, expected: tuple[float, ...]) -> None:
    assert is_close(reinforce_advantages(row(1, 2, 6)[None], baseline)[0], *expected)


def test_the_kl_is_a_cost_on_the_reward() -> None:
    given = {
        "rewards": row(1, 2, 6)[None],
        "sample_logps": row(-2, -3, -4)[None],
        "ref_sample_logps": row(-3, -3, -2)[None],
    }
    found = Reinforce(beta=0.5, baseline="none").collected(given)["advantages"]
    assert is_close(found[0], 1 - 0.5, 2, 6 + 1)


def test_losses_are_their_arithmetic() -> None:
    given = {
        "sample_logps": row(2, 1, 0.5).log()[None],
        "proposal_logps": row(1, 1, 1).log()[None],
        "advantages": row(-3, -1.5, 4.5)[None],
    }
    assert is_close(reinforce_loss(**given), -(2 * -3 - 1.5 + 0.5 * 4.5) / 3)


def test_gradients_pass_gradcheck() -> None:
    proposal, advantages = row(-2, -3, -1.5)[None], row(-3, -1.5, 4.5)[None]
    logps = row(-2.1, -2.8, -1.5)[None].requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda x: reinforce_loss(sample_logps=x, proposal_logps=proposal, advantages=advantages),
        (logps,),
    )


def test_the_first_step_is_the_policy_gradient() -> None:
    logps = row(-2, -3, -1.5)[None].requires_grad_(True)
    advantages = row(-3, -1.5, 4.5)[None]
    loss = reinforce_loss(sample_logps=logps, proposal_logps=logps.detach(), advantages=advantages)
    (slope,) = torch.autograd.grad(loss.sum(), logps)
    assert torch.allclose(slope, -advantages / 3, atol=1e-15)


def test_a_baseline_needs_another_sample() -> None:
    assert Reinforce(samples=1, baseline="none").samples == 1
    for baseline in ("mean", "leave-one-out"):
        with pytest.raises(UserError, match="samples must be at least 2, got 1"):
            Reinforce(samples=1, baseline=baseline)


# TRL


def trl_rloo_loss(batch: dict[str, Tensor]) -> Tensor:
    """The batch loss of TRL's RLOOTrainer for sums of one token, without its clip."""
    trainer = trl_class("trainer.rloo_trainer", "RLOOTrainer")
    logps = batch["sample_logps"].flatten()
    stand_in = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            reduce=lambda value, reduction: value, gather=lambda value: value
        ),
        aux_loss_enabled=False,
        epsilon_low=1e9,
        epsilon_high=1e9,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            logps[:, None],
            torch.zeros(len(logps), 1),
            None,
        ),
    )
    ids = torch.zeros(len(logps), 1, dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": ids,
        "completion_mask": torch.ones_like(ids),
        "advantages": batch["advantages"].flatten(),
        "old_logps": batch["proposal_logps"].flatten(),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        return trainer._compute_loss(stand_in, stand_in.model, inputs)


def test_trl_has_the_same_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    proposal, noise, rewards = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    objective = Reinforce()
    made = objective.collected(
        {"rewards": rewards, "sample_logps": proposal, "ref_sample_logps": proposal + noise}
    )
    batch = {"sample_logps": proposal + 0.1 * noise, "proposal_logps": proposal, **made}
    ours = objective.loss(batch).mean()
    assert torch.allclose(ours, trl_rloo_loss(batch), rtol=0, atol=1e-14)


# exact expectations over groups of two

FIRST, SECOND = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T


def pairs_of(values: Tensor) -> Tensor:
    return torch.stack([values[FIRST], values[SECOND]], dim=1)


def gradients(
    objective: Reinforce, policy: Tensor, rewards: Tensor, proposal: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The loss's gradient in the logits for every group of two samples, and its expectation."""
    proposal = policy if proposal is None else proposal
    made = objective.collected(
        {
            "rewards": pairs_of(rewards),
            "sample_logps": pairs_of(proposal.log()),
            "ref_sample_logps": pairs_of(REF.log()),
        }
    )

    def losses(logits: Tensor) -> Tensor:
        batch = {"sample_logps": pairs_of(logits.log_softmax(-1)), **made}
        return objective.loss(batch | {"proposal_logps": pairs_of(proposal.log())})

    each = torch.autograd.functional.jacobian(losses, policy.log())  # [25, 5]
    chance = proposal[FIRST] * proposal[SECOND]
    return each, chance @ each


def true_gradient(policy: Tensor, rewards: Tensor, beta: float) -> Tensor:
    logits = policy.log().requires_grad_(True)
    probs = logits.softmax(-1)
    value = (probs * (rewards - beta * (probs / REF).log())).sum()
    return -torch.autograd.grad(value, logits)[0]


POLICY = row(0.1, 0.2, 0.3, 0.25, 0.15)


@every_baseline
def test_the_gradient_is_unbiased_up_to_the_means_factor(baseline: str) -> None:
    _, found = gradients(Reinforce(beta=0.3, samples=2, baseline=baseline), POLICY, REWARDS)
    truth = true_gradient(POLICY, REWARDS, 0.3)
    factor = 0.5 if baseline == "mean" else 1.0
    assert torch.allclose(found, factor * truth, rtol=0, atol=1e-15)


def test_a_baseline_takes_variance_away_where_rewards_are_high() -> None:
    chance = (POLICY[FIRST] * POLICY[SECOND])[:, None]
    spread = {}
    for baseline in ("none", "leave-one-out"):
        each, mean = gradients(Reinforce(samples=2, baseline=baseline), POLICY, REWARDS + 10)
        spread[baseline] = float((chance * (each - mean) ** 2).sum())
    assert spread["leave-one-out"] < 0.1 * spread["none"]


def test_off_policy_samples_are_weighed() -> None:
    objective = Reinforce(beta=0.0, samples=2, baseline="none")
    _, found = gradients(objective, POLICY, REWARDS, proposal=REF)
    assert torch.allclose(found, true_gradient(POLICY, REWARDS, 0.0), atol=1e-15)
    _, elsewhere = gradients(objective, REF, REWARDS)
    assert not torch.allclose(found, elsewhere, atol=0.05)


# the optimum


@every_baseline
def test_the_optimum_is_the_tilted_reference(baseline: str) -> None:
    objective = Reinforce(beta=0.5, samples=2, baseline=baseline)
    best = tilted(REF.log(), REWARDS, 0.5).exp()
    assert gradients(objective, best, REWARDS)[1].abs().max() < 1e-14
    assert gradients(objective, REF, REWARDS)[1].abs().max() > 0.05


def climbed(objective: Reinforce, rewards: Tensor, *, steps: int, rate: float = 1.0) -> Tensor:
    """The policy after rounds of own samples with one update each."""
    generator = torch.Generator().manual_seed(0)
    logits = REF.log().requires_grad_(True)
    for _ in range(steps):
        logps = logits.log_softmax(-1)
        drawn = torch.multinomial(
            logps.detach().exp(), objective.samples, replacement=True, generator=generator
        )
        own = logps.detach()[drawn][None]
        made = objective.collected(
            {
                "rewards": rewards[drawn][None],
                "sample_logps": own,
                "ref_sample_logps": REF.log()[drawn][None],
            }
        )
        batch = {"sample_logps": logps[drawn][None], "proposal_logps": own, **made}
        (slope,) = torch.autograd.grad(objective.loss(batch).sum(), logits)
        logits = (logits - rate * slope).detach().requires_grad_(True)
    return logits.detach().softmax(-1)


def distance(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).abs().sum() / 2)


@pytest.mark.parametrize("baseline", ["mean", "leave-one-out"])
def test_own_samples_reach_the_optimum(baseline: str) -> None:
    objective = Reinforce(beta=1.0, samples=64, baseline=baseline)
    best = tilted(REF.log(), REWARDS, 1.0).exp()
    assert distance(REF, best) > 0.3
    # at the optimum all scores are equal, and the noise of a baselined gradient is gone
    assert distance(climbed(objective, REWARDS, steps=600), best) < 1e-3


def test_a_constant_reward_moves_nothing() -> None:
    found = climbed(Reinforce(), torch.full_like(REWARDS, 0.7), steps=200)
    assert distance(found, REF) < 1e-12


def test_without_a_baseline_a_constant_reward_is_noise() -> None:
    found = climbed(Reinforce(baseline="none"), torch.full_like(REWARDS, 0.7), steps=50)
    assert distance(found, REF) > 0.01


def test_a_wrong_sign_leaves_the_optimum() -> None:
    found = climbed(Reinforce(beta=1.0, samples=64), -REWARDS, steps=200)
    assert float(found @ REWARDS) < float(REF @ REWARDS) - 0.3
