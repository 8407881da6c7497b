"""The arithmetic of association tests on plain arrays: associations, effect size, partitions."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from trueup.stats.estimate import Array

BLOCK = 4096  # partitions that are drawn at once
TIE = 1e-12  # statistics that differ by less, relative to their size, are equal
CONSTANT = 1e-24  # a variance of associations below this, or this share of their size, is none


def unit(vectors: Array) -> Array:
    """The vectors [..., D] scaled to length 1; NaN for one without length or with a NaN."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled: Array = np.where(lengths > 0, vectors / lengths, np.nan)
    return scaled


def associations(targets: Array, first: Array, second: Array) -> Array:
    """s(w) = mean over first of cos(w, a) - mean over second of cos(w, b), [N].

    Shapes: targets [N, D], first [A, D], second [B, D]. The mean of cosines with unit vectors is
    the product with their mean, so that no table of cosines is made.
    """
    direction = unit(first).mean(axis=0) - unit(second).mean(axis=0)
    product: Array = unit(targets) @ direction
    return product


def effect_of_sums(sums: Array) -> Array:
    """`effects` of sums [..., 5] in their order."""
    return effects(*np.moveaxis(sums, -1, 0))


def effects(count_x: Array, count_y: Array, sum_x: Array, sum_y: Array, squares: Array) -> Array:
    """Effect sizes d from sums of 1 over X, 1 over Y, s over X, s over Y, s^2 over both.

    d = (mean_X s - mean_Y s) / std_{X u Y} s, with n - 1 below the deviation
    Edges:  a side without a word, or associations that are all equal: NaN.
    """
    n = count_x + count_y
    variance = variances(n, sum_x + sum_y, squares)
    is_constant = variance <= np.maximum(CONSTANT, 1e-13 * squares / n)
    gap = sum_x / count_x - sum_y / count_y
    effect: Array = np.where(
        is_constant, np.nan, gap / np.sqrt(np.where(is_constant, 1.0, variance))
    )
    return effect


def variances(n: Array, total: Array, squares: Array) -> Array:
    """Variances of associations, with n - 1, from n, their sum and the sum of their squares."""
    variance: Array = (squares - total**2 / n) / (n - 1)
    return variance


def effect_size(x: Array, y: Array) -> float:
    """The effect size d of associations x [X] and y [Y]."""
    sums = np.array([len(x), len(y), x.sum(), y.sum(), (x**2).sum() + (y**2).sum()])
    return float(effect_of_sums(sums))


@dataclass(frozen=True)
class Partitions:
    """The outcome of a permutation test: p, over how many partitions, and whether over all."""

    p_value: float
    tried: int
    is_exact: bool


def partition_test(x: Array, y: Array, *, samples: int, rng: np.random.Generator) -> Partitions:
    """One-sided p: how often a random partition of X u Y has a sum over X of at least the observed.

    All partitions where there are at most `samples`, else samples - 1 random ones and the observed
    one, counted once. Equal sums count, so that p is never too small.
    Edges:  an empty side: NaN.
    Source: Caliskan et al. 2017; May et al. 2019 for the count of random partitions.
    """
    both = np.concatenate([x, y])
    if not len(x) or not len(y):
        return Partitions(np.nan, 0, is_exact=True)
    reach = x.sum() - TIE * max(1e-300, float(np.abs(both).sum()))
    total = comb(len(both), len(x))
    if total <= samples:
        chosen = np.array(list(combinations(range(len(both)), len(x))))
        return Partitions(float((both[chosen].sum(axis=1) >= reach).mean()), total, is_exact=True)
    hits = 1 + sum(
        int((both[chosen].sum(axis=1) >= reach).sum())
        for chosen in _random_halves(len(both), len(x), samples - 1, rng)
    )
    return Partitions(hits / samples, samples, is_exact=False)


def _random_halves(
    n: int, size: int, count: int, rng: np.random.Generator
) -> Iterator[NDArray[np.intp]]:
    """Random sets of `size` of n places, [b, size] at a time."""
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        keys = rng.random((rows, n), dtype=np.float32)
        yield np.argpartition(keys, size - 1, axis=1)[:, :size]
