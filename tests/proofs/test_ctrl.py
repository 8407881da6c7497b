"""CTRL: sheet 54's numbers, its table of win rates, its optimum, and what must not matter."""

import functools
import itertools
import math

import pytest
import torch
from torch import Tensor

from tests.proofs.dpo_family import is_close, row
from trueup.errors import UserError
from trueup.objectives.ctrl import (
    CTRL,
    Plan,
    beta_for_kl,
    calibrate,
    outlook,
    plan,
    tilt,
    transform,
    win_rate,
    worth,
)
from trueup.worlds.enumerable import tilted

REF = row(0.1, 0.2, 0.3, 0.4)
REWARDS = row(1, 2, 2, 5)
CALIBRATED = row(0.05, 0.35, 0.35, 0.8)
GRID = torch.linspace(0, 1, 10_001, dtype=torch.float64)
KINDS = {
    "u": GRID,
    "log": GRID.log(),
    "exp10": transform(GRID, "exp", 10.0),
    "exp5": transform(GRID, "exp", 5.0),
    "exp-10": transform(GRID, "exp", -10.0),
}


def kl(policy: Tensor, ref: Tensor) -> float:
    return float((policy * (policy / ref).log()).sum())


def exactly_calibrated(ref_probs: Tensor, rewards: Tensor) -> Tensor:
    below = (rewards[None] < rewards[:, None]).double() @ ref_probs
    return below + (rewards[None] == rewards[:, None]).double() @ ref_probs / 2


# 8.1: calibration


def population(rewards: Tensor) -> Tensor:
    """Ten reference samples in exactly REF's proportions."""
    return rewards.repeat_interleave(torch.tensor([1, 2, 3, 4]))


def test_calibrated_rewards_are_the_sheets() -> None:
    found = calibrate(REWARDS, population(REWARDS).expand(4, -1))
    assert is_close(found, *CALIBRATED.tolist(), tolerance=1e-12)
    assert float(REF @ found) == pytest.approx(0.5, abs=1e-12)
    assert is_close(exactly_calibrated(REF, REWARDS), *CALIBRATED.tolist(), tolerance=1e-12)


@pytest.mark.parametrize("change", [torch.exp, lambda r: r**3, lambda r: 100 * r - 7])
def test_increasing_maps_of_the_reward_change_nothing(change) -> None:
    rewards = change(REWARDS)
    assert torch.equal(calibrate(rewards, population(rewards).expand(4, -1)), CALIBRATED)


def test_a_map_that_is_not_increasing_is_seen() -> None:
    rewards = (REWARDS - 3) ** 2
    assert not torch.allclose(calibrate(rewards, population(rewards).expand(4, -1)), CALIBRATED)


def test_counting_only_lower_rewards_would_miss_the_half() -> None:
    strict = (population(REWARDS) < REWARDS[:, None]).double().mean(-1)
    assert float(REF @ strict) < 0.4


def test_each_prompt_has_its_own_quantiles() -> None:
    rewards = row(3, 3)[:, None].expand(2, 4)
    references = torch.stack([row(0, 1, 2), row(4, 5, 6)])
    found = calibrate(rewards, references[:, None, :])
    assert torch.equal(found, row(1, 0)[:, None].expand(2, 4))


# 8.2: tilted policies and exact win rates


@pytest.mark.parametrize(
    ("kind", "t", "beta", "policy", "distance"),
    [
        ("identity", 1.0, 0.25, (0.01021005, 0.06779711, 0.10169566, 0.82029719), 0.3824850264),
        ("exp", 10.0, 1000, (0.01178457, 0.02432258, 0.03648386, 0.92740899), 0.6265724),
        ("exp", -10.0, 0.1, (0.00030212, 0.19239787, 0.28859680, 0.51870320), 0.1144016),
    ],
)
def test_tilted_policies_are_the_sheets(
    kind, t: float, beta: float, policy: tuple[float, ...], distance: float
) -> None:
    found = tilt(REF, transform(CALIBRATED, kind, t), beta)
    assert is_close(found, *policy, tolerance=6e-9)
    assert kl(found, REF) == pytest.approx(distance, abs=5e-8)


STEEP = tilt(REF, transform(CALIBRATED, "exp", 10.0), 1000)


@pytest.mark.parametrize(
    ("procedure", "n", "expected"),
    [
        ("bon", 1, 0.7637986751),
        ("won", 1, 0.7637986751),
        ("bon", 2, 0.6773666223),
        ("won", 2, 0.8534947013),
        ("bon", 4, 0.5647861166),
        ("won", 4, 0.8792621314),
    ],
)
def test_win_rates_are_the_sheets(procedure, n: int, expected: float) -> None:
    assert float(win_rate(STEEP, REF, REWARDS, procedure, n)) == pytest.approx(expected, abs=2e-10)


@pytest.mark.parametrize("procedure", ["bon", "won"])
def test_win_rate_is_the_sum_over_all_outcomes(procedure) -> None:
    pick = max if procedure == "bon" else min
    total = 0.0
    for a, b, c, d in itertools.product(range(4), repeat=4):
        ours, theirs = (pick(REWARDS[[i, j]].tolist()) for i, j in ((a, b), (c, d)))
        probability = float(STEEP[a] * STEEP[b] * REF[c] * REF[d])
        total += probability * (1.0 if ours > theirs else 0.5 if ours == theirs else 0.0)
    assert float(win_rate(STEEP, REF, REWARDS, procedure, 2)) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("procedure", ["bon", "won"])
def test_the_reference_wins_half_against_itself(procedure) -> None:
    assert float(win_rate(REF, REF, REWARDS, procedure, 7)) == pytest.approx(0.5, abs=1e-12)


# 8.3: continuous rewards at equal distance, N = 4


@functools.cache
def at_equal_kl(name: str, procedure: str, distance: float = 0.5, n: int = 4) -> Plan:
    beta = beta_for_kl(KINDS[name], distance)
    return outlook(KINDS[name], beta=beta, procedure=procedure, n=n)


@pytest.mark.parametrize(
    ("name", "standard", "best", "worst"),
    [
        ("u", 0.773730, 0.799827, 0.885989),
        ("log", 0.768221, 0.768221, 0.927046),
        ("exp10", 0.711745, 0.871513, 0.676286),
        ("exp5", 0.746126, 0.856573, 0.746510),
        ("exp-10", 0.735787, 0.685939, 0.947622),
    ],
)
def test_table_of_transforms_is_the_sheets(
    name: str, standard: float, best: float, worst: float
) -> None:
    bon, won = at_equal_kl(name, "bon"), at_equal_kl(name, "won")
    assert bon.kl == pytest.approx(0.5, abs=1e-9)
    assert bon.standard_win_rate == won.standard_win_rate == pytest.approx(standard, abs=2e-6)
    assert (bon.win_rate, won.win_rate) == pytest.approx((best, worst), abs=2e-6)


@pytest.mark.parametrize(
    ("procedure", "beta", "standard", "won"),
    [("bon", 0.216618, 0.702457, 0.873248), ("won", 0.208424, 0.734378, 0.947894)],
)
def test_fixed_points_are_the_sheets(procedure, beta: float, standard: float, won: float) -> None:
    found = plan(procedure, 4, beta)
    assert found.kl == pytest.approx(0.5, abs=2e-5)  # beta has six digits
    assert (found.standard_win_rate, found.win_rate) == pytest.approx((standard, won), abs=2e-6)


def test_the_other_sides_win_rates_of_the_fixed_points_are_the_sheets() -> None:
    best, worst = plan("bon", 4, 0.216618), plan("won", 4, 0.208424)
    crossed = (
        outlook(best.phi, beta=0.216618, procedure="won", n=4).win_rate,
        outlook(worst.phi, beta=0.208424, procedure="bon", n=4).win_rate,
    )
    assert crossed == pytest.approx((0.664583, 0.680276), abs=2e-6)


def test_a_smaller_distance_is_the_sheets() -> None:
    assert at_equal_kl("u", "bon", 0.25).win_rate == pytest.approx(0.730370, abs=2e-6)
    assert at_equal_kl("exp10", "bon", 0.25).win_rate == pytest.approx(0.796649, abs=2e-6)
    assert plan("bon", 4, 0.434189).win_rate == pytest.approx(0.796883, abs=2e-6)


def test_each_procedure_has_its_own_order_of_transforms() -> None:
    best = [at_equal_kl(k, "bon").win_rate for k in ("exp10", "exp5", "u", "log", "exp-10")]
    assert [plan("bon", 4, 0.216618).win_rate, *best] == sorted(
        [plan("bon", 4, 0.216618).win_rate, *best], reverse=True
    )
    worst = [at_equal_kl(k, "won").win_rate for k in ("exp-10", "log", "u", "exp5", "exp10")]
    assert [plan("won", 4, 0.208424).win_rate, *worst] == sorted(
        [plan("won", 4, 0.208424).win_rate, *worst], reverse=True
    )
    plain = {k: at_equal_kl(k, "bon", n=1).win_rate for k in KINDS}
    assert max(plain, key=plain.__getitem__) == "u"


# 8.4: closed forms


def test_the_reference_itself_has_all_win_rates_one_half() -> None:
    for procedure in ("bon", "won"):
        found = outlook(GRID, beta=1e9, procedure=procedure, n=4)
        assert (found.standard_win_rate, found.win_rate) == pytest.approx((0.5, 0.5), abs=1e-7)
        assert found.kl == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("m", "distance"), [(2, 0.1931472), (4, 0.6362944), (8, 1.2044415)])
@pytest.mark.parametrize("n", [1, 4, 9])
def test_log_is_the_law_of_best_of_m(m: int, distance: float, n: int) -> None:
    found = outlook(GRID.log(), beta=1 / (m - 1), procedure="bon", n=n)
    assert found.kl == pytest.approx(distance, abs=2e-7)
    expected = (m / (m + 1), m / (m + 1))
    assert (found.standard_win_rate, found.win_rate) == pytest.approx(expected, abs=4e-6)
    assert torch.allclose(found.cdf, GRID**m, atol=1e-7)


def test_identity_has_its_closed_form() -> None:
    found = outlook(GRID, beta=0.25, procedure="bon", n=4)
    closed = 1 / -math.expm1(-1 / 0.25) - 0.25
    assert closed == pytest.approx(0.7686573604, abs=1e-10)
    assert found.standard_win_rate == pytest.approx(closed, abs=1e-8)
    assert found.kl == pytest.approx(0.4794092494, abs=1e-7)


@pytest.mark.parametrize(
    ("kind", "t"), [("identity", 1.0), ("log", 1.0), ("exp", 10.0), ("exp", -10.0), ("exp", 0.05)]
)
def test_a_normalised_transform_has_unit_spread_and_the_same_shape(kind, t: float) -> None:
    middles = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    unit, plain = transform(middles, kind, t, normalise=True), transform(middles, kind, t)
    assert float(unit.std()) == pytest.approx(1, abs=1e-3)
    ratios = unit.diff() / plain.diff()
    assert torch.allclose(ratios, ratios[:1].expand_as(ratios), rtol=1e-3)
    assert (unit.diff() > 0).all()


def test_the_steepest_transform_stays_finite_in_float32() -> None:
    for t in (50.0, -50.0):
        for normalise in (False, True):
            found = transform(torch.linspace(0, 1, 101), "exp", t, normalise)
            assert found.dtype == torch.float32
            assert torch.isfinite(found).all()


# 8.5: the fixed point


def test_fixed_point_at_one_half_is_the_sheets() -> None:
    found = plan("bon", 4, 0.5)
    assert 25 <= found.steps <= 40
    assert found.phi[0] == 0
    assert float(found.cdf[5000]) == pytest.approx(0.342893, abs=1e-6)
    assert float(found.phi[-1]) == pytest.approx(1.17865801, abs=1e-7)
    assert float(found.phi[-1] - found.phi[5000]) == pytest.approx(1.17291102, abs=1e-7)
    assert found.win_rate == pytest.approx(0.77915572, abs=1e-7)
    assert found.kl == pytest.approx(0.21193377, abs=1e-6)


def test_calibration_alone_is_best_for_one_sample() -> None:
    assert torch.allclose(plan("bon", 1, 0.3).phi, GRID, atol=1e-12)


def test_a_fixed_point_that_does_not_settle_is_an_error() -> None:
    with pytest.raises(UserError, match="beta must be larger for the fixed point of bon with n=4"):
        plan("bon", 4, 0.13)


# 8.6: the gradient of a win rate


@pytest.mark.parametrize("procedure", ["bon", "won"])
def test_worth_is_the_gradient_of_the_win_rate(procedure) -> None:
    bins, n = 200, 4
    generator = torch.Generator().manual_seed(0)
    middles = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    logits = 2 * middles + 0.3 * torch.randn(bins, generator=generator, dtype=torch.float64)
    logits.requires_grad_(True)
    probs = logits.softmax(-1)
    ref = torch.full((bins,), 1 / bins, dtype=torch.float64)
    (found,) = torch.autograd.grad(win_rate(probs, ref, middles, procedure, n), logits)
    policy = probs.detach()
    cdf = torch.cat([row(0), policy.cumsum(0)])
    edges = worth(cdf, procedure, n)
    phi = (edges[1:] + edges[:-1]) / 2
    expected = policy * (phi - policy @ phi)
    assert float((found - expected).norm() / expected.norm()) < 0.02
    other = policy * (middles - policy @ middles)  # control: the plain calibrated reward
    other *= expected.norm() / other.norm()
    assert float((found - other).norm() / expected.norm()) > 0.2


# 8.7: the estimate from K = 100 samples


def test_estimate_is_unbiased_with_the_sheets_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.multinomial(REF.expand(20_000, 4), 100, True, generator=generator)
    found = calibrate(REWARDS.expand(20_000, 4), REWARDS[draws][:, None, :])
    assert is_close(found.mean(0), *CALIBRATED.tolist(), tolerance=0.001)
    assert is_close(found.std(0), 0.015, 0.032, 0.032, 0.0245, tolerance=0.0007)


# 8.8: training reaches the optimum; which transform wins what


def drawn_rewards(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(64, generator=generator, dtype=torch.float64)


UNIFORM = torch.full((64,), 1 / 64, dtype=torch.float64)


def discrete_beta(phi: Tensor, distance: float = 0.5) -> float:
    """The beta of that KL on the 64 answers, by bisection in its logarithm."""
    low, high = -20.0, 20.0
    for _ in range(100):
        middle = (low + high) / 2
        policy = tilt(UNIFORM, phi, math.exp(middle))
        too_far = float(torch.special.xlogy(policy, policy * 64).sum()) > distance
        low, high = (middle, high) if too_far else (low, middle)
    return math.exp(high)


def climbed(phi: Tensor, beta: float, steps: int) -> Tensor:
    """Exact-gradient ascent of (E[phi] - beta KL) / beta."""
    logits = torch.zeros(64, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(steps):
        logps = logits.log_softmax(-1)
        loss = -(logps.exp() * (phi / beta - logps + UNIFORM.log())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits.detach().softmax(-1)


@pytest.mark.parametrize("t", [10.0, -10.0])
def test_ascent_reaches_the_tilted_policy(t: float) -> None:
    phi = transform(exactly_calibrated(UNIFORM, drawn_rewards(0)), "exp", t)
    beta = discrete_beta(phi)
    found = climbed(phi, beta, steps=4000)
    assert float((found - tilt(UNIFORM, phi, beta)).abs().sum() / 2) < 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_best_of_four_wants_the_steep_transform(seed: int) -> None:
    rewards = drawn_rewards(seed)
    u = exactly_calibrated(UNIFORM, rewards)
    best, standard = {}, {}
    for name, phi in {
        "raw": rewards,
        "u": u,
        "exp10": transform(u, "exp", 10.0),
        "exp-10": transform(u, "exp", -10.0),
    }.items():
        policy = tilt(UNIFORM, phi, discrete_beta(phi))
        best[name] = float(win_rate(policy, UNIFORM, rewards, "bon", 4))
        standard[name] = float(win_rate(policy, UNIFORM, rewards, "bon", 1))
    assert 0.81 < best["raw"] < 0.868
    found = (best["u"], best["exp10"], best["exp-10"])
    assert found == pytest.approx((0.7989, 0.8687, 0.6857), abs=1e-4)
    assert best["exp10"] - best["u"] >= 0.05
    assert (standard["u"], standard["exp10"]) == pytest.approx((0.7737, 0.7122), abs=1e-4)


# 8.9: the scale of the reward


def test_the_scale_of_the_reward_is_not_felt_but_plain_rl_feels_it() -> None:
    rewards = drawn_rewards(0)
    for kind, t in (("identity", 1.0), ("exp", 10.0), ("exp", -10.0)):
        plain, scaled = (
            transform(exactly_calibrated(UNIFORM, r), kind, t) for r in (rewards, 10 * rewards)
        )
        assert torch.equal(plain, scaled)
    beta = discrete_beta(rewards)
    assert kl(tilt(UNIFORM, rewards, beta), UNIFORM) == pytest.approx(0.5, abs=1e-6)
    scaled = tilted(UNIFORM.log(), 10 * rewards, beta).exp()
    far = float(torch.special.xlogy(scaled, scaled * 64).sum())
    assert 3.4 < far < math.log(64)


# 8.10: what must not happen


@pytest.mark.parametrize("phi", [0 * GRID, -GRID, (GRID - 0.5) ** 2, GRID * float("nan")])
def test_a_constant_or_falling_transform_is_refused(phi: Tensor) -> None:
    with pytest.raises(UserError, match="phi must rise with the calibrated reward"):
        outlook(phi, beta=1.0, procedure="bon", n=4)


@pytest.mark.parametrize("t", [0.0, 1e-9, 51.0, float("nan"), float("inf")])
def test_a_flat_or_overflowing_exponential_is_refused(t: float) -> None:
    with pytest.raises(UserError, match="t must lie between"):
        transform(CALIBRATED, "exp", t)
    with pytest.raises(UserError, match="t must lie between"):
        CTRL(t=t)


def test_the_policys_own_shares_would_hide_all_progress() -> None:
    assert float(STEEP @ exactly_calibrated(REF, REWARDS)) > 0.75
    assert float(STEEP @ exactly_calibrated(STEEP, REWARDS)) == pytest.approx(0.5, abs=1e-12)


# the class: rounds, gradients, and the optimum from samples alone


def batch(rewards: Tensor, ref_rewards: Tensor, ratio: Tensor | None = None) -> dict[str, Tensor]:
    ratio = torch.zeros_like(rewards) if ratio is None else ratio
    return {
        "rewards": rewards,
        "ref_rewards": ref_rewards,
        "sample_logps": -3 + ratio,
        "ref_sample_logps": torch.full_like(rewards, -3),
        "sample_mask": torch.ones_like(rewards, dtype=torch.bool),
    }


def test_advantages_are_rewards_less_the_others_mean() -> None:
    ratio = row(0.5, -0.5, 0, 1)[None]
    given = batch(REWARDS[None], population(REWARDS)[None], ratio)
    found = CTRL(kind="identity", normalise=False, beta=0.2).collected(given)
    reward = CALIBRATED - 0.2 * ratio[0]
    expected = [float(reward[i] - (reward.sum() - reward[i]) / 3) for i in range(4)]
    assert is_close(found["advantages"][0], *expected, tolerance=1e-12)
    assert torch.equal(found["calibrated"][0], CALIBRATED)


def test_a_rounds_calibration_does_not_see_the_other_samples() -> None:
    ref_rewards = population(REWARDS)[None]
    first = CTRL().collected(batch(row(2, 1, 5)[None], ref_rewards))["calibrated"]
    second = CTRL().collected(batch(row(2, 9, 9)[None], ref_rewards))["calibrated"]
    assert first[0, 0] == second[0, 0]


def test_log_is_finite_where_no_reference_sample_is_lower() -> None:
    given = batch(row(0, 9)[None], row(1, 2, 3, 4)[None])
    found = CTRL(kind="log").collected(given)["advantages"]
    assert is_close(found[0], math.log(1 / 8), -math.log(1 / 8), tolerance=1e-12)


def test_gradients_pass_gradcheck_and_are_the_policy_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    proposal, advantages = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    logps = (proposal + 0.1).requires_grad_(True)

    def of(logps: Tensor) -> Tensor:
        given = {"proposal_logps": proposal, "advantages": advantages, "sample_logps": logps}
        return CTRL().loss(given)

    assert torch.autograd.gradcheck(of, (logps,))
    (slope,) = torch.autograd.grad(of(logps).sum(), logps)
    assert torch.allclose(slope, -math.exp(0.1) * advantages / 4, atol=1e-12)


def learned(objective: CTRL, rewards: Tensor, rounds: int = 150) -> Tensor:
    """A table over four answers, trained on its own samples; two updates per round."""
    generator = torch.Generator().manual_seed(0)
    rows = 256
    logits = REF.log().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=0.03)
    drawn = torch.multinomial(REF.expand(rows, 4), 100, True, generator=generator)
    for _ in range(rounds):
        proposal = logits.detach().log_softmax(-1)
        answers = torch.multinomial(
            proposal.exp().expand(rows, 4), objective.samples, True, generator=generator
        )
        given = {
            "sample_logps": proposal[answers],
            "ref_sample_logps": REF.log()[answers],
            "sample_mask": torch.ones_like(answers, dtype=torch.bool),
            "rewards": rewards[answers],
            "ref_rewards": rewards[drawn],
        }
        given |= objective.collected(given) | {"proposal_logps": proposal[answers]}
        for _ in range(2):
            given["sample_logps"] = logits.log_softmax(-1)[answers]
            optimizer.zero_grad()
            objective.loss(given).mean().backward()
            optimizer.step()
    return logits.detach().softmax(-1)


@pytest.mark.parametrize(("kind", "t", "beta"), [("exp", 10.0, 0.3), ("exp", -10.0, 0.5)])
def test_training_on_samples_reaches_the_optimum(kind, t: float, beta: float) -> None:
    found = learned(CTRL(kind=kind, t=t, beta=beta), REWARDS)
    truth = tilt(REF, transform(CALIBRATED, kind, t, normalise=True), beta)
    assert float((REF - truth).abs().sum() / 2) > 0.1
    assert float((found - truth).abs().sum() / 2) < 0.02


def test_equal_rewards_leave_the_policy_at_the_reference() -> None:
    ones = torch.ones(4, dtype=torch.float64)
    round_one = CTRL().collected(batch(ones[None], ones[None]))
    assert torch.allclose(round_one["advantages"], row(0), atol=1e-12)
    # what is left is Adam's own noise, as around the optimum above
    assert float((learned(CTRL(beta=0.3), ones) - REF).abs().sum() / 2) < 0.01


# settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"calibration_samples": 0}, "calibration_samples must be at least 1, got 0"),
        ({"beta": -1.0}, "beta must be above 0, got -1.0"),
        ({"beta": float("nan")}, "beta must be above 0, got nan"),
        ({"kind": "square"}, "kind must be one of exp, identity, log, got 'square'"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CTRL(**fields)


@pytest.mark.parametrize("distance", [30.0, 1e-12])
def test_a_distance_out_of_reach_is_refused(distance: float) -> None:
    with pytest.raises(UserError, match="kl must lie between"):
        beta_for_kl(GRID, distance)
