"""Before against after: edges, clusters, NaN, exact and random permutations."""

import math

import numpy as np
import pytest
from scipy import stats as reference

from trueup.errors import UserError
from trueup.stats import (
    equivalence,
    mcnemar_p,
    paired_binary,
    paired_mean,
    paired_ranks,
    paired_statistic,
)


def ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def test_nothing_changed_is_p_one_with_a_real_interval() -> None:
    result = paired_binary([1, 0, 1, 1], [1, 0, 1, 1])
    assert (result.delta, result.p_value) == (0.0, 1.0)
    assert result.low < 0 < result.high
    assert math.isnan(result.effect)


def test_everything_changed_keeps_an_interval_within_range() -> None:
    result = paired_binary([0] * 8, [1] * 8)
    assert result.delta == 1.0
    assert result.low < result.high == 1.0
    assert result.p_value == pytest.approx(2 / 2**8)
    assert result.effect == math.inf


@pytest.mark.parametrize("test", [paired_binary, lambda a, b: paired_mean(a, b, rng=None)])
def test_no_pairs_are_nothing(test: object) -> None:
    result = test([], [])
    assert result.n_pairs == 0
    assert math.isnan(result.delta)
    assert math.isnan(result.p_value)


def test_pairs_with_a_missing_side_do_not_count() -> None:
    result = paired_binary([1, math.nan, 0, 1], [1, 1, 1, math.nan])
    assert result.n_pairs == 2


def test_paired_binary_refuses_grades() -> None:
    with pytest.raises(UserError, match=r"takes 0 and 1, got 0\.5; use paired_mean"):
        paired_binary([0.5], [1])


def test_mid_p_of_even_counts_is_one() -> None:
    assert mcnemar_p(4, 4, "mid-p") == 1.0
    assert mcnemar_p(0, 0) == 1.0


def test_clusters_flip_whole(rng: np.random.Generator) -> None:
    # ten items that all changed alike are one piece of news when they share a template
    before, after = np.zeros(10), np.ones(10)
    assert paired_binary(before, after).p_value == pytest.approx(2 / 2**10)
    assert paired_binary(before, after, clusters=["t"] * 10, rng=rng).p_value == 1.0


def test_clustered_binary_needs_a_generator() -> None:
    with pytest.raises(UserError, match="rng is missing"):
        paired_binary([0, 1], [1, 1], clusters=["a", "b"])


@pytest.mark.parametrize("n", [3, 10, 16])
def test_sign_flips_are_scipys_exact_ones(n: int, rng: np.random.Generator) -> None:
    d = rng.normal(0.3, 1, size=n).round(2)
    theirs = reference.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    ours = paired_mean(np.zeros(n), d, rng=rng)
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=1e-12)
    assert "exact" in ours.test


def test_random_sign_flips_approach_the_exact_p(rng: np.random.Generator) -> None:
    d = rng.normal(0.4, 1, size=40)
    ours = paired_mean(np.zeros(40), d, rng=rng)
    theirs = reference.ttest_1samp(d, 0).pvalue
    assert ours.p_value == pytest.approx(theirs, rel=0.25)
    assert "9999 draws" in ours.test


def test_a_random_p_is_never_zero(rng: np.random.Generator) -> None:
    assert paired_mean(np.zeros(60), np.linspace(1, 2, 60), rng=rng).p_value == 1 / 10_000


def test_equal_differences_have_no_bounds(rng: np.random.Generator) -> None:
    result = paired_mean([0.0] * 5, [1.0] * 5, rng=rng)
    assert result.delta == 1.0
    assert math.isnan(result.low)
    assert result.p_value == 2 / 2**5


def test_no_difference_at_all_is_p_one(rng: np.random.Generator) -> None:
    result = paired_mean([0.3] * 5, [0.3] * 5, rng=rng)
    assert result.p_value == 1.0
    assert math.isnan(result.low)


def test_one_pair_tells_nothing(rng: np.random.Generator) -> None:
    result = paired_mean([0.0], [1.0], rng=rng)
    assert result.p_value == 1.0
    assert math.isnan(result.low)


@pytest.mark.parametrize("n", [12, 60])
def test_a_mean_told_as_a_statistic_has_the_same_test(n: int, rng: np.random.Generator) -> None:
    before, after = rng.normal(size=n), rng.normal(0.5, 1, size=n)
    ones = np.ones(n)
    plain = paired_mean(before, after, rng=np.random.default_rng(1))
    told = paired_statistic(
        np.stack([before, ones], axis=1),
        np.stack([after, ones], axis=1),
        ratio,
        rng=np.random.default_rng(1),
    )
    assert told.delta == pytest.approx(plain.delta, abs=1e-12)
    assert told.p_value == pytest.approx(plain.p_value, abs=1e-12 if n <= 16 else 0.012)
    assert (told.low, told.high) == pytest.approx((plain.low, plain.high), abs=1.5 / n**0.5)


def test_repeated_rows_and_shaken_rows_agree(rng: np.random.Generator) -> None:
    before = rng.integers(0, 2, (300, 1)).astype(float)
    after = np.clip(before + (rng.random((300, 1)) < 0.1), 0, 1)
    ones = np.ones((300, 1))
    sides = [np.hstack([before, ones]), np.hstack([after, ones])]
    exact = paired_statistic(*sides, ratio, rng=rng)
    shaken = [side + np.hstack([rng.normal(scale=1e-7, size=(300, 1)), 0 * ones]) for side in sides]
    drawn = paired_statistic(*shaken, ratio, rng=rng)
    assert drawn.delta == pytest.approx(exact.delta, abs=1e-6)
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.006)


def test_a_row_absent_on_one_side_stays_on_the_other(rng: np.random.Generator) -> None:
    before = np.array([[1.0, 1.0], [0.0, 1.0], [math.nan, math.nan], [1.0, 1.0]])
    after = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [math.nan, math.nan]])
    result = paired_statistic(before, after, ratio, rng=rng)
    assert result.delta == pytest.approx(3 / 3 - 2 / 3)
    assert result.n_pairs == 4


def test_rows_absent_on_both_sides_are_no_pairs(rng: np.random.Generator) -> None:
    nothing = np.full((3, 2), math.nan)
    assert paired_statistic(nothing, nothing, ratio, rng=rng).n_pairs == 0


def test_swaps_without_a_value_count_against_the_claim(rng: np.random.Generator) -> None:
    before = np.array([[1.0, 1.0], [1.0, 0.0]])
    after = np.array([[2.0, 0.0], [3.0, 1.0]])
    result = paired_statistic(before, after, ratio, rng=rng)
    assert result.p_value == 1.0


def test_a_statistic_without_a_value_has_no_p(rng: np.random.Generator) -> None:
    result = paired_statistic([[0.0, 0.0]] * 3, [[1.0, 1.0]] * 3, ratio, rng=rng)
    assert math.isnan(result.p_value)
    assert math.isnan(result.delta)
    assert math.isnan(result.low)


def test_clusters_of_statistics_swap_whole(rng: np.random.Generator) -> None:
    ones = np.ones((40, 1))
    before, after = np.hstack([0 * ones, ones]), np.hstack([ones, ones])
    clusters = np.repeat(np.arange(4), 10)
    assert paired_statistic(before, after, ratio, rng=rng).p_value == 1 / 10_000
    clustered = paired_statistic(before, after, ratio, clusters=clusters, rng=rng)
    assert clustered.p_value == 2 / 2**4
    assert "4 clusters" in clustered.test


def test_ranks_survive_an_outlier(rng: np.random.Generator) -> None:
    d = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.5, -1000.0])
    assert paired_ranks(np.zeros(10), d, rng=rng).delta > 0
    assert paired_mean(np.zeros(10), d, rng=rng).delta < 0


def test_tied_ranks_permute(rng: np.random.Generator) -> None:
    d = np.array([1.0, 1.0, 2.0, 0.0, 1.0, -1.0, 2.0, 1.0])
    result = paired_ranks(np.zeros(8), d, rng=rng)
    assert 0 < result.p_value < 0.2
    assert result.low <= result.delta <= result.high


def test_ranks_of_nothing(rng: np.random.Generator) -> None:
    assert paired_ranks([1.0, 2.0], [1.0, 2.0], rng=rng).p_value == 1.0
    assert math.isnan(paired_ranks([], [], rng=rng).p_value)


def test_not_worse_than_has_one_bound(rng: np.random.Generator) -> None:
    before = rng.normal(size=50)
    after = before + rng.normal(0.2, 0.1, size=50)
    assert equivalence(before, after, lowest=-0.05, highest=math.inf).p_value < 1e-6
    assert equivalence(before, after, lowest=-0.05, highest=0.1).p_value > 0.5


def test_equivalence_of_one_pair_is_undefined() -> None:
    assert math.isnan(equivalence([1.0], [1.1], lowest=-1, highest=1).p_value)
