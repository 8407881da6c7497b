"""Estimates: what they print, what they refuse, and bounds that are undefined and say so."""

import json
import math

import numpy as np
import pytest
from scipy import stats as reference

from trueup.errors import UserError
from trueup.stats import Estimate, bootstrap, mean, proportion, proportion_difference


def ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def estimate(**changed: object) -> Estimate:
    given = {"metric": "share", "value": 0.393, "low": 0.236, "high": 0.576, "n": 28, "method": "m"}
    return Estimate(**(given | changed))


def test_text_is_the_line_that_is_printed() -> None:
    assert str(estimate(slice="gender")) == "share  gender  0.393 [0.236, 0.576]  n=28"


def test_undefined_bounds_say_so() -> None:
    line = str(estimate(low=math.nan, high=math.nan, n=1))
    assert line == "share  all  0.393 [undefined]  n=1"


def test_no_items_print_as_undefined() -> None:
    assert str(proportion(0, 0)) == "share  all  undefined [undefined]  n=0"


def test_small_and_large_numbers_keep_their_digits() -> None:
    text = estimate(value=0.000123, low=-0.0001, high=123456.0).numbers()
    assert text == "0.000123 [-0.0001, 1.23e+05]"


def test_keys_are_metrics_json_in_its_order() -> None:
    keys = ["audit", "metric", "slice", "value", "low", "high", "level", "n", "ideal", "method"]
    assert list(estimate().as_dict()) == keys
    assert json.loads(json.dumps(estimate().as_dict()))["n"] == 28


def test_numbers_from_numpy_become_plain_ones() -> None:
    found = proportion(np.int64(3), np.int64(4))
    assert json.loads(json.dumps(found.as_dict()))["value"] == 0.75


def test_a_level_in_percent_is_refused() -> None:
    with pytest.raises(UserError, match="level must lie between 0 and 1, got 95"):
        proportion(1, 2, level=95)


def test_labels_are_kept() -> None:
    found = proportion(1, 2, audit="bbq", metric="accuracy", slice="age", ideal=1.0, level=0.9)
    assert (found.audit, found.metric, found.slice) == ("bbq", "accuracy", "age")
    assert (found.ideal, found.level) == (1.0, 0.9)


@pytest.mark.parametrize("n", [0, 1])
def test_a_mean_of_too_few_has_no_bounds(n: int) -> None:
    found = mean([0.4] * n)
    assert found.n == n
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_values_without_variance_have_no_bounds() -> None:
    found = mean([0.1] * 10)
    assert found.value == pytest.approx(0.1, abs=1e-15)
    assert math.isnan(found.low)


def test_no_items_give_no_share() -> None:
    found = proportion(0, 0)
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert found.n == 0


def test_none_of_ten_still_has_an_interval() -> None:
    found = proportion(0, 10)
    assert found.low == 0
    assert found.high > 0.2


def test_nan_values_do_not_count() -> None:
    found = mean([1.0, math.nan, 2.0, 3.0])
    assert found.n == 3
    assert found.value == 2.0


def test_mean_is_students(rng: np.random.Generator) -> None:
    x = rng.normal(size=30)
    bounds = reference.ttest_1samp(x, 0).confidence_interval(0.9)
    found = mean(x, level=0.9)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high), rel=1e-12)


def test_clusters_need_a_generator() -> None:
    with pytest.raises(UserError, match="rng is missing"):
        mean([1.0, 2.0], clusters=["a", "b"])


def test_one_cluster_has_no_bounds(rng: np.random.Generator) -> None:
    found = mean([1.0, 2.0, 3.0], clusters=["a"] * 3, rng=rng)
    assert found.value == 2.0
    assert math.isnan(found.low)
    assert "fewer than two units" in found.method


def test_clusters_of_one_item_are_the_plain_bootstrap(rng: np.random.Generator) -> None:
    terms = np.stack([rng.normal(size=40), np.ones(40)], axis=1)
    plain = bootstrap(terms, ratio, rng=np.random.default_rng(3))
    alone = bootstrap(terms, ratio, clusters=np.arange(40), rng=np.random.default_rng(3))
    assert (plain.low, plain.high) == (alone.low, alone.high)


def test_bootstrap_is_scipys_bca_up_to_its_noise(rng: np.random.Generator) -> None:
    x = rng.exponential(size=60)
    ours = bootstrap(np.stack([x, np.ones(60)], axis=1), ratio, rng=rng, resamples=20_000)
    theirs = reference.bootstrap((x,), np.mean, n_resamples=20_000, method="BCa", rng=rng)
    bounds = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((bounds.low, bounds.high), abs=0.01)
    assert "BCa" in ours.method


def test_counting_equal_rows_and_drawing_rows_agree(rng: np.random.Generator) -> None:
    x = rng.integers(0, 2, 200).astype(float)
    few = bootstrap(np.stack([x, np.ones(200)], axis=1), ratio, rng=rng, resamples=20_000)
    shaken = x + rng.normal(scale=1e-9, size=200)
    many = bootstrap(np.stack([shaken, np.ones(200)], axis=1), ratio, rng=rng, resamples=20_000)
    assert (few.low, few.high) == pytest.approx((many.low, many.high), abs=0.006)


def test_the_same_generator_gives_the_same_bounds(rng: np.random.Generator) -> None:
    terms = np.stack([rng.normal(size=50), np.ones(50)], axis=1)
    first = bootstrap(terms, ratio, rng=np.random.default_rng(9))
    second = bootstrap(terms, ratio, rng=np.random.default_rng(9))
    assert first == second


def test_rows_with_nan_do_not_count(rng: np.random.Generator) -> None:
    terms = np.array([[1.0, 1.0], [math.nan, 1.0], [0.0, 1.0], [1.0, 1.0]])
    found = bootstrap(terms, ratio, rng=rng)
    assert found.n == 3
    assert found.value == pytest.approx(2 / 3)


def test_mostly_undefined_draws_give_no_bounds(rng: np.random.Generator) -> None:
    terms = np.array([[1.0, 1.0], *[[0.0, 0.0]] * 9])
    found = bootstrap(terms, ratio, rng=rng)
    assert found.value == 1.0
    assert math.isnan(found.low)
    assert "undefined in" in found.method


def test_a_statistic_at_its_edge_falls_back_to_percentiles(rng: np.random.Generator) -> None:
    x = np.array([0.0] * 30 + [1.0])

    def largest_share(sums: np.ndarray) -> np.ndarray:
        return np.minimum(sums[..., 0] / sums[..., 1], 1 / 31)  # no draw exceeds the value

    found = bootstrap(np.stack([x, np.ones(31)], axis=1), largest_share, rng=rng)
    assert found.low <= found.value <= found.high


def test_clusters_may_be_names(rng: np.random.Generator) -> None:
    found = mean([1.0, 2.0, 4.0, 5.0], clusters=["b", "b", "a", "a"], rng=rng)
    assert "2 clusters" in found.method
    assert found.n == 4


@pytest.mark.parametrize("interval", ["newcombe", "score"])
def test_differences_at_the_edges_stay_in_range(interval: str) -> None:
    for first, second in [(0, 0), (5, 0), (0, 5), (5, 5)]:
        found = proportion_difference(first, 5, second, 5, interval=interval)
        assert -1 <= found.low <= found.value <= found.high <= 1
        assert found.low < found.high


@pytest.mark.parametrize("interval", ["newcombe", "score"])
def test_an_empty_group_leaves_no_difference(interval: str) -> None:
    found = proportion_difference(1, 2, 0, 0, interval=interval)
    assert math.isnan(found.value)
    assert math.isnan(found.low)
