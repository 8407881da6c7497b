"""Distances and noise: bounds that hold the truth, and none where nothing is known."""

import math

import numpy as np
import pytest

from trueup.audits.text.chance import around, by_chance, resampling_noise, total_variation
from trueup.stats import Labels

LABELS = Labels(audit="a", metric="m", slice="all", level=0.95)


def distance(a, b):
    return total_variation(a / a.sum(axis=-1, keepdims=True), b / b.sum(axis=-1, keepdims=True))


def test_bounds_reach_as_far_as_the_quantile_of_the_noise():
    row = around(0.3, np.linspace(0, 0.2, 101), n=9, how="draws", labels=LABELS, most=0.4)
    assert (row.low, row.high) == pytest.approx((0.3 - 0.19, 0.4))


def test_bounds_stay_at_0():
    assert around(0.1, np.full(9, 0.2), n=9, how="draws", labels=LABELS).low == 0


@pytest.mark.parametrize("noise", [np.empty(0), np.full(3, np.nan)])
def test_without_noise_there_are_no_bounds(noise):
    row = around(0.1, noise, n=1, how="draws", labels=LABELS)
    chance = by_chance(noise, n=1, how="draws", labels=LABELS)
    assert all(map(math.isnan, (row.low, row.high, chance.value, chance.low, chance.high)))


def test_one_unit_has_no_noise(rng):
    assert len(resampling_noise(np.ones((1, 2)), distance, 0.95, rng)) == 0


def test_the_noise_of_coins_is_that_of_the_normal_law(rng):
    units = np.repeat([[1.0, 0.0], [0.0, 1.0]], 200, axis=0)
    noise = resampling_noise(units, distance, 0.95, rng)
    assert np.quantile(noise, 0.95) == pytest.approx(1.96 * 0.5 / math.sqrt(400), rel=0.1)


def test_few_units_are_told_with_students_quantile():
    units = np.repeat([[1.0, 0.0], [0.0, 1.0]], 3, axis=0)
    low, high = (
        resampling_noise(units, distance, level, np.random.default_rng(0)) for level in (0.5, 0.99)
    )
    ratio = (4.032 / 2.576) / (0.7267 / 0.6745)  # t over z at 5 degrees of freedom
    assert (high / np.where(low > 0, low, 1))[low > 0] == pytest.approx(ratio, rel=1e-3)
