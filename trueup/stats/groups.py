"""The gap between groups, with the search for the largest gap inside the test."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import comb
from scipy.stats import permutation_test

from trueup.errors import UserError
from trueup.stats.estimate import Array
from trueup.stats.resampling import RESAMPLES, chunks

_EXACT_SPLITS = 100_000  # two small groups: every split is tried up to this many


@dataclass(frozen=True, kw_only=True)
class GroupGap:
    """The largest mean of a group minus the smallest, and how likely so large a gap is by chance.

    Fields: means and counts are by group; highest and lowest name the two; n counts the items.
    """

    value: float
    low: float
    high: float
    p_value: float
    n: int
    highest: str
    lowest: str
    means: dict[str, float]
    counts: dict[str, int]
    test: str


def group_gap(
    values: ArrayLike,
    groups: ArrayLike,
    *,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> GroupGap:
    """Largest minus smallest group mean, its interval, and a permutation test of equal groups.

    p   = label permutation; two groups: twice the smaller one-sided p, cut at 1; more groups: share
          of permutations whose largest gap reaches the data's
    low, high = value -+ q, q the `level` quantile over bootstrap draws of the largest change of any
          difference between two groups: simultaneous, so it holds for the pair picked afterwards
    Shapes: values, groups, clusters [N]. Clusters that lie in one group each are permuted and
            resampled whole; in clusters that span groups the labels are permuted within.
    Edges:  NaN values do not count; no variance, or a group of one unit: bounds are NaN.
    Raises: UserError for fewer than two groups.
    """
    x, raw_names = np.asarray(values, dtype=np.float64), np.asarray(groups)
    counts = ~np.isnan(x)
    x = x[counts]
    names, label = np.unique(raw_names[counts], return_inverse=True)
    if len(names) < 2:
        raise UserError(f"group_gap needs at least two groups, got {len(names)}")
    units = _units(x, label, len(names), None if clusters is None else np.asarray(clusters)[counts])
    means = np.bincount(label, weights=x) / np.bincount(label)
    top, bottom = int(means.argmax()), int(means.argmin())
    gap = float(means[top] - means[bottom])
    half = _simultaneous_half_width(units, level, resamples, rng)
    p_value, test = _permutation_p(units, resamples, rng)
    return GroupGap(
        value=gap,
        low=gap - half,
        high=gap + half,
        p_value=p_value,
        n=len(x),
        highest=str(names[top]),
        lowest=str(names[bottom]),
        means={str(name): float(m) for name, m in zip(names, means, strict=True)},
        counts={str(name): int(n) for name, n in zip(names, np.bincount(label), strict=True)},
        test=test,
    )


@dataclass(frozen=True)
class _Units:
    """What is permuted: units with a sum, a size, a group and the block within which they move.

    `resampled` names the block of units that the bootstrap draws together, `strata` the group
    within which it draws (all 0 where a block spans groups).
    """

    sums: Array
    sizes: Array
    label: NDArray[np.intp]
    block: NDArray[np.intp]
    resampled: NDArray[np.intp]
    strata: NDArray[np.intp]
    n_groups: int


def _units(
    x: Array, label: NDArray[np.intp], n_groups: int, clusters: NDArray[np.generic] | None
) -> _Units:
    """Items, or clusters where each lies in one group, or items blocked by clusters that do not."""
    nothing = np.zeros(len(x), dtype=np.intp)
    if clusters is None:
        own = np.arange(len(x))
        return _Units(x, np.ones_like(x), label, nothing, own, label, n_groups)
    _, member = np.unique(clusters, return_inverse=True)
    first = np.full(member.max() + 1, -1)
    first[member] = label
    if (first[member] != label).any():
        return _Units(x, np.ones_like(x), label, member, member, nothing, n_groups)
    own = np.arange(len(first))
    sums = np.bincount(member, weights=x).astype(np.float64)
    sizes = np.bincount(member).astype(np.float64)
    return _Units(sums, sizes, first, np.zeros_like(own), own, first, n_groups)


def _simultaneous_half_width(
    units: _Units, level: float, resamples: int, rng: np.random.Generator
) -> float:
    """Quantile of the largest change of any difference of group means; NaN without variance."""
    n_blocks, groups = int(units.resampled.max()) + 1, units.n_groups
    sums, sizes = np.zeros((n_blocks, groups)), np.zeros((n_blocks, groups))
    np.add.at(sums, (units.resampled, units.label), units.sums)
    np.add.at(sizes, (units.resampled, units.label), units.sizes)
    stratum = np.zeros(n_blocks, dtype=np.intp)
    stratum[units.resampled] = units.strata
    if np.bincount(stratum).min() < 2:
        return math.nan
    means = sums.sum(axis=0) / sizes.sum(axis=0)
    widest = []
    for size in chunks(resamples, n_blocks):
        counts = np.zeros((size, n_blocks))
        for one in np.unique(stratum):
            inside = np.flatnonzero(stratum == one)
            even = np.full(len(inside), 1 / len(inside))
            counts[:, inside] = rng.multinomial(len(inside), even, size=size)
        with np.errstate(invalid="ignore"):
            moved = (counts @ sums) / (counts @ sizes) - means  # [b, G]
        widest.append(moved.max(axis=1) - moved.min(axis=1))
    draws = np.concatenate(widest)
    draws = draws[np.isfinite(draws)]
    if not len(draws) or draws.max() <= 1e-10 * np.abs(means).max():
        return math.nan
    return float(np.quantile(draws, level))


def _permutation_p(units: _Units, resamples: int, rng: np.random.Generator) -> tuple[float, str]:
    """P-value of the gap under permuted labels, exact for two small groups of single items."""
    sizes = np.bincount(units.label, minlength=units.n_groups)
    is_plain = not units.block.any() and bool((units.sizes == 1).all())
    is_small = is_plain and sizes.min() > 1 and comb(sizes.sum(), sizes[0]) <= _EXACT_SPLITS
    if units.n_groups == 2 and is_small:
        result = permutation_test(
            [units.sums[units.label == 0], units.sums[units.label == 1]],
            lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
            vectorized=True,
            n_resamples=_EXACT_SPLITS,
        )
        return float(result.pvalue), "label permutation, exact"
    observed = _gap(units, units.label[None, :])[0]
    drawn = np.concatenate([_gap(units, labels) for labels in _permuted(units, resamples, rng)])
    slack = 1e-9 * max(abs(observed), 1e-300)  # equal up to rounding counts as equal
    above = (1 + int((~(drawn < observed - slack)).sum())) / (1 + resamples)
    below = (1 + int((~(drawn > observed + slack)).sum())) / (1 + resamples)
    p_value = min(1.0, 2 * min(above, below)) if units.n_groups == 2 else above
    return p_value, f"label permutation, {resamples} draws"


def _permuted(
    units: _Units, resamples: int, rng: np.random.Generator
) -> Iterator[NDArray[np.intp]]:
    """Labels [b, U] shuffled within blocks: sorting by block plus a random fraction shuffles."""
    order = np.argsort(units.block, kind="stable")
    for size in chunks(resamples, len(order)):
        keys = units.block[order] + rng.random((size, len(order)))
        labels = np.empty((size, len(order)), dtype=np.intp)
        labels[:, order] = units.label[order][np.argsort(keys, axis=1)]
        yield labels


def _gap(units: _Units, labels: NDArray[np.intp]) -> Array:
    """Two groups: first mean minus second; more: largest minus smallest. Labels [b, U] -> [b]."""
    means = np.stack(
        [
            ((labels == group) @ units.sums) / ((labels == group) @ units.sizes)
            for group in range(units.n_groups)
        ],
        axis=1,
    )
    gap: Array = means[:, 0] - means[:, 1] if units.n_groups == 2 else np.ptp(means, axis=1)
    return gap
