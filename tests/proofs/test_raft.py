"""RAFT: sheet 09's numbers, the law of best-of-K, and a planted reward that rounds climb."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from tests.proofs.dpo_family import is_close, row
from trueup.errors import UserError
from trueup.objectives.protocol import Needs
from trueup.objectives.raft import RAFT, best_of_k_distribution, raft_select
from trueup.objectives.sft import SFT

POLICY = row(0.5, 0.3, 0.15, 0.05)
WORTH = row(0, 1, 2, 3)

# a) the law of best-of-K


@pytest.mark.parametrize(
    ("k", "law", "mean"),
    [
        (1, (0.5, 0.3, 0.15, 0.05), 0.75),
        (2, (0.25, 0.39, 0.2625, 0.0975), 1.2075),
        (4, (0.0625, 0.3471, 0.40490625, 0.18549375), 1.71339375),
        (8, (0.00390625, 0.163865910, 0.495648271, 0.336579569), 2.164901159),
    ],
)
def test_best_of_k_is_the_sheets(k: int, law: tuple[float, ...], mean: float) -> None:
    found = best_of_k_distribution(POLICY, WORTH, k)
    assert is_close(found.probs, *law)
    assert found.mean_reward == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize("k", [2, 4, 8])
def test_selection_follows_the_law(k: int) -> None:
    found = chosen_shares(WORTH, k, "local")
    law = best_of_k_distribution(POLICY, WORTH, k).probs
    assert ((found - law).abs() < 4 * (law * (1 - law) / ROUNDS).sqrt()).all()


ROUNDS = 50_000


def chosen_shares(worth: Tensor, k: int, strategy: str) -> Tensor:
    """How often each of four responses is kept over many prompts."""
    generator = torch.Generator().manual_seed(k)
    drawn = torch.multinomial(POLICY, ROUNDS * k, replacement=True, generator=generator)
    drawn = drawn.reshape(ROUNDS, k)
    kept = drawn.gather(1, raft_select(rewards=worth[drawn], strategy=strategy)[:, None])
    return kept.flatten().bincount(minlength=4) / ROUNDS


def test_the_worst_of_k_does_not_follow_the_law() -> None:
    law = best_of_k_distribution(POLICY, WORTH, 4).probs
    assert (chosen_shares(-WORTH, 4, "local") - law).abs().max() > 0.3


def test_ties_share_the_mass_as_selection_does() -> None:
    worth = row(0, 1, 1, 0)
    law = best_of_k_distribution(POLICY, worth, 4).probs
    assert is_close(law[1] / law[2], 2.0, tolerance=1e-12)
    assert is_close(law.sum(), 1, tolerance=1e-14)
    found = chosen_shares(worth, 4, "local")
    assert ((found - law).abs() < 4 * (law * (1 - law) / ROUNDS).sqrt()).all()


def test_the_order_of_responses_does_not_matter() -> None:
    turned = best_of_k_distribution(POLICY.flip(0), WORTH.flip(0), 4)
    assert torch.allclose(turned.probs.flip(0), best_of_k_distribution(POLICY, WORTH, 4).probs)


# b) iteration


def test_a_counted_policy_follows_the_fixed_point() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, number = POLICY, 200_000
    for turn in range(1, 5):
        drawn = torch.multinomial(policy, 2 * number, replacement=True, generator=generator)
        drawn = drawn.reshape(number, 2)
        columns = raft_select(rewards=WORTH[drawn])
        kept = drawn.gather(1, columns[:, None]).flatten()
        policy = kept.bincount(minlength=4).double() / number
        law = best_of_k_distribution(POLICY, WORTH, 2**turn).probs
        assert (policy - law).abs().max() < 0.01
    assert is_close(law, 0.000015259, 0.028132239, 0.411979171, 0.559873331)
    assert float(policy @ WORTH) == pytest.approx(2.531710575, abs=0.01)


# c) the divergence


@pytest.mark.parametrize(
    ("k", "kl", "bound"),
    [
        (2, 0.141047776, 0.193147181),
        (4, 0.565914733, 0.636294361),
        (8, 1.116159590, 1.204441542),
    ],
)
def test_divergence_and_bound_are_the_sheets(k: int, kl: float, bound: float) -> None:
    found = best_of_k_distribution(POLICY, WORTH, k)
    assert (found.kl, found.kl_bound) == pytest.approx((kl, bound), abs=1e-9)


def test_the_bound_is_near_where_no_response_is_likely() -> None:
    many = torch.full((2000,), 1 / 2000, dtype=torch.float64)
    found = best_of_k_distribution(many, torch.arange(2000, dtype=torch.float64), 8)
    assert found.kl == pytest.approx(found.kl_bound, abs=0.01)
    assert found.kl < found.kl_bound


def test_the_best_gains_at_most_what_the_paper_says() -> None:
    for k in (2, 4, 8, 16):
        gain = best_of_k_distribution(POLICY, WORTH, k).mean_reward - 0.75
        assert 0 < gain <= 3 * math.sqrt(math.log(k) / 2)


# d) selection

TABLE = torch.tensor(
    [[0.1, 0.7, 0.3, 0.2], [5.1, 5.0, 5.9, 5.5], [-1, -1, -2, -3]], dtype=torch.float64
)
SHIFT = row(0, 0, 10)[:, None]


def test_local_selection_is_the_sheets() -> None:
    assert raft_select(rewards=TABLE).tolist() == [1, 2, 0]  # the last one a tie


def test_local_selection_ignores_each_prompts_scale() -> None:
    scale = row(10, 1, 0.1)[:, None]
    assert raft_select(rewards=scale * TABLE + row(-4, 0, 7)[:, None]).tolist() == [1, 2, 0]


def test_top_selection_is_the_sheets_and_knows_the_scale() -> None:
    assert raft_select(rewards=TABLE, strategy="top").tolist() == [6, 7, 4]
    assert raft_select(rewards=TABLE + SHIFT, strategy="top").tolist() == [8, 9, 10]


def test_threshold_keeps_every_good_sample() -> None:
    found = raft_select(rewards=TABLE, strategy="threshold", min_reward=0.3)
    assert found.tolist() == [1, 2, 4, 5, 6, 7]


def test_stream_keeps_the_best_so_far() -> None:
    # 0.1 is first; 0.7 beats it, 0.3 and 0.2 do not; then two of five may stay, then three of nine
    assert raft_select(rewards=TABLE, strategy="stream").tolist() == [0, 1, 4, 5, 6, 7]


def test_a_stream_keeps_each_place_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    kept, k, places = torch.zeros(12), 4, torch.arange(12)
    for _ in range(4000):
        rewards = torch.rand(3, k, generator=generator, dtype=torch.float64)
        kept[raft_select(rewards=rewards, strategy="stream")] += 1
    expected = (places // k + 1) / (places + 1)  # a sample's rank among the first n is uniform
    error = (expected * (1 - expected) / 4000).sqrt()
    assert ((kept / 4000 - expected).abs() <= 4 * error).all()


@pytest.mark.parametrize(
    ("minimum", "local", "top"), [(0.7, [1, 2, -1], [6, 7, 4]), (5.5, [-1, 2, -1], [6, 7])]
)
def test_a_minimum_is_inclusive_and_skips_prompts(
    minimum: float, local: list[int], top: list[int]
) -> None:
    assert raft_select(rewards=TABLE, min_reward=minimum).tolist() == local
    assert raft_select(rewards=TABLE, min_reward=minimum, strategy="top").tolist() == top


@pytest.mark.parametrize("strategy", ["local", "top", "threshold", "stream"])
def test_rewards_that_are_no_numbers_are_never_kept(strategy: str) -> None:
    rewards = torch.tensor([[math.nan, 1.0], [math.nan, math.nan], [-math.inf, 0.0]])
    found = RAFT(samples=2, strategy=strategy, min_reward=-5.0).collected(round_of(rewards))
    assert found["keep"][1:].tolist() in ([[False, False], [False, True]], [[False, False]] * 2)
    assert found["keep"][0].tolist() == [False, True]
    if strategy == "local":
        assert raft_select(rewards=rewards).tolist() == [1, -1, 1]


def test_all_zero_rewards_teach_nothing_where_a_minimum_stands() -> None:
    zeros = torch.zeros(3, 4)
    assert raft_select(rewards=zeros).tolist() == [0, 0, 0]
    assert raft_select(rewards=zeros, min_reward=1.0).tolist() == [-1, -1, -1]


def test_one_sample_is_kept_whatever_its_reward() -> None:
    assert raft_select(rewards=TABLE[:, :1]).tolist() == [0, 0, 0]


def round_of(rewards: Tensor, **more: Tensor) -> dict[str, Tensor]:
    """What the engine gives of a round."""
    return {
        "rewards": rewards,
        "sample_logps": torch.zeros_like(rewards),
        "sample_lengths": torch.ones_like(rewards),
        "sample_mask": torch.ones(rewards.shape, dtype=torch.bool),
        **more,
    }


@pytest.mark.parametrize(
    ("strategy", "flat"),
    [
        ("local", [1, 6, 8]),
        ("top", [4, 6, 7]),
        ("threshold", [1, 4, 5, 6, 7]),
        ("stream", [1, 4, 5, 6, 7]),
    ],
)
def test_what_is_kept_is_what_was_selected(strategy: str, flat: list[int]) -> None:
    minimum = None if strategy in ("local", "top") else 0.5
    objective = RAFT(samples=4, strategy=strategy, min_reward=minimum)
    keep = objective.collected(round_of(TABLE))["keep"]
    assert keep.shape == TABLE.shape
    assert keep.flatten().nonzero().flatten().tolist() == flat


def test_empty_samples_are_not_kept() -> None:
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[0, 1] = False
    keep = RAFT(samples=4).collected(round_of(TABLE, sample_mask=mask))["keep"]
    assert keep[0].tolist() == [False, False, True, False]


def test_threshold_asks_for_its_minimum() -> None:
    with pytest.raises(UserError, match="min_reward must be a number with strategy=threshold"):
        RAFT(strategy="threshold")
    with pytest.raises(UserError, match="min_reward must be a finite number, got nan"):
        RAFT(min_reward=math.nan)


# e, f) rounds on a planted reward

PROMPTS, PLACES, SYMBOLS, GOOD = 4, 6, 5, 3


def rounds(
    objective: RAFT, worth: float, seed: int, number: int, per_prompt: int = 64
) -> list[float]:
    """Mean reward of all samples by round; one categorical per prompt and place, 20 SFT steps."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(PROMPTS, PLACES, SYMBOLS, dtype=torch.float64, requires_grad=True)
    found = []
    for _ in range(number):
        probs = logits.detach().softmax(-1).reshape(-1, SYMBOLS)
        drawn = torch.multinomial(
            probs, per_prompt * objective.samples, replacement=True, generator=generator
        )
        shape = (PROMPTS, PLACES, per_prompt, objective.samples)
        tokens = drawn.reshape(shape).permute(0, 2, 3, 1)  # [prompts, per_prompt, K, places]
        rewards = (tokens == GOOD).sum(dim=-1).double()
        found.append(float(rewards.mean()))
        given = round_of(worth * rewards.flatten(0, 1))
        keep = objective.collected(given)["keep"].reshape(tokens.shape[:3])
        prompts = keep.nonzero()[:, 0]
        kept = torch.nn.functional.one_hot(tokens[keep], SYMBOLS).double()  # [N, places, symbols]
        for _ in range(20):
            logps = (logits.log_softmax(-1)[prompts] * kept).sum(dim=(1, 2))
            batch = {"logps": logps, "lengths": torch.full_like(logps, PLACES)}
            weights = objective.weights(batch)
            loss = (weights * objective.loss(batch)).sum() / weights.sum()
            (slope,) = torch.autograd.grad(loss, logits)
            logits = (logits - 20.0 * slope).detach().requires_grad_(True)
    return found


def test_rounds_climb_a_planted_reward() -> None:
    found = rounds(RAFT(samples=8), worth=1.0, seed=0, number=6)
    assert found[0] == pytest.approx(1.2, abs=0.1)
    assert found[4] > 4.0
    assert all(after > before - 0.15 for before, after in itertools.pairwise(found))


def test_more_samples_climb_faster() -> None:
    few, many = (rounds(RAFT(samples=k), worth=1.0, seed=0, number=4) for k in (4, 8))
    assert many[3] > few[3] + 0.5 > 3.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_a_choice_nothing_climbs(seed: int) -> None:
    found = rounds(RAFT(samples=1), worth=1.0, seed=seed, number=10, per_prompt=128)
    assert found == pytest.approx([1.2] * 10, abs=0.4)


def test_a_constant_reward_does_not_climb() -> None:
    found = rounds(RAFT(samples=4), worth=0.0, seed=0, number=10, per_prompt=128)
    assert found == pytest.approx([1.2] * 10, abs=0.4)


def test_a_wrong_sign_sinks() -> None:
    found = rounds(RAFT(samples=4), worth=-1.0, seed=0, number=4)
    assert found[3] < 0.3


# g) KL ranking

EQUAL = torch.ones(1, 2, dtype=torch.float64)
DRIFTED = {"sample_logps": row(-2, -4)[None], "ref_sample_logps": row(-5, -4)[None]}


@pytest.mark.parametrize(("kl_weight", "column"), [(0.0, 0), (0.1, 1)])
def test_of_equal_rewards_the_nearer_to_the_reference_is_chosen(
    kl_weight: float, column: int
) -> None:
    assert raft_select(rewards=EQUAL, **DRIFTED, kl_weight=kl_weight).tolist() == [column]
    objective = RAFT(samples=2, kl_weight=kl_weight)
    assert objective.collected(round_of(EQUAL, **DRIFTED))["keep"].int().argmax() == column


def test_the_minimum_looks_at_the_raw_reward() -> None:
    found = raft_select(rewards=EQUAL, **DRIFTED, kl_weight=5.0, min_reward=1.0)
    assert found.tolist() == [1]


def test_only_a_kl_weight_needs_the_reference() -> None:
    assert RAFT().needs == RAFT.needs == Needs(rewards=True)
    assert RAFT(kl_weight=0.01).needs == Needs(reference=True, rewards=True)
    with pytest.raises(TypeError, match="needs sample_logps and ref_sample_logps"):
        raft_select(rewards=EQUAL, kl_weight=0.1)


# h) the training step


@pytest.mark.parametrize("reduction", ["token-mean", "sequence-mean", "sum"])
def test_a_step_is_fine_tuning_on_what_was_kept(reduction: str) -> None:
    batch = {"logps": row(-12.5, -30.25, -8), "lengths": row(10, 25, 8)}
    ours, theirs = RAFT(reduction=reduction), SFT(reduction=reduction)
    assert torch.equal(ours.loss(batch), theirs.loss(batch))
    assert torch.equal(ours.weights(batch), theirs.weights(batch))


def test_no_gradient_reaches_the_reward_or_what_was_discarded() -> None:
    logits = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    logps = logits.log_softmax(-1).flatten()
    rewards = TABLE.clone().requires_grad_(True)
    keep = RAFT(samples=4).collected(round_of(rewards, sample_logps=logps.reshape(3, 4)))["keep"]
    batch = {"logps": logps.reshape(3, 4)[keep], "lengths": row(1, 1, 1)}
    total = RAFT().loss(batch).mean()
    slope, to_rewards = torch.autograd.grad(total, (logits, rewards), allow_unused=True)
    assert to_rewards is None
    assert torch.allclose(slope, (logits.softmax(-1) - keep.double()) / 3, atol=1e-15)


def test_gradients_pass_gradcheck() -> None:
    logps, lengths = row(-12.5, -30.25).requires_grad_(True), row(10, 25)
    objective = RAFT()
    assert torch.autograd.gradcheck(
        lambda x: objective.loss({"logps": x, "lengths": lengths}), (logps,)
    )
