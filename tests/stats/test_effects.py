"""Effect sizes and sample sizes: identities, edges, refusals."""

import math

import numpy as np
import pytest

from trueup.errors import UserError
from trueup.stats import (
    adjust,
    cliff_delta,
    cohen_d,
    cohen_dz,
    format_p,
    hedges_g,
    odds_ratio,
    required_n,
    risk_ratio,
)


def test_cohen_d_is_the_gap_in_deviations(rng: np.random.Generator) -> None:
    a = rng.normal(size=100_000)
    assert cohen_d(a + 0.5, a) == pytest.approx(0.5, abs=0.01)
    assert hedges_g([1, 2, 4], [0, 1, 1]) == pytest.approx(
        cohen_d([1, 2, 4], [0, 1, 1]) * (1 - 3 / 15)
    )


def test_no_variance_has_no_standardised_effect() -> None:
    assert math.isnan(cohen_d([1, 1], [1, 1]))
    assert cohen_d([2, 2], [1, 1]) == math.inf
    assert math.isnan(cohen_d([1], [2]))
    assert math.isnan(cohen_dz([1]))


def test_cliff_delta_counts_pairs(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 5, 30), rng.integers(0, 5, 20)
    pairs = np.sign(a[:, None] - b[None, :]).mean()
    assert cliff_delta(a, b) == pytest.approx(pairs, abs=1e-12)
    assert cliff_delta([3, 4], [1, 2]) == 1.0
    assert math.isnan(cliff_delta([], [1]))


def test_ratios_at_zero_are_infinite_or_nothing() -> None:
    assert risk_ratio(0.4, 0.2) == 2.0
    assert risk_ratio(0.4, 0.0) == math.inf
    assert math.isnan(odds_ratio(0.0, 0.0))
    assert odds_ratio(0.5, 0.25) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("p_value", "text"),
    [
        (0.0, "< 1e-4"),
        (9.9e-5, "< 1e-4"),
        (1e-4, "0.0001"),
        (1.0, "1.0000"),
        (math.nan, "undefined"),
    ],
)
def test_p_is_never_printed_as_zero(p_value: float, text: str) -> None:
    assert format_p(p_value) == text


@pytest.mark.parametrize("method", ["holm", "bh", "by"])
def test_adjusting_keeps_order_and_leaves_nan_out(method: str, rng: np.random.Generator) -> None:
    raw = np.array([0.04, math.nan, 0.001, 0.5])
    found = adjust(raw, method)
    assert math.isnan(found[1])
    assert found[2] < found[0] < found[3] <= 1
    assert adjust(raw[~np.isnan(raw)], method) == pytest.approx(found[~np.isnan(raw)])
    assert len(adjust([], method)) == 0
    assert adjust([0.03], method) == pytest.approx([0.03])


def test_an_unknown_adjustment_is_refused() -> None:
    with pytest.raises(UserError, match="method must be one of holm, bh, by, got 'sidak'"):
        adjust([0.1], "sidak")


def test_more_power_needs_more_items() -> None:
    for design, effect in [("paired-mean", 0.3), ("two-means", 0.3), ("one-rate", 0.6)]:
        assert required_n(design, effect, power=0.9) > required_n(design, effect, power=0.8)


@pytest.mark.parametrize("effect", [0.02, 3.0])
def test_tiny_and_huge_effects_have_a_size(effect: float) -> None:
    assert 1.5 < required_n("paired-mean", effect) < 1e5
    assert 1.5 < required_n("two-means", effect) < 1e5


def test_no_effect_has_no_sample_size() -> None:
    with pytest.raises(UserError, match="effect must differ"):
        required_n("one-rate", 0.5)
    with pytest.raises(UserError, match="effect must differ"):
        required_n("paired-mean", 0.0)
    with pytest.raises(UserError, match="design must be one of"):
        required_n("three-rates", 0.1)
