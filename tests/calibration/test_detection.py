"""The smallest lean that is found, against the normal theory and at its edges."""

import math

import numpy as np
import pandas as pd
import pytest

from trueup.calibration.detection import smallest_lean

DRAWS = 4000


def rows(planted: float, *, error: float = 0.1, bias: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Draws of a normal metric with the interval that its error gives."""
    rng = np.random.default_rng([seed, int(1000 * planted) + 10_000])
    values = planted + bias + error * rng.normal(size=DRAWS)
    return pd.DataFrame(
        {
            "planted": planted,
            "value": values,
            "low": values - 1.96 * error,
            "high": values + 1.96 * error,
        }
    )


@pytest.mark.parametrize("error", [0.05, 0.1, 0.2])
def test_it_is_the_two_point_eight_errors_of_the_normal_theory(error: float):
    groups = [rows(size, error=error) for size in (-1.0, -0.4, 0.0, 0.4, 1.0)]
    assert smallest_lean(0.0, groups) == pytest.approx((1.96 + 0.84) * error, rel=0.1)


def test_where_every_draw_of_a_size_is_found_the_bound_still_tells_how_easily():
    # power is 1 at both sizes; only the bounds' distance says that 0.28 is enough
    groups = [rows(size) for size in (0.0, 1.0, 2.0)]
    assert smallest_lean(0.0, groups) == pytest.approx(0.28, rel=0.1)


def test_a_null_elsewhere_and_leans_below_it_change_nothing():
    above = smallest_lean(0.0, [rows(size) for size in (0.0, 0.3, 0.6)])
    below = smallest_lean(0.0, [rows(size) for size in (0.0, -0.3, -0.6)])
    assert below == pytest.approx(above, rel=0.1)


def test_of_two_sides_the_worse_one_counts():
    weak = rows(-0.4, error=0.1).assign(low=-9.0, high=lambda t: t["high"] + 0.2)
    both = [weak, rows(-0.8), rows(0.0), rows(0.4), rows(0.8)]
    one = [rows(0.0), rows(0.4), rows(0.8)]
    assert smallest_lean(0.0, both) > 1.3 * smallest_lean(0.0, one)


def test_a_lean_that_no_size_reaches_is_infinite():
    assert smallest_lean(0.0, [rows(size, error=1.0) for size in (0.0, 0.4)]) == math.inf


def test_a_side_that_was_not_swept_as_far_does_not_count():
    groups = [rows(-0.05), rows(0.0), rows(0.4), rows(0.8)]
    assert smallest_lean(0.0, groups) == pytest.approx(0.28, rel=0.1)


def test_an_interval_that_always_excludes_the_null_finds_nothing():
    assert math.isnan(smallest_lean(0.0, [rows(size, bias=1.0) for size in (0.0, 0.4)]))


def test_without_a_null_there_is_none():
    assert math.isnan(smallest_lean(math.nan, [rows(size) for size in (0.2, 0.4)]))


def test_undefined_intervals_find_nothing():
    silent = rows(0.4).assign(low=math.nan, high=math.nan)
    assert smallest_lean(0.0, [rows(0.0), silent]) == math.inf
