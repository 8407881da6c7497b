"""Transfer Q* against sheet 30's enumerable world, its identities and a search that re-reads."""

import itertools
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch

from tests.decoding.slow_search import hashed, slow_search
from tests.decoding.table_model import table_lm
from tests.tiny_models import make_tiny
from trueup.decoding.args import ARGS
from trueup.decoding.protocol import Request
from trueup.decoding.transfer_q import (
    TransferQ,
    effective_samples,
    token_policy,
    transfer_q_value,
)
from trueup.models import LanguageModel, load
from trueup.models.sampling import Sampling

FIRST = np.array([0.5, 0.3, 0.2])
SECOND = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
R = np.array([[0, 1, 2], [0.5, 0.2, 1.5], [2, 0.1, -1]])
R_BL = np.array([[1, 0, 0.5], [0.2, 1, 0], [0.3, 0.6, 0.4]])
BETA, ALPHA = 1.0, 0.5
JOINT = FIRST[:, None] * SECOND
DIRECT = [1.064475605, 1.008236553, 1.044445182]


def aligned(rewards: np.ndarray) -> tuple[np.ndarray, float]:
    """The optimal policy for a reward, [first, second], and its constant."""
    weights = JOINT * np.exp(rewards / BETA)
    return weights / weights.sum(), float(weights.sum())


def conditional(joint: np.ndarray) -> np.ndarray:
    return joint / joint.sum(axis=1, keepdims=True)


def enumerated(joint: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Expected value of every first token."""
    return (conditional(joint) * values).sum(axis=1)


# 1. The sheet's vectors, all expectations exact.


def test_constants_are_the_sheet_s():
    assert aligned(R)[1] == pytest.approx(1.991426036439, abs=1e-12)
    assert aligned(R_BL)[1] == pytest.approx(1.921078555613, abs=1e-12)
    assert (aligned(R)[0] * R).sum() == pytest.approx(1.042816286786, abs=1e-12)


def test_uncorrected_rollouts_are_another_number():
    wrong = enumerated(aligned(R_BL)[0], R)
    assert wrong == pytest.approx([0.300473264, 0.443395472, -0.599253502], abs=1e-9)


def weighted_value(normaliser: str, beta: float = BETA, log_constants: float = 0.0) -> np.ndarray:
    """`transfer_q_value` in expectation over the baseline's rollouts.

    A rollout of probability p among n equal ones is the same as a reward column of weight p, and
    the self-normalised form takes weights as an addition of beta log p to r - r_baseline.
    """
    chances = conditional(aligned(R_BL)[0])
    if normaliser == "self":
        return transfer_q_value(R, R_BL - beta * np.log(chances), beta, "self")
    singles = np.stack(
        [
            transfer_q_value(R[:, [j]], R_BL[:, [j]], beta, normaliser, log_constants)
            for j in range(3)
        ],
        axis=1,
    )
    return (chances * singles).sum(axis=1)


def test_self_normalised_is_the_direct_value_under_the_target_s_own_policy():
    direct = enumerated(aligned(R)[0], R)
    assert direct == pytest.approx(DIRECT, abs=1e-9)
    assert weighted_value("self") == pytest.approx(direct, abs=1e-12)


def test_prompt_level_normaliser_is_the_sheet_s_and_right_on_average():
    log_constants = np.log(aligned(R_BL)[1] / aligned(R)[1])
    found = weighted_value("prompt", log_constants=log_constants)
    assert found == pytest.approx([1.055559295, 1.167577097, 0.762821048], abs=1e-9)
    mean = (aligned(R_BL)[0].sum(axis=1) * found).sum()
    assert mean == pytest.approx(1.042816286786, abs=1e-12)


def test_code_form_is_no_normaliser_with_beta_2():
    found = weighted_value("none", beta=2.0)
    assert found == pytest.approx([0.569072198, 0.670775582, 0.035199693], abs=1e-9)


def test_policy_and_its_value_are_the_sheet_s():
    second = np.stack([token_policy(np.log(SECOND[i]), R[i], ALPHA) for i in range(3)])
    values = {
        "direct": (np.array(DIRECT), 1.568107137319),
        "sft": (enumerated(JOINT, R), 1.466477657158),
        "uncorrected": (enumerated(aligned(R_BL)[0], R), 1.472428114107),
    }
    for q, expected in values.values():
        first = token_policy(np.log(FIRST), q, ALPHA)
        assert (first[:, None] * second * R).sum() == pytest.approx(expected, abs=1e-8)
    first = token_policy(np.log(FIRST), np.array(DIRECT), ALPHA)
    assert first == pytest.approx([0.520707892, 0.279188027, 0.200104081], abs=1e-8)


def test_soft_values_sampled_step_by_step_give_the_response_level_optimum():
    soft = BETA * np.log((SECOND * np.exp(R / BETA)).sum(axis=1))
    assert soft == pytest.approx([0.767507694, 0.826345173, 0.134291576], abs=1e-9)
    first = token_policy(np.log(FIRST), soft, BETA)
    second = np.stack([token_policy(np.log(SECOND[i]), R[i], BETA) for i in range(3)])
    assert first[:, None] * second == pytest.approx(aligned(R)[0], abs=1e-12)


def test_equal_rewards_make_indirect_direct_bit_for_bit():
    for normaliser in ("self", "none", "prompt"):
        for rewards in (R[:, :1], R[:, :2]):  # powers of two average without rounding
            value = transfer_q_value(rewards, rewards, 0.3, normaliser)
            assert (value == rewards.mean(axis=1)).all()


def test_constants_move_the_self_normalised_value_uniformly_and_the_other_not():
    base = transfer_q_value(R, R_BL, BETA, "self")
    moved = transfer_q_value(R + 3, R_BL - 2, BETA, "self")
    assert moved - base == pytest.approx([3, 3, 3], abs=1e-12)
    bare = transfer_q_value(R + 3, R_BL - 2, BETA, "none") - transfer_q_value(R, R_BL, BETA, "none")
    assert np.ptp(bare) > 1


def test_large_rewards_do_not_overflow_the_self_normalised_value():
    assert transfer_q_value(np.array([[9e3, -9e3]]), np.zeros((1, 2)), 1.0, "self") == [9e3]


def test_effective_samples_run_from_one_to_all():
    even = effective_samples(np.ones((1, 4)), np.ones((1, 4)), 1.0)
    uneven = effective_samples(np.array([[50.0, 0, 0, 0]]), np.zeros((1, 4)), 1.0)
    assert even == pytest.approx([4], abs=1e-12)
    assert uneven == pytest.approx([1], abs=1e-12)


# The world as a decoder: tokens 0-2 first, 3-11 second (one for each pair), 12 begins.


def world(first: np.ndarray, second: np.ndarray) -> LanguageModel:
    table = np.full((13, 13), 1 / 13)
    table[12] = np.concatenate([first, np.zeros(10)])
    for token in range(3):
        table[token] = 0
        table[token, 3 + 3 * token : 6 + 3 * token] = second[token]
    return table_lm(table, start="12", eos=None)


POLICY = world(FIRST, SECOND)


def baseline(rewards: np.ndarray) -> LanguageModel:
    joint = aligned(rewards)[0]
    return world(joint.sum(axis=1), conditional(joint))


def from_table(table: np.ndarray):
    """The reward of a whole text: its second token names the pair."""

    def reward(prompts, texts):
        # "12" and "010" are read by their last token: numbers behind the first digit
        return [float(table.ravel()[int(text[1:]) - 3]) if text[1:] else 0.0 for text in texts]

    return reward


def run(decoder, lm, prompts, rewards, **sampling):
    return decoder.decode(lm, prompts, Request(sampling=Sampling(**sampling), rewards=rewards))


def first_values(mode: str, rollouts: int, lm_baseline: LanguageModel, seed: int) -> np.ndarray:
    decoder = TransferQ(
        baseline=lm_baseline,
        baseline_reward=from_table(R_BL),
        mode=mode,
        beta=BETA,
        alpha=ALPHA,
        top_k=3,
        n_rollouts=rollouts,
    )
    (result,) = run(decoder, POLICY, ["12"], {"r": from_table(R)}, max_new_tokens=2, seed=seed)[0]
    return np.array([candidate["h"] for candidate in result.trace[0]["candidates"]])


@pytest.mark.parametrize(
    ("mode", "rewards"), [("direct", R), ("indirect", R_BL)], ids=["direct", "indirect"]
)
def test_sampled_rollouts_estimate_the_value_within_four_standard_errors(mode, rewards):
    """2,000 rollouts a token; the self-normalised error by the delta method."""
    n = 2000
    found = first_values(mode, n, baseline(rewards), seed=1)
    chances = conditional(aligned(rewards)[0])
    weights = np.exp((R - R_BL) / BETA) if mode == "indirect" else np.ones_like(R)
    mean_weight = (chances * weights).sum(axis=1, keepdims=True)
    spread = (chances * (weights / mean_weight) ** 2 * (R - np.array(DIRECT)[:, None]) ** 2).sum(1)
    assert (np.abs(found - DIRECT) < 4 * np.sqrt(spread / n)).all()


def test_uncorrected_direct_rollouts_of_another_baseline_miss_the_value():
    found = first_values("direct", 2000, baseline(R_BL), seed=1)
    assert found == pytest.approx([0.300473264, 0.443395472, -0.599253502], abs=0.12)
    assert found[2] < 0 < DIRECT[2]


def test_step_policy_draws_are_the_closed_form():
    """Chi-square over 1,500 draws of the first token, TQ of greedy rollouts, p > 0.001."""
    decoder = TransferQ(baseline=baseline(R), alpha=ALPHA, top_k=3, sample="sample")
    results = run(decoder, POLICY, ["12"], {"r": from_table(R)}, max_new_tokens=2, n=85, seed=3)[0]
    more = run(decoder, POLICY, ["12"], {"r": from_table(R)}, max_new_tokens=2, n=85, seed=4)[0]
    q = R[np.arange(3), conditional(aligned(R)[0]).argmax(axis=1)]
    expected = token_policy(np.log(FIRST), q, ALPHA)
    counts = Counter(result.token_ids[0] for result in [*results, *more])
    observed = [counts[token] for token in range(3)]
    assert scipy.stats.chisquare(observed, 170 * expected).pvalue > 0.001
    assert scipy.stats.chisquare(observed, 170 * FIRST).pvalue < 0.001


# Identities of the decoder.

PROMPTS = ["The nurse said", "A", "He went to the house near"]


@pytest.fixture(scope="module")
def exact(tiny_model_folder) -> LanguageModel:
    return load(tiny_model_folder, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> LanguageModel:
    folder = make_tiny("llama", tmp_path_factory.mktemp("other") / "llama", seed=9)
    return load(folder, device="cpu", dtype="float64")


def tokens(decoder, lm, reward=hashed, **sampling) -> list[tuple[int, ...]]:
    sampling = {"max_new_tokens": 7, **sampling}
    return [tuple(r[0].token_ids) for r in run(decoder, lm, PROMPTS, {"r": reward}, **sampling)]


def test_no_lookahead_is_args(exact):
    no_lookahead = TransferQ(lookahead=0, alpha=0.25, top_k=4)
    assert tokens(no_lookahead, exact) == tokens(ARGS(weight=4, top_k=4), exact)


@pytest.mark.parametrize("lookahead", [1, 3, 9])
@pytest.mark.parametrize("has_baseline", [False, True])
def test_cached_search_is_the_uncached_one(exact, other, lookahead, has_baseline):
    roller = other if has_baseline else None
    decoder = TransferQ(baseline=roller, alpha=0.25, top_k=4, lookahead=lookahead)
    for prompt, found in zip(PROMPTS, tokens(decoder, exact), strict=True):
        ids, _ = slow_search(
            exact,
            prompt,
            score=lambda logps, h: logps[-1] + 4 * h,
            reward=hashed,
            top_k=4,
            lookahead=lookahead,
            max_new_tokens=7,
            roller=roller,
        )
        assert list(found) == ids


def test_the_baseline_matters(exact, other):
    with_other = TransferQ(baseline=other, alpha=0.1, top_k=4)
    assert tokens(with_other, exact) != tokens(TransferQ(alpha=0.1, top_k=4), exact)


def test_the_policy_as_its_own_baseline_is_controlled_decoding(exact, tiny_model_folder):
    twin = load(tiny_model_folder, device="cpu", dtype="float64")
    named = TransferQ(baseline=twin, alpha=0.1, top_k=4, lookahead=5)
    assert tokens(named, exact) == tokens(TransferQ(alpha=0.1, top_k=4, lookahead=5), exact)


def test_a_large_alpha_is_greedy_generate(exact):
    found = tokens(TransferQ(alpha=1e9, top_k=5, lookahead=2), exact)
    for prompt, ids in zip(PROMPTS, found, strict=True):
        start = torch.tensor([exact.encoder.prompt(prompt)])
        peer = exact.model.generate(start, do_sample=False, max_new_tokens=7, pad_token_id=0)
        assert list(ids) == peer[0, start.shape[1] :].tolist()


def test_a_large_alpha_draws_from_the_policy_s_own_top_k():
    logps = np.log(FIRST)
    assert scipy.stats.entropy(token_policy(logps, np.array(DIRECT), 1e9), FIRST) < 1e-10


def test_a_small_alpha_takes_the_largest_value(exact):
    for result in run(
        TransferQ(alpha=1e-9, top_k=4), exact, PROMPTS, {"r": hashed}, max_new_tokens=5
    ):
        for step in result[0].trace:
            values = [candidate["h"] for candidate in step["candidates"]]
            kept = [candidate["h"] for candidate in step["candidates"] if candidate["kept"]]
            assert kept == [max(values)]


@pytest.mark.parametrize("sample", ["greedy", "sample"])
def test_a_constant_added_to_the_reward_changes_no_direct_text(exact, sample):
    decoder = TransferQ(alpha=0.2, top_k=4, sample=sample, n_rollouts=2, lookahead=3)
    moved = tokens(decoder, exact, lambda p, t: [value + 5 for value in hashed(p, t)])
    assert moved == tokens(decoder, exact)


def length(prompts, texts):
    return [len(text) / 10 for text in texts]


@pytest.mark.parametrize(("normaliser", "is_same"), [("self", True), ("none", False)])
def test_constants_in_both_rewards_change_no_self_normalised_text(exact, normaliser, is_same):
    def decoder(shift: float) -> TransferQ:
        return TransferQ(
            mode="indirect",
            normaliser=normaliser,
            beta=0.5,
            alpha=0.1,
            top_k=4,
            n_rollouts=3,
            lookahead=4,
            baseline_reward=lambda p, t: [value - shift for value in length(p, t)],
        )

    moved = tokens(decoder(2.0), exact, lambda p, t: [value + 3 for value in hashed(p, t)])
    assert (moved == tokens(decoder(0.0), exact)) is is_same


def test_prompt_normaliser_estimates_its_constants_from_the_policy():
    decoder = TransferQ(
        baseline=baseline(R_BL),
        baseline_reward=from_table(R_BL),
        mode="indirect",
        normaliser="prompt",
        normaliser_samples=200,
        beta=BETA,
        alpha=ALPHA,
        top_k=3,
        n_rollouts=80,
    )
    found = np.mean(
        [
            [c["h"] for c in run(
                decoder, POLICY, ["12"], {"r": from_table(R)}, max_new_tokens=2, seed=seed
            )[0][0].trace[0]["candidates"]]
            for seed in range(20)
        ],
        axis=0,
    )  # fmt: skip
    assert found == pytest.approx([1.055559295, 1.167577097, 0.762821048], abs=0.12)


@pytest.mark.parametrize(
    "decoder",
    [
        TransferQ(alpha=0.2, top_k=4, lookahead=3),
        TransferQ(alpha=0.2, top_k=3, lookahead=3, n_rollouts=2, sample="sample"),
    ],
    ids=["greedy", "sampled"],
)
def test_a_batch_of_prompts_is_each_prompt_alone(exact, decoder):
    alone = [
        tuple(run(decoder, exact, [prompt], {"r": hashed}, max_new_tokens=7)[0][0].token_ids)
        for prompt in PROMPTS
    ]
    assert tokens(decoder, exact) == alone


def test_draws_of_one_prompt_differ_and_come_best_first(exact):
    decoder = TransferQ(alpha=1.0, top_k=8, lookahead=1, sample="sample")
    results = run(decoder, exact, PROMPTS[:1], {"r": hashed}, max_new_tokens=6, n=5)[0]
    assert len({result.token_ids for result in results}) > 1
    rewards = [result.rewards["r"] for result in results]
    assert rewards == sorted(rewards, reverse=True)


# 4. and 5. Planted effect: reward = share of mode-B tokens, a baseline that writes mode B.


def modes(stays_in_b: float) -> np.ndarray:
    """Tokens 0-3 are mode A, which keeps 0.8 of its mass; 4-7 mode B, which keeps `stays_in_b`."""
    table = np.zeros((8, 8))
    for token in range(8):
        mode = token // 4
        stays = stays_in_b if mode else 0.8
        table[token, 4 * mode : 4 * mode + 4] = stays * np.array([0.4, 0.3, 0.2, 0.1])
        table[token, 4 - 4 * mode : 8 - 4 * mode] = (1 - stays) * np.array([0.4, 0.3, 0.2, 0.1])
    return table


def mode_b(prompts, texts):
    return [sum(letter in "4567" for letter in text) / max(1, len(text)) for text in texts]


def share_of_b(table: np.ndarray | None, *, alpha: float = 0.5, n_rollouts: int = 1) -> float:
    policy = table_lm(modes(0.45), start="0", eos=None)
    roller = None if table is None else table_lm(table, start="0", eos=None)
    decoder = TransferQ(baseline=roller, alpha=alpha, top_k=5, lookahead=8, n_rollouts=n_rollouts)
    prompts = [f"{first} {second}" for first in range(8) for second in range(8)]
    results = run(decoder, policy, prompts, {"r": mode_b}, max_new_tokens=12)
    return float(np.mean([result[0].rewards["r"] for result in results]))


def test_a_better_baseline_earns_more_than_the_policy_s_own_rollouts_and_greedy():
    transferred, own, greedy = share_of_b(modes(0.9)), share_of_b(None), share_of_b(None, alpha=1e9)
    assert transferred > 0.8  # 0.917 measured
    assert 0.1 > own > greedy == 0  # 0.042 measured


def test_an_untrained_baseline_does_not_beat_the_policy_s_own_rollouts():
    """A uniform model, as weights are before training; both sides draw 8 rollouts."""
    untrained = share_of_b(np.full((8, 8), 1 / 8), n_rollouts=8)
    assert untrained <= share_of_b(None, n_rollouts=8) + 0.02


def test_trunk_tokens_of_both_models_are_the_least_possible():
    """Greedy search with a baseline that goes on as the policy does: its rollouts are reused."""
    steps, k, lookahead = 6, 3, 3
    policy = table_lm(modes(0.9), start="0", eos=None)
    roller = table_lm(modes(0.9), start="0", eos=None)
    prompts = ["0", "1 2", "3"]
    decoder = TransferQ(baseline=roller, alpha=1e9, top_k=k, lookahead=lookahead)
    run(decoder, policy, prompts, {"r": mode_b}, max_new_tokens=steps)
    assert policy.work.trunk_tokens == 4 + 3 * (steps - 1)
    horizons = [min(lookahead, steps - step) for step in range(1, steps + 1)]
    reused = sum(before - 1 for before, now in itertools.pairwise(horizons) if now)
    assert roller.work.trunk_tokens == 4 + 3 * (k * sum(horizons) - reused)
