"""The bootstrap for any number that is a function of sums over items, clustered or not.

A statistic is told by two things: `terms` [N, K], what each item adds to K sums, and `value`, which
turns sums [..., K] into numbers [...]. Resampling then never touches the items again: it draws how
often each unit occurs, and multiplies.
"""

import math
from collections.abc import Callable, Iterator
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtrit

from trueup.errors import UserError
from trueup.stats.estimate import Array, Estimate, Labels, check_level, level_of

RESAMPLES = 9999
Value = Callable[[Array], Array]

_CELLS = 2_000_000  # of a draw of counts held at once: 16 MB
_UNDEFINED = 0.05  # share of draws without a value from which on there is no interval


def mean(
    values: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
    resamples: int = RESAMPLES,
    **labels: Unpack[Labels],
) -> Estimate:
    """A mean with Student's interval, or with the cluster bootstrap's where items share clusters.

    Shapes: values [N]; clusters [N], the independent unit (prompt, template, user) of each item.
    Edges:  NaN values do not count; one item, or items that are all equal: bounds are NaN.
    Raises: UserError where clusters are given without rng.
    """
    labels.setdefault("metric", "mean")
    x = np.asarray(values, dtype=np.float64)
    if clusters is not None:
        terms = np.stack([x, np.where(np.isnan(x), np.nan, 1.0)], axis=1)
        source = needed(rng)
        return bootstrap(
            terms, mean_of_sums, clusters=clusters, rng=source, resamples=resamples, **labels
        )
    x = x[~np.isnan(x)]
    value, low, high = student_interval(x, level_of(labels))
    return Estimate(value=value, low=low, high=high, n=len(x), method="Student t", **labels)


def bootstrap(
    terms: ArrayLike,
    value: Value,
    *,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    **labels: Unpack[Labels],
) -> Estimate:
    """`value` of the summed terms with a BCa interval; percentile where BCa is not defined.

    Shapes: terms [N, K], a row with a NaN does not count; clusters [N], resampled whole.
    Edges:  fewer than two units, or draws that are all equal: bounds are NaN. Draws without a
            value are left out; above 5 % of them the bounds are NaN. `method` says all this.
    Source: Efron 1987.
    """
    labels.setdefault("metric", "statistic")
    units, n = units_of(terms, clusters)
    what = "bootstrap" if clusters is None else f"cluster bootstrap, {len(units)} clusters"
    point, low, high, how = bootstrap_interval(units, value, level_of(labels), resamples, rng)
    method = f"{what}, {how}"
    return Estimate(value=point, low=low, high=high, n=n, method=method, **labels)


def bootstrap_interval(
    units: Array, value: Value, level: float, resamples: int, rng: np.random.Generator
) -> tuple[float, float, float, str]:
    """The value of the units' sums [U, K], its two bounds, and how they were made."""
    check_level(level)
    total = units.sum(axis=0)
    point = float(quietly(value, total))
    if len(units) < 2:
        return point, math.nan, math.nan, "undefined for fewer than two units"
    draws = np.concatenate(
        [quietly(value, counts @ rows) for counts, rows in _draws(units, resamples, rng)]
    )
    draws, missing = draws[np.isfinite(draws)], int((~np.isfinite(draws)).sum())
    if math.isnan(point) or missing > _UNDEFINED * resamples:
        return point, math.nan, math.nan, f"undefined in {missing} of {resamples} resamples"
    if np.ptp(draws) <= 1e-10 * np.abs(draws).max():
        return point, math.nan, math.nan, "undefined without variance"
    left_out = quietly(value, total - units)
    low, high, method = bca_bounds(point, draws, left_out, level)
    note = f", {missing} without a value" if missing else ""
    return point, low, high, f"{method}, {resamples} resamples{note}"


def bca_bounds(
    point: float, draws: Array, left_out: Array, level: float
) -> tuple[float, float, str]:
    """Bias-corrected and accelerated bounds; plain percentiles where those are not finite.

    Shapes: draws [B] of the statistic, left_out [U] its values with each unit left out.
    """
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    below = ((draws < point).mean() + (draws <= point).mean()) / 2
    centred = left_out.mean() - left_out
    spread = float((centred**2).sum())
    probabilities = np.full(2, np.nan)
    if 0 < below < 1 and spread > 0:
        bias = ndtri(below)
        shifted = bias + ndtri(tails)
        stretch = 1 - (centred**3).sum() / (6 * spread**1.5) * shifted
        if (stretch > 0).all():
            probabilities = ndtr(bias + shifted / stretch)
    method = "BCa" if np.isfinite(probabilities).all() else "percentile"
    low, high = np.quantile(draws, probabilities if method == "BCa" else tails)
    return float(low), float(high), method


def units_of(terms: ArrayLike, clusters: ArrayLike | None) -> tuple[Array, int]:
    """The sums of each independent unit [U, K], and the number of items that count."""
    table = np.asarray(terms, dtype=np.float64)
    counts = ~np.isnan(table).any(axis=1)
    table = table[counts]
    if clusters is None:
        return table, len(table)
    return cluster_sums(table, np.asarray(clusters)[counts]), len(table)


def cluster_sums(table: Array, clusters: NDArray[np.generic]) -> Array:
    """The rows of each cluster added up, clusters in sorted order."""
    names, member = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(names), table.shape[1]))
    np.add.at(sums, member, table)
    return sums


def student_interval(x: Array, level: float) -> tuple[float, float, float]:
    """The mean and Student's bounds; NaN bounds for one value or values that are all equal."""
    check_level(level)
    if len(x) < 2 or np.ptp(x) == 0:
        return (float(x.mean()) if len(x) else math.nan), math.nan, math.nan
    half = float(stdtrit(len(x) - 1, (1 + level) / 2)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean()) - half, float(x.mean()) + half


def mean_of_sums(sums: Array) -> Array:
    """The mean from the sums of values and of ones: what `value` is for a mean or a share."""
    quotient: Array = sums[..., 0] / sums[..., 1]
    return quotient


def quietly(value: Value, sums: Array) -> Array:
    """`value` of the sums, where dividing by an empty sum gives NaN and no warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(value(sums), dtype=np.float64)


def needed(rng: np.random.Generator | None) -> np.random.Generator:
    """The generator; UserError where none was passed although clusters must be resampled."""
    if rng is None:
        raise UserError("rng is missing; pass a numpy Generator to resample clusters")
    return rng


def chunks(resamples: int, width: int) -> Iterator[int]:
    """How many draws to make at a time, so that a draw of `width` cells each fits in memory."""
    step = max(1, _CELLS // max(width, 1))
    for start in range(0, resamples, step):
        yield min(step, resamples - start)


def _draws(units: Array, resamples: int, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Counts [b, D] of how often each distinct unit [D, K] occurs among U drawn ones."""
    n = len(units)
    rows, repeats = np.unique(units, axis=0, return_counts=True)
    if len(rows) <= n / 4:
        for size in chunks(resamples, max(rows.shape)):
            yield rng.multinomial(n, repeats / n, size=size).astype(np.float64), rows
        return
    for size in chunks(resamples, max(units.shape)):
        picked = rng.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
        counts = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n)
        yield counts.astype(np.float64), units
