"""Gaps between groups: which, how large, how sure."""

import math

import numpy as np
import pytest
from scipy import stats as reference

from trueup.errors import UserError
from trueup.stats import group_gap


def test_the_gap_names_its_groups(rng: np.random.Generator) -> None:
    gap = group_gap([1, 3, 5, 7, 0, 2], ["a", "a", "b", "b", "c", "c"], rng=rng)
    assert (gap.highest, gap.lowest, gap.value) == ("b", "c", 5.0)
    assert gap.means == {"a": 2.0, "b": 6.0, "c": 1.0}
    assert gap.counts == {"a": 2, "b": 2, "c": 2}
    assert gap.n == 6


def test_one_group_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(UserError, match="at least two groups, got 1"):
        group_gap([1, 2], ["a", "a"], rng=rng)


def test_nan_values_do_not_count(rng: np.random.Generator) -> None:
    assert group_gap([1, math.nan, 3, 4], ["a", "a", "b", "b"], rng=rng).n == 3


def test_no_variance_has_no_bounds(rng: np.random.Generator) -> None:
    gap = group_gap([1.0] * 3 + [2.0] * 3, ["a"] * 3 + ["b"] * 3, rng=rng)
    assert gap.value == 1.0
    assert math.isnan(gap.low)


def test_a_group_of_one_has_no_bounds(rng: np.random.Generator) -> None:
    assert math.isnan(group_gap([1, 2, 3], ["a", "a", "b"], rng=rng).low)


def test_two_groups_drawn_at_random_approach_scipy(rng: np.random.Generator) -> None:
    x, groups = rng.normal(size=60), np.repeat(["a", "b"], [20, 40])
    x[:20] += 0.5
    gap = group_gap(x, groups, rng=rng)
    theirs = reference.permutation_test(
        (x[:20], x[20:]),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        vectorized=True,
        rng=rng,
    )
    assert gap.p_value == pytest.approx(theirs.pvalue, abs=0.02)
    assert "9999 draws" in gap.test


def test_the_interval_of_two_groups_covers(rng: np.random.Generator) -> None:
    hits = 0
    for _ in range(200):
        x = np.concatenate([rng.normal(1, 1, 40), rng.normal(0, 1, 40)])
        gap = group_gap(x, np.repeat(["a", "b"], 40), rng=rng, resamples=499)
        hits += gap.low <= 1 <= gap.high
    assert 0.89 <= hits / 200 <= 0.99


def test_clusters_inside_groups_move_whole(rng: np.random.Generator) -> None:
    clusters = np.repeat(np.arange(6), 20)
    groups = np.where(clusters < 3, "a", "b")
    x = (clusters < 3) + rng.normal(scale=0.01, size=120)
    assert group_gap(x, groups, rng=rng).p_value < 0.001
    clustered = group_gap(x, groups, clusters=clusters, rng=rng)
    assert clustered.p_value == pytest.approx(2 / 20, abs=0.02)  # 20 splits of six clusters


def test_clusters_across_groups_permute_within(rng: np.random.Generator) -> None:
    # every template holds both groups: its own level cancels, and a small gap shows
    template = np.repeat(np.arange(40), 2)
    groups = np.tile(["a", "b"], 40)
    x = 10 * rng.normal(size=40)[template] + np.where(groups == "a", 0.5, 0.0)
    x = x + rng.normal(scale=0.3, size=80)
    assert group_gap(x, groups, rng=rng).p_value > 0.1
    blocked = group_gap(x, groups, clusters=template, rng=rng)
    assert blocked.p_value < 0.001
    assert blocked.low > 0
