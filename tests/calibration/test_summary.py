"""The curve: by hand on a few rows, and on audits whose goodness is known."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from tests.calibration.toy import coins, curve_of
from trueup.calibration.curve import AtSize, Calibration, WorldFacts, lean_text
from trueup.calibration.summary import LEVEL, summarized

FACTS = WorldFacts(
    audit="toy",
    metric="share",
    null=0.0,
    kind="scripted",
    story="A story.",
    unit="coins",
    level=0.95,
)


def by_hand(rows: list[tuple[float, float, float, float]], **changes: Any) -> AtSize:
    """The curve of rows (planted, value, low, high) at n = 100."""
    table = pd.DataFrame(rows, columns=["planted", "value", "low", "high"])
    [each] = summarized(replace(FACTS, **changes), table.assign(metric="share", n=100)).at
    return each


ROWS = [
    (-1.0, -1.5, -2.0, -1.0),
    (-1.0, -0.9, -1.4, -0.4),
    (0.0, 0.1, -0.1, 0.3),
    (0.0, 0.3, 0.1, 0.5),
    (2.0, 2.2, 1.7, 2.7),
    (2.0, 3.2, 2.7, 3.7),
]


def test_slope_bias_and_excess_by_hand():
    each = by_hand(ROWS)
    # means -1.2, 0.2, 2.7 at -1, 0, 2, whose mean is 1/3: away -4/3, -1/3, 5/3, squares 14/3
    assert each.slope.value == pytest.approx((-4 * -1.2 - 0.2 + 5 * 2.7) / 3 / (14 / 3))
    # away from the null: 0.2 too far below, 0.7 too far above; the mean lean is 1.5
    assert each.bias.value == pytest.approx((0.2 + 0.7) / 2)
    assert each.excess.value == pytest.approx((0.2 + 0.7) / 2 / 1.5)


def test_the_slopes_error_is_that_of_the_means():
    each = by_hand(ROWS)
    # standard errors of two draws each: half their distance
    error = math.sqrt((4 * 0.3) ** 2 + 0.1**2 + (5 * 0.5) ** 2) / 3 / (14 / 3)
    half = 2.5758293035489004 * error
    assert (each.slope.low, each.slope.high) == pytest.approx(
        (each.slope.value - half, each.slope.value + half)
    )


def test_coverage_false_alarms_and_power_by_hand():
    each = by_hand(ROWS)
    assert (each.coverage.value, each.coverage.n) == (0.75, 4)  # 2.7 excludes 2
    assert each.false_alarms is not None
    assert (each.false_alarms.value, each.false_alarms.n) == (0.5, 2)
    assert [point.alarms.value for point in each.points if point.alarms] == [1.0, 0.5, 1.0]
    assert [(point.low, point.high) for point in each.points][1] == pytest.approx((0.0, 0.4))
    assert each.coverage.level == LEVEL


def test_a_bound_on_the_null_holds_it_despite_rounding():
    rows = [(0.0, 0.1, 1e-12, 0.2)] * 2 + [(1.0, 1.0, 0.5, 1 - 1e-12), (1.0, 1.1, 0.5, 1.5)]
    each = by_hand(rows)
    assert each.false_alarms is not None
    assert (each.false_alarms.value, each.coverage.value) == (0.0, 1.0)


def test_an_undefined_interval_alarms_nobody_and_covers_nothing():
    nan = math.nan
    each = by_hand([*ROWS, (0.0, 0.0, nan, nan), (2.0, nan, nan, nan)])
    assert each.false_alarms is not None
    assert (each.false_alarms.value, each.false_alarms.n) == (1 / 3, 3)
    assert (each.coverage.value, each.coverage.n) == (0.75, 4)
    assert each.undefined.value == 2 / 8
    assert each.points[2].measured.value == pytest.approx(2.7)  # the undefined value is left out


def test_without_a_null_the_bias_is_the_plain_one():
    each = by_hand(ROWS, null=math.nan)
    assert each.false_alarms is None
    assert each.bias.value == pytest.approx((-0.2 + 0.2 + 0.7) / 3)
    assert {point.alarms for point in each.points} == {None}
    assert math.isnan(each.smallest)


def test_draws_that_all_agree_have_no_error():
    each = by_hand([(size, size, size - 1, size + 1) for size in (0.0, 0.0, 1.0, 1.0)])
    assert (each.slope.low, each.slope.value, each.slope.high) == (1.0, 1.0, 1.0)


def test_the_smallest_lean_shrinks_with_the_root_of_n():
    curve = Calibration(facts=FACTS, at=(by_hand(ROWS),))
    lean, is_far = curve.smallest(100)
    assert not is_far
    assert curve.smallest(10_000) == (pytest.approx(lean / 10), True)


@pytest.mark.parametrize(
    ("lean", "text"),
    [(0.1234, "0.12"), (0.01234, "0.012"), (math.inf, "> 0.3"), (math.nan, "none")],
)
def test_the_smallest_lean_in_words(lean: float, text: str):
    assert lean_text(lean, 0.3) == text


def test_rows_of_metrics_are_named_by_metric_n_and_size():
    names = [
        (row.metric, row.slice) for row in Calibration(facts=FACTS, at=(by_hand(ROWS),)).estimates()
    ]
    assert ("share.slope", "n=100") in names
    assert ("share.false_alarms", "n=100") in names
    assert ("share.power", "n=100, planted=2") in names
    assert len(names) == len(set(names))


# audits of known goodness


def test_a_share_with_wilsons_interval_is_to_be_trusted():
    curve = curve_of(coins(draws=1000))
    assert curve.verdict == "trust"
    for each in curve.at:
        assert each.slope.low <= 1 <= each.slope.high
        assert each.slope.value == pytest.approx(1, abs=0.02)
        assert each.coverage.value == pytest.approx(0.95, abs=0.02)
        assert each.false_alarms is not None
        # 5 % and three standard errors of 1000 draws
        assert each.false_alarms.value <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
    # 2.8 standard errors sqrt(p (1 - p) / n) at one half: 0.14 and 0.099
    smallest = [each.smallest for each in curve.at]
    assert smallest == pytest.approx([2.8 * 0.5 / math.sqrt(n) for n in (100, 200)], rel=0.1)


def test_power_is_that_of_the_binomial():
    # at 0.35 of 100 coins Wilson excludes one half where at most 40 or at least 60 show heads
    [point] = [p for p in curve_of(coins(draws=4000)).at[0].points if p.planted == 0.35]
    exact = binom.cdf(40, 100, 0.35) + binom.sf(59, 100, 0.35)
    assert point.alarms is not None
    assert point.alarms.value == pytest.approx(exact, abs=0.03)  # three errors of 1000 draws


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        ({"reach": 0.5}, "false alarms"),
        ({"gain": 0.0}, "flat"),
        ({"gain": -1.0}, "flat"),
        ({"gain": 0.15}, "flat"),
        ({"gain": 1.4, "reach": 1.4}, "overstates"),
        ({"gain": 0.6}, "understates"),
        ({"shift": 0.2}, "false alarms"),
    ],
)
def test_a_bad_audit_is_called_what_it_is(settings: dict[str, float], verdict: str):
    assert curve_of(coins(draws=200, **settings)).verdict == verdict


def test_a_good_audit_is_seldom_called_bad():
    verdicts = [curve_of(coins(draws=200, seed=seed)).verdict for seed in range(20)]
    # two n, a handful of bounds of 99 %, and false alarms that are 5.6 % in truth
    assert sum(verdict != "trust" for verdict in verdicts) <= 3


def test_intervals_that_fail_only_where_there_is_a_lean_are_poor():
    rng = np.random.default_rng(0)
    rows = []
    for planted, reach in ((0.0, 2.5), (0.5, 1.0), (1.0, 1.0)):
        values = planted + 0.1 * rng.normal(size=200)
        rows += [(planted, v, v - 0.1 * reach, v + 0.1 * reach) for v in values.tolist()]
    assert by_hand(rows).verdict == "poor intervals"


def test_intervals_that_are_often_missing_are_poor():
    rng = np.random.default_rng(0)
    rows = []
    for planted in (0.0, 0.5, 1.0):
        values = planted + 0.1 * rng.normal(size=100)
        halves = np.where(rng.random(100) < 0.4, np.nan, 0.2)
        rows += [(planted, v, v - h, v + h) for v, h in zip(values, halves, strict=True)]
    assert by_hand(rows).verdict == "poor intervals"
