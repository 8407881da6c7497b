"""The variance over groups of their mean shares of classes, with and without its noise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trueup.stats import Estimate, Labels
from trueup.stats.estimate import Array, level_of
from trueup.stats.resampling import chunks

RESAMPLES = 1999


@dataclass(frozen=True)
class Cells:
    """The shares of classes in each cell, a mean over its texts, and whose it is.

    Shapes: shares [K, C]; descriptor [K], numbers 0 ... D - 1, each of which occurs; template [K],
            what cells of several descriptors share; None where they share nothing.
    """

    shares: Array
    descriptor: NDArray[np.int64]
    template: NDArray[np.int64] | None = None


def descriptor_terms(cells: Cells) -> Array:
    """Of each descriptor: 1, its mean shares, their squares, and their noise, [D, 2 C + 2]."""
    means, covariances = means_with_noise(cells)
    noise = _added(covariances)
    return np.column_stack([np.ones(len(means)), means, means**2, noise])


def variance(sums: Array, *, is_sample: bool = False, is_corrected: bool = False) -> Array:
    """The sum over classes of Var over descriptors of the mean share; [..., 2 C + 2] -> [...].

    Fields: is_sample divides by D - 1 in place of D; is_corrected takes the mean noise away.
    """
    count, width = sums[..., 0], (sums.shape[-1] - 2) // 2
    means = sums[..., 1 : 1 + width] / count[..., None]
    squares = sums[..., 1 + width : -1] / count[..., None]
    found = (squares - means**2).sum(axis=-1)
    if is_corrected:
        found = found - sums[..., -1] / count
    found = np.where(np.abs(found) < 1e-15, 0.0, found)
    scaled: Array = found * count / (count - 1) if is_sample else found
    return scaled


def means_with_noise(cells: Cells) -> tuple[Array, Array]:
    """Each descriptor's mean shares [D, C], and the covariance of their noise [D, C, C].

    noise of w = sum over its cells of e e' / (T (T - 1)), e the cell less the mean of w, and less
    what its template has beyond the mean of all: a template that shifts all descriptors alike is
    no noise in their variance. With templates e has lost 1 / D of its variance, which is made up.
    Edges:  a descriptor of one cell takes the mean noise of a cell of the others; where none has
            two, there is no noise to be seen, NaN.
    """
    sizes = np.bincount(cells.descriptor).astype(np.float64)
    means = _by(cells.descriptor, cells.shares)
    rest = cells.shares - means[cells.descriptor]
    scale = 1.0
    if cells.template is not None:
        rest = rest - _by(cells.template, rest)[cells.template]
        rest = rest - _by(cells.descriptor, rest)[cells.descriptor]
        scale = len(sizes) / max(len(sizes) - 1, 1)
    products = rest[:, :, None] * rest[:, None, :]
    per_cell = _by(cells.descriptor, products.reshape(len(rest), -1)) * sizes[:, None]
    per_cell = np.where(sizes[:, None] > 1, per_cell / np.maximum(sizes - 1, 1)[:, None], np.nan)
    known = ~np.isnan(per_cell).any(axis=1)
    usual = per_cell[known].mean(axis=0) if known.any() else per_cell[0]
    per_cell[~known] = usual
    width = cells.shares.shape[1]
    return means, (scale * per_cell / sizes[:, None]).reshape(-1, width, width)


def variance_interval(
    cells: Cells,
    *,
    is_sample: bool,
    is_corrected: bool,
    n: int,
    rng: np.random.Generator,
    labels: Labels,
) -> Estimate:
    """The variance with the interval of what it would be without noise.

    corrected + q(a) ... corrected + q(1 - a) of draws of V(means + noise) - E[added] - V(means),
    with normal noise of the covariance found. The draws stand on means that hold noise already, so
    the interval is too wide where there is no variance, and right where there is much. The number
    that is not corrected has the same interval, no lower than 0 and stretched to hold it.
    """
    means, covariances = means_with_noise(cells)
    count = len(means)
    scale = count / (count - 1) if is_sample else 1.0
    sums = descriptor_terms(cells).sum(axis=0)
    plain = float(variance(sums, is_sample=is_sample))
    corrected = float(variance(sums, is_sample=is_sample, is_corrected=True))
    moved = scale * _moved(means, covariances, rng)
    tail = (1 - level_of(labels)) / 2
    low, high = corrected + np.quantile(moved, [tail, 1 - tail])
    method = f"normal noise of {count} descriptors' means, {RESAMPLES} draws"
    if not np.ptp(moved) > 1e-15:
        low = high = np.nan
        method = "undefined without several texts of a descriptor that differ"
    elif not is_corrected:
        low, high = min(max(low, 0.0), plain), max(high, plain)
    value = corrected if is_corrected else plain
    return Estimate(value=value, low=float(low), high=float(high), n=n, method=method, **labels)


def _moved(means: Array, covariances: Array, rng: np.random.Generator) -> Array:
    """How far draws of the corrected variance lie from the variance of the means, [R]."""
    if np.isnan(covariances).any():
        return np.full(RESAMPLES, np.nan)
    spread, axes = np.linalg.eigh(covariances)
    roots = axes * np.sqrt(np.maximum(spread, 0))[:, None, :]  # [D, C, C]
    drawn = [
        (means + np.einsum("rdk,dck->rdc", rng.standard_normal((size, *means.shape)), roots))
        .var(axis=1)
        .sum(axis=1)
        for size in chunks(RESAMPLES, means.size)
    ]
    moved: Array = np.concatenate(drawn) - _added(covariances).mean() - means.var(axis=0).sum()
    return moved


def _added(covariances: Array) -> Array:
    """What each descriptor's noise adds to the variance over descriptors, in expectation, [D]."""
    trace: Array = np.trace(covariances, axis1=1, axis2=2)
    return (1 - 1 / len(covariances)) * trace


def _by(codes: NDArray[np.int64], values: Array) -> Array:
    """The mean row of each code, [max + 1, C]."""
    sums = np.zeros((int(codes.max()) + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums / np.bincount(codes)[:, None]
