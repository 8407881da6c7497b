"""Distances, which noise makes larger: what they are by chance alone, and bounds that know it.

A distance of observed shares from their reference lies above 0 where the truth is 0, and so does
every resample of it: the percentiles of a bootstrap hold 0 almost never. Bounds here come from the
size of the noise itself.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import stdtrit

from trueup.stats import Estimate, Labels
from trueup.stats.estimate import Array, level_of, normal_quantile

DRAWS = 999  # of noise


def total_variation(shares: Array, reference: Array) -> Array:
    """Half the sum of the absolute differences over the last axis."""
    distance: Array = np.abs(shares - reference).sum(axis=-1) / 2
    return distance


def around(
    point: float, noise: Array, *, n: int, how: str, labels: Labels, most: float = math.inf
) -> Estimate:
    """A distance with the bounds point -+ the quantile of the noise at the level, in [0, most].

    | |x| - |truth| | <= |x - truth|, so that the bounds hold the truth at least as often as the
    level says; where the truth is 0, they hold it exactly so often.
    Shapes: noise [S], distances between what chance makes of the same truth.
    Edges:  no point or no noise: bounds are NaN.
    """
    known = noise[np.isfinite(noise)]
    reach = float(np.quantile(known, level_of(labels))) if len(known) else math.nan
    low, high = np.clip([point - reach, point + reach], 0.0, most).tolist()
    return Estimate(
        value=point,
        low=low,
        high=high,
        n=n,
        method=f"distance of {len(noise)} {how}",
        **labels,
    )


def by_chance(noise: Array, *, n: int, how: str, labels: Labels) -> Estimate:
    """The mean distance that chance alone gives, and the range of the level's share of draws."""
    known = noise[np.isfinite(noise)]
    level = level_of(labels)
    low, high = (
        np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) if len(known) else [math.nan] * 2
    )
    return Estimate(
        value=float(known.mean()) if len(known) else math.nan,
        low=float(low),
        high=float(high),
        n=n,
        method=f"range of {len(noise)} {how}",
        **labels,
    )


def resampling_noise(
    units: Array, distance: Callable[[Array, Array], Array], level: float, rng: np.random.Generator
) -> Array:
    """Distances [S] of resampled sums from the sums of the independent units [U, K].

    Few units vary too little in resamples: the noise is stretched by sqrt(U / (U - 1)) and by the
    quotient of Student's quantile, U - 1 degrees of freedom, and the normal one.
    Edges:  fewer than two units, or units that all agree, tell nothing of the noise: empty.
    """
    count = len(units)
    if count < 2:
        return np.empty(0)
    sums = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) @ units
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = distance(sums, units.sum(axis=0))
    if not np.nanmax(noise, initial=0.0) > 1e-12:
        return np.empty(0)
    student = float(stdtrit(count - 1, (1 + level) / 2)) / normal_quantile(level)
    stretched: Array = noise * student * math.sqrt(count / (count - 1))
    return stretched
