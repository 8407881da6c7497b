"""GRPO: its formula as arithmetic, TRL's own code, and the best policy that it climbs to."""

import contextlib
import io
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.proofs.dpo_family import is_close, row
from tests.proofs.trl_peer import trl_class
from trueup.objectives.grpo import GRPO, grpo_advantages, grpo_loss, grpo_optimum

# the group


def test_advantages_are_their_arithmetic() -> None:
    rewards = row(1, 0, 0, 1, 0.5)[None]
    one, other = 0.5 / (0.5 + 1e-4), 0.5 / (0.2**0.5 + 1e-4)
    assert is_close(grpo_advantages(rewards)[0], one, -one, -one, one, 0)
    assert is_close(grpo_advantages(rewards, ddof=0)[0], other, -other, -other, other, 0)
    assert is_close(grpo_advantages(rewards, scale=False)[0], 0.5, -0.5, -0.5, 0.5, 0)


@pytest.mark.parametrize("scale", [True, False])
def test_equal_rewards_are_worth_nothing(scale: bool) -> None:
    rewards = torch.tensor([[0.1, 0.1, 0.1], [0.0, 0.0, 1.0]])  # 0.1 has no exact mean in float32
    found = grpo_advantages(rewards, scale=scale)
    assert found[0].tolist() == [0, 0, 0]
    assert found[1].tolist() != [0, 0, 0]


def test_a_groups_scale_is_divided_out() -> None:
    rewards = row(3, 1, 2, 5)[None]
    small, large = grpo_advantages(rewards), grpo_advantages(1000 * rewards - 7)
    assert torch.allclose(small, large, rtol=1e-4)
    assert not torch.allclose(
        grpo_advantages(rewards, scale=False), grpo_advantages(1000 * rewards, scale=False)
    )


def test_groups_do_not_know_each_other() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [100.0, 0.0, 50.0]])
    given = {"rewards": rewards}
    alone = {"rewards": rewards[:1]}
    objective = GRPO(samples=3)
    assert torch.equal(
        objective.collected(given)["advantages"][:1], objective.collected(alone)["advantages"]
    )


# the loss as arithmetic: K = 2 samples, of three tokens and one, clip 0.2

RATIOS = torch.tensor([[[1.1, 1.5, 0.5], [0.7, 9.0, 9.0]]], dtype=torch.float64)
TOKENS = {
    "sample_token_logps": RATIOS.log() - 1,
    "proposal_token_logps": torch.full_like(RATIOS, -1),
    "ref_sample_token_logps": RATIOS.log() - 1 + row(0.3, -0.2, 0.1),
    "sample_token_mask": torch.tensor([[[True, True, True], [True, False, False]]]),
}
ADVANTAGES = row(2, -3)[None]
# good sample: min(r, clamp(r)) = 1.1, 1.2, 0.5; bad one: max(0.7, 0.8)
COSTS = ((-2.2, -2.4, -1.0), (2.4,))
K3 = (0.349858808 - 0.3, 0.2 - 0.181269247, 0.105170918 - 0.1)  # exp(d) - 1 - d


def test_clipped_costs_are_their_arithmetic() -> None:
    given = TOKENS | {"advantages": ADVANTAGES, "beta": 0.0}
    per_sequence = (sum(COSTS[0]) / 3 + COSTS[1][0]) / 2
    per_token = (sum(COSTS[0]) + COSTS[1][0]) / 4
    assert is_close(grpo_loss(**given), per_sequence, tolerance=1e-14)
    assert is_close(grpo_loss(**given, loss_type="token-mean"), per_token, tolerance=1e-14)
    assert abs(per_sequence - per_token) > 0.3


def test_the_kl_is_the_third_estimator() -> None:
    given = TOKENS | {"advantages": 0 * ADVANTAGES}
    found = grpo_loss(**given, beta=0.04)
    assert is_close(found, 0.04 * (sum(K3) / 3 + K3[0]) / 2)
    assert (found > 0).all()


def test_the_unclipped_loss_is_another_number() -> None:
    given = TOKENS | {"advantages": ADVANTAGES, "beta": 0.0}
    assert not torch.allclose(grpo_loss(**given), grpo_loss(**given, clip=0.9), atol=0.1)


def test_what_stands_off_the_mask_changes_nothing() -> None:
    off = ~TOKENS["sample_token_mask"]
    spoiled = {
        name: value.masked_fill(off, float("-inf")) if value.is_floating_point() else value
        for name, value in TOKENS.items()
    }
    logps = spoiled["sample_token_logps"].requires_grad_(True)
    loss = grpo_loss(**spoiled, advantages=ADVANTAGES)
    assert torch.equal(loss, grpo_loss(**TOKENS, advantages=ADVANTAGES))
    (slope,) = torch.autograd.grad(loss.sum(), logps)
    assert (slope[off] == 0).all()


def test_a_sample_without_tokens_costs_nothing() -> None:
    given = TOKENS | {"sample_token_mask": TOKENS["sample_token_mask"] & False}
    for kind in ("sequence-mean", "token-mean"):
        assert is_close(grpo_loss(**given, advantages=ADVANTAGES, loss_type=kind), 0)


def test_wider_tables_are_cut_to_the_policys() -> None:
    wide = {
        name: torch.cat([TOKENS[name], torch.zeros(1, 2, 4, dtype=torch.float64)], dim=-1)
        for name in ("proposal_token_logps", "ref_sample_token_logps")
    }
    batch = TOKENS | {"advantages": ADVANTAGES}
    assert torch.equal(GRPO().loss(batch | wide), GRPO().loss(batch))


def test_token_mean_weighs_rows_by_their_tokens() -> None:
    batch = {"sample_lengths": row(3, 1)[None], "sample_logps": row(-2, -1)[None]}
    assert GRPO(loss_type="token-mean").weights(batch).tolist() == [4]
    assert GRPO().weights(batch).tolist() == [1]


# gradients


def inside() -> dict[str, Tensor]:
    """Ratios away from the clip's corners and from their tie at 1."""
    return TOKENS | {
        "sample_token_logps": (TOKENS["sample_token_logps"] + 0.01).requires_grad_(True),
        "advantages": ADVANTAGES,
    }


@pytest.mark.parametrize("loss_type", ["sequence-mean", "token-mean"])
def test_gradients_pass_gradcheck(loss_type: str) -> None:
    given = inside()

    def of(logps: Tensor) -> Tensor:
        return grpo_loss(**given | {"sample_token_logps": logps}, loss_type=loss_type)

    assert torch.autograd.gradcheck(of, (given["sample_token_logps"],))


def test_the_first_step_is_the_policy_gradient() -> None:
    logps = TOKENS["proposal_token_logps"].clone().requires_grad_(True)
    given = TOKENS | {"sample_token_logps": logps, "advantages": ADVANTAGES}
    (slope,) = torch.autograd.grad(grpo_loss(**given, beta=0.0).sum(), logps)
    mask = TOKENS["sample_token_mask"]
    expected = -ADVANTAGES[..., None] / mask.sum(dim=-1, keepdim=True) / 2 * mask
    assert torch.allclose(slope, expected, atol=1e-15)


def test_a_token_beyond_its_clip_has_no_gradient_but_the_kls() -> None:
    given = inside()
    (slope,) = torch.autograd.grad(grpo_loss(**given, beta=0.0).sum(), given["sample_token_logps"])
    clipped = slope == 0
    assert clipped.tolist() == [[[False, True, False], [True, True, True]]]
    (held,) = torch.autograd.grad(grpo_loss(**given).sum(), given["sample_token_logps"])
    assert (held != 0).tolist() == TOKENS["sample_token_mask"].tolist()


# TRL


def trl_grpo_loss(
    tokens: dict[str, Tensor], advantages: Tensor, loss_type: str, beta: float
) -> Tensor:
    """The batch loss of TRL's GRPOTrainer on given token tables, called without a trainer."""
    trainer = trl_class("trainer.grpo_trainer", "GRPOTrainer")
    logps, proposal, reference, mask = (value.flatten(0, 1) for value in tokens.values())
    alone = SimpleNamespace(
        num_processes=1,
        sync_gradients=False,
        gather=lambda value: value,
        gather_for_metrics=lambda value: value,
        reduce=lambda value, reduction: value,
    )
    stand_in = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=alone,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        loss_type=loss_type,
        beta=beta,
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
    )
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": ids,
        "completion_mask": mask.to(logps.dtype),
        "advantages": advantages.flatten(),
        "old_per_token_logps": proposal,
        "ref_per_token_logps": reference,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        return trainer._compute_loss(stand_in, stand_in.model, inputs)


def drawn_tables(seed: int, rows: int = 3, samples: int = 4, width: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, samples, width)
    proposal = -torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64) * 0.3
    lengths = torch.randint(1, width + 1, (rows, samples, 1), generator=generator)
    return {
        "sample_token_logps": proposal + noise[0],
        "proposal_token_logps": proposal,
        "ref_sample_token_logps": proposal + noise[1],
        "sample_token_mask": torch.arange(width) < lengths,
    }


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize(
    ("loss_type", "theirs"), [("sequence-mean", "grpo"), ("token-mean", "bnpo")]
)
def test_trl_has_the_same_loss(loss_type: str, theirs: str, beta: float) -> None:
    tokens = drawn_tables(0)
    rewards = torch.rand(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    objective = GRPO(samples=4, beta=beta, loss_type=loss_type)
    batch = tokens | objective.collected({"rewards": rewards})
    batch["sample_lengths"] = tokens["sample_token_mask"].sum(dim=-1)
    batch["sample_logps"] = tokens["sample_token_logps"].sum(dim=-1)
    weights = objective.weights(batch)
    ours = (weights * objective.loss(batch)).sum() / weights.sum()
    peer = trl_grpo_loss(tokens, batch["advantages"], theirs, beta)
    assert torch.allclose(ours, peer, rtol=0, atol=1e-12)


# the optimum

REF = row(0.4, 0.3, 0.15, 0.1, 0.05)
REWARDS = row(0, 1, 2, 0.5, -1)
FIRST, SECOND = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T


def pairs_of(values: Tensor) -> Tensor:
    """Every group of two responses, as samples of one token: [25, 2, 1]."""
    return torch.stack([values[FIRST], values[SECOND]], dim=1)[..., None]


def expected_gradient(objective: GRPO, policy: Tensor, rewards: Tensor) -> Tensor:
    """The exact expectation, over groups of two own samples, of the gradient in the logits."""
    logits = policy.log().requires_grad_(True)
    logps = pairs_of(logits.log_softmax(-1))
    losses = objective.loss(
        objective.collected({"rewards": pairs_of(rewards)[..., 0]})
        | {
            "sample_token_logps": logps,
            "proposal_token_logps": logps.detach(),
            "ref_sample_token_logps": pairs_of(REF.log()),
            "sample_token_mask": torch.ones(25, 2, 1, dtype=torch.bool),
        }
    )
    chance = policy[FIRST] * policy[SECOND]
    return torch.autograd.grad((chance * losses).sum(), logits)[0]


def climbed(objective: GRPO, rewards: Tensor, steps: int) -> Tensor:
    """The policy after exact steps from the reference."""
    logits = REF.log()
    for _ in range(steps):
        logits = logits - 1.0 * expected_gradient(objective, logits.softmax(-1), rewards)
    return logits.softmax(-1)


def test_exact_steps_reach_the_optimum() -> None:
    objective = GRPO(samples=2, beta=0.5, scale=False)
    truth = grpo_optimum(REF, REWARDS, 2 * 0.5)  # K / (K - 1) is 2
    assert is_close(truth.sum(), 1, tolerance=1e-12)
    assert torch.allclose(climbed(objective, REWARDS, 600), truth, rtol=0, atol=1e-9)


def test_the_optimum_is_not_the_exponential_tilt() -> None:
    objective = GRPO(samples=2, beta=0.5, scale=False)
    tilted = (REF.log() + REWARDS / 1.0).softmax(-1)
    assert (grpo_optimum(REF, REWARDS, 1.0) - tilted).abs().max() > 0.05
    assert expected_gradient(objective, tilted, REWARDS).abs().max() > 0.01
    at_optimum = grpo_optimum(REF, REWARDS, 1.0)
    assert expected_gradient(objective, at_optimum, REWARDS).abs().max() < 1e-12


def test_a_weak_tie_takes_the_best_response() -> None:
    assert grpo_optimum(REF, REWARDS, 1e-3)[2] > 0.999
    assert torch.allclose(grpo_optimum(REF, REWARDS, 1e4), REF, atol=1e-4)


def test_scale_moves_further_on_small_rewards_alone() -> None:
    small = 0.01 * REWARDS
    moved = {
        scale: float((climbed(GRPO(samples=2, scale=scale), small, 5) - REF).abs().sum() / 2)
        for scale in (True, False)
    }
    assert moved[True] > 0.1 > 10 * moved[False]


# rounds of own samples


def sampled(objective: GRPO, rewards: Tensor, *, rounds: int, updates: int) -> Tensor:
    """The policy after rounds of own samples, with several updates on each."""
    generator = torch.Generator().manual_seed(0)
    logits = REF.log().requires_grad_(True)
    mask = torch.ones(1, objective.samples, 1, dtype=torch.bool)
    for _ in range(rounds):
        proposal = logits.detach().log_softmax(-1)
        drawn = torch.multinomial(
            proposal.exp(), objective.samples, replacement=True, generator=generator
        )
        batch = objective.collected({"rewards": rewards[drawn][None]}) | {
            "proposal_token_logps": proposal[drawn][None, :, None],
            "ref_sample_token_logps": REF.log()[drawn][None, :, None],
            "sample_token_mask": mask,
        }
        for _ in range(updates):
            logps = logits.log_softmax(-1)[drawn][None, :, None]
            loss = objective.loss(batch | {"sample_token_logps": logps}).sum()
            (slope,) = torch.autograd.grad(loss, logits)
            logits = (logits - 0.1 * slope).detach().requires_grad_(True)
    return logits.detach().softmax(-1)


def test_own_samples_raise_a_planted_reward() -> None:
    found = sampled(GRPO(samples=16), REWARDS, rounds=100, updates=4)
    assert float(REF @ REWARDS) == pytest.approx(0.6)
    assert float(found @ REWARDS) > 1.7
    assert int(found.argmax()) == 2


def test_a_constant_reward_moves_nothing() -> None:
    found = sampled(GRPO(samples=16), torch.full_like(REWARDS, 0.7), rounds=100, updates=4)
    assert (found - REF).abs().max() < 1e-12


def test_a_wrong_sign_lowers_it() -> None:
    found = sampled(GRPO(samples=16), -REWARDS, rounds=100, updates=4)
    assert float(found @ REWARDS) < 0.0


def test_the_clip_holds_a_rounds_updates_back() -> None:
    near, far = (
        sampled(GRPO(samples=64, clip_ratio=clip, beta=0.0), REWARDS, rounds=1, updates=200)
        for clip in (0.2, 0.9)
    )
    tops = float(near[2] / REF[2]), float(far[2] / REF[2])
    assert 1.15 < tops[0] < 1.5 < tops[1]
