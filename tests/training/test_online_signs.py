"""The rule that tells over-optimisation on own samples, on series whose truth is known."""

import math
from typing import Any

import numpy as np
import pytest

from trueup.stats import mean
from trueup.training.own_sample_signs import (
    good_on_own_samples,
    own_sample_flags,
    own_sample_note,
    reward_drop_low,
)

SEEDS = 300
PROMPTS = 40


def series(**columns: list[float]) -> list[dict[str, float]]:
    """Evaluations every 10 steps."""
    n = len(next(iter(columns.values())))
    return [
        {"step": 10.0 * t, **{name: values[t] for name, values in columns.items()}}
        for t in range(n)
    ]


TURNED = {
    "reward": [0.0, 1.0, 2.0, 1.5, 0.5],
    "kl": [0.0, 1.0, 2.0, 3.0, 4.0],
    "reward_drop_low": [math.nan, -1.2, -1.2, 0.2, 1.1],
}


def test_a_reward_that_falls_while_kl_rises_is_seen_at_the_second_evaluation() -> None:
    rows = series(**TURNED)
    assert own_sample_flags(rows[:4]).suggested_index is None
    flags = own_sample_flags(rows)
    assert (flags.reward_fell, flags.suggested_index) == (4, 2)
    assert own_sample_note(rows).startswith(
        "over-optimisation: held-out reward fell while KL rose by 40, best 20; "
        "held-out reward 0.000 -> 0.500, KL 0.000 -> 4.000"
    )


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("kl", [0.0, 1.0, 2.0, 1.9, 1.0]),  # the policy goes back to the reference
        ("reward_drop_low", [math.nan, -1.2, -1.2, -0.1, 1.1]),  # one evaluation alone
        ("reward_drop_low", [math.nan] * 5),  # one prompt, no interval
    ],
)
def test_a_fall_that_may_be_something_else_is_no_sign(column: str, values: list[float]) -> None:
    flags = own_sample_flags(series(**{**TURNED, column: values}))
    assert (flags.reward_fell, flags.suggested_index) == (None, None)


def test_an_entropy_of_less_than_half_is_a_collapse() -> None:
    rows = series(entropy_bits=[2.0, 1.6, 1.1, 0.99, 0.9], top_k_mass=[0.9] * 5)
    flags = own_sample_flags(rows)
    assert (flags.entropy_collapsed, flags.suggested_index) == (4, 2)
    assert own_sample_flags(rows[:4]).entropy_collapsed is None
    falling = series(entropy_bits=[2.0, 1.6, 1.3, 1.1, 1.01], top_k_mass=[0.9] * 5)
    assert own_sample_flags(falling).suggested_index is None


def test_mass_that_leaves_the_top_k_is_a_sign_and_mass_that_joins_it_is_none() -> None:
    leaking = series(entropy_bits=[2.0] * 4, top_k_mass=[0.9, 0.86, 0.84, 0.8])
    assert own_sample_flags(leaking).mass_fell == 3
    joining = series(entropy_bits=[2.0] * 4, top_k_mass=[0.9, 0.94, 0.96, 1.0])
    assert own_sample_flags(joining).suggested_index is None


def test_of_the_good_evaluations_the_first_with_the_highest_reward_is_kept() -> None:
    rows = series(
        reward=[0.0, 2.0, 2.0, 3.0, 4.0],
        kl=[0.0, 1.0, 2.0, 3.0, 4.0],
        reward_drop_low=[math.nan] * 5,
        entropy_bits=[2.0, 1.9, 1.9, 0.9, 0.8],  # the highest rewards are of a collapse
        top_k_mass=[0.9] * 5,
    )
    found = [good_on_own_samples(rows[: t + 1]) for t in range(5)]
    assert [good for good, _ in found] == [True, True, False, False, False]
    assert [stop for _, stop in found] == [0, 0, 0, 0, 1]
    assert own_sample_flags(rows).suggested_index == 1


def test_the_lower_bound_is_the_paired_interval_s() -> None:
    rng = np.random.default_rng(0)
    best, now = rng.normal(1, 1, 30), rng.normal(0, 1, 30)
    assert reward_drop_low(best, now, earlier=1) == mean(best - now, level=0.9).low
    assert reward_drop_low(best, now, earlier=5) == mean(best - now, level=0.98).low
    assert math.isnan(reward_drop_low([1.0], [0.0], earlier=1))


def falls(seed: int, slope: float) -> Any:
    """Twelve evaluations, whose expected reward changes by `slope` standard deviations each.

    Nothing is shared between them: the worst case, as common random numbers lessen the noise.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, float]] = []
    highest = rng.normal(0, 1, PROMPTS)
    for t in range(12):
        now = highest if t == 0 else rng.normal(slope * t, 1, PROMPTS)
        low = reward_drop_low(highest, now, earlier=t) if t else math.nan
        rows.append({"step": t, "reward": float(now.mean()), "kl": t, "reward_drop_low": low})
        if now.mean() >= highest.mean():
            highest = now
    return own_sample_flags(rows).reward_fell


def test_a_reward_that_stays_raises_few_alarms_and_one_that_falls_is_seen() -> None:
    """Over whole series: at most 5 % alarms (plus 3 standard errors), falls seen in 95 %."""
    alarms = np.mean([falls(seed, 0.0) is not None for seed in range(SEEDS)])
    assert alarms <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / SEEDS)
    assert np.mean([falls(seed, -0.15) is not None for seed in range(100)]) >= 0.95


def test_too_few_evaluations_are_no_series() -> None:
    assert "2 evaluations are too few" in own_sample_note(series(**TURNED)[:2])
