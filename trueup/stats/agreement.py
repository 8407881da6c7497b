"""Do raters agree beyond chance? Kappa, Fleiss, Krippendorff's alpha and Gwet's AC1.

Each is a function of sums over units, so the bootstrap of `resampling` gives every one an interval.
"""

import math
from typing import Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueup.errors import UserError, check_choice
from trueup.stats.estimate import Array, Estimate, Labels, level_of, normal_quantile
from trueup.stats.resampling import RESAMPLES, Value, bootstrap, quietly

Scale = Literal["nominal", "ordinal", "interval", "ratio"]
Weights = Literal["none", "linear", "quadratic"]


def agreement(
    ratings: ArrayLike,
    *,
    rng: np.random.Generator,
    scale: Scale = "nominal",
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    **labels: Unpack[Labels],
) -> dict[str, Estimate]:
    """Every coefficient that the ratings allow, each with a bootstrap interval over the units.

    Keys:   observed (share of agreeing pairs of raters), ac1, krippendorff; with two raters cohen;
            with complete ratings fleiss. The paradox of prevalence lowers kappa where nearly all
            units are alike: read observed and ac1 beside it.
    Shapes: ratings [R, U], NaN or None where a rater skipped a unit; clusters [U].
    Edges:  units with one rating count only towards ac1's shares; no disagreement possible: NaN.
    """
    codes, values = _codes(ratings)
    counts = _counts(codes, len(values))  # [U, q]
    made: dict[str, tuple[Array, Value]] = {
        "observed": (_pair_terms(counts), _observed),
        "ac1": (_pair_terms(counts), _ac1),
        "krippendorff": (_coincidences(counts), _alpha_of(values, scale)),
    }
    if len(codes) == 2:
        made["cohen"] = (_tables(codes, len(values)), _kappa_of(_agreement_weights(len(values))))
    if (codes >= 0).all():
        made["fleiss"] = (_pair_terms(counts), _fleiss)
    estimates = {}
    for name, (terms, value) in made.items():
        named: Labels = {**labels, "metric": name}
        estimates[name] = bootstrap(
            terms, value, rng=rng, clusters=clusters, resamples=resamples, **named
        )
    return estimates


def cohen_kappa(
    table: ArrayLike, *, weights: Weights = "none", **labels: Unpack[Labels]
) -> Estimate:
    """Cohen's kappa of two raters' table with its large-sample interval.

    kappa = (po - pe) / (1 - pe);  linear and quadratic weights forgive near misses
    Shapes: table [q, q], rows the first rater's categories, columns the second's, counts of units.
    Edges:  one category in use: NaN, for chance explains all; no variance: bounds are NaN.
    Source: Fleiss, Cohen and Everitt 1969.
    """
    check_choice(("none", "linear", "quadratic"), weights=weights)
    labels.setdefault("metric", "kappa")
    counts = np.asarray(table, dtype=np.float64)
    w = _agreement_weights(len(counts), weights)
    n = counts.sum()
    kappa = float(quietly(_kappa_of(w), counts.reshape(-1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = counts / n
        rows, columns = p.sum(axis=1), p.sum(axis=0)
        chance = float(rows @ w @ columns)
        expected = (w @ columns)[:, None] + (rows @ w)[None, :]
        spread = (p * (w - expected * (1 - kappa)) ** 2).sum() - (kappa - chance * (1 - kappa)) ** 2
        error = math.sqrt(max(float(spread), 0.0) / n) / (1 - chance) if chance < 1 else math.nan
    half = normal_quantile(level_of(labels)) * error if error > 0 else math.nan
    method = "Cohen" if weights == "none" else f"Cohen, {weights} weights"
    return Estimate(
        value=kappa, low=kappa - half, high=kappa + half, n=int(n), method=method, **labels
    )


def fleiss_kappa(counts: ArrayLike) -> float:
    """Fleiss' kappa of units rated by the same number of raters; counts [U, q] by category."""
    return float(quietly(_fleiss, _pair_terms(np.asarray(counts, dtype=np.float64)).sum(axis=0)))


def krippendorff_alpha(ratings: ArrayLike, *, scale: Scale = "nominal") -> float:
    """Krippendorff's alpha, 1 - observed / expected disagreement; ratings [R, U], NaN missing."""
    codes, values = _codes(ratings)
    terms = _coincidences(_counts(codes, len(values)))
    return float(quietly(_alpha_of(values, scale), terms.sum(axis=0)))


def gwet_ac1(counts: ArrayLike) -> float:
    """Gwet's AC1, steady where nearly all units are alike; counts [U, q] of ratings by category.

    AC1 = (po - pe) / (1 - pe),  pe = sum_k share_k (1 - share_k) / (q - 1)
    """
    return float(quietly(_ac1, _pair_terms(np.asarray(counts, dtype=np.float64)).sum(axis=0)))


def _codes(ratings: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.object_]]:
    """Category numbers [R, U], -1 where missing, and the categories in sorted order."""
    raw = np.asarray(ratings, dtype=object)
    is_missing = np.array([[one is None or one != one for one in row] for row in raw], dtype=bool)
    values = np.array(sorted(set(raw[~is_missing])), dtype=object)
    if len(values) == 0:
        raise UserError("agreement needs ratings, got none")
    codes = np.full(raw.shape, -1, dtype=np.intp)
    codes[~is_missing] = np.searchsorted(values, raw[~is_missing])
    return codes, values


def _counts(codes: NDArray[np.intp], q: int) -> Array:
    """How many raters put each unit into each category, [U, q]."""
    counts: Array = (codes[:, :, None] == np.arange(q)).sum(axis=0).astype(np.float64)
    return counts


def _pair_terms(counts: Array) -> Array:
    """By unit: share of agreeing pairs, is it rated twice, is it rated, shares by category."""
    raters = counts.sum(axis=1)
    is_pair = raters >= 2
    pairs = np.where(is_pair, raters * (raters - 1), 1.0)
    agreeing = np.where(is_pair, (counts * (counts - 1)).sum(axis=1) / pairs, 0.0)
    shares = counts / np.maximum(raters, 1)[:, None]
    terms: Array = np.column_stack([agreeing, is_pair, raters > 0, shares])
    return terms


def _observed(sums: Array) -> Array:
    """Mean share of agreeing pairs of raters."""
    observed: Array = sums[..., 0] / sums[..., 1]
    return observed


def _fleiss(sums: Array) -> Array:
    """(po - pe) / (1 - pe), pe the sum of squared shares."""
    shares = sums[..., 3:] / sums[..., 2:3]
    chance = (shares**2).sum(axis=-1)
    kappa: Array = (_observed(sums) - chance) / (1 - chance)
    return kappa


def _ac1(sums: Array) -> Array:
    """(po - pe) / (1 - pe), pe the mean of share (1 - share) over q - 1."""
    shares = sums[..., 3:] / sums[..., 2:3]
    chance = (shares * (1 - shares)).sum(axis=-1) / (shares.shape[-1] - 1)
    ac1: Array = (_observed(sums) - chance) / (1 - chance)
    return ac1


def _tables(codes: NDArray[np.intp], q: int) -> Array:
    """Two raters' table of each unit that both rated, [U, q * q]; NaN for the other units."""
    both = (codes >= 0).all(axis=0)
    terms = np.zeros((codes.shape[1], q * q))
    terms[np.flatnonzero(both), codes[0, both] * q + codes[1, both]] = 1.0
    terms[~both] = np.nan
    return terms


def _agreement_weights(q: int, weights: Weights = "none") -> Array:
    """1 on the diagonal, less with distance, 0 at the far ends; without weights 0 beside it."""
    if weights == "none":
        return np.eye(q)
    distance: Array = np.abs(np.arange(q)[:, None] - np.arange(q)) / max(q - 1, 1)
    return 1 - (distance if weights == "linear" else distance**2)


def _kappa_of(weights: Array) -> Value:
    """Kappa as a function of summed tables [..., q * q]."""
    q = len(weights)

    def kappa(sums: Array) -> Array:
        table = sums.reshape(*sums.shape[:-1], q, q)
        p = table / table.sum(axis=(-2, -1), keepdims=True)
        observed = (p * weights).sum(axis=(-2, -1))
        chance = np.einsum("...i,ij,...j->...", p.sum(axis=-1), weights, p.sum(axis=-2))
        value: Array = (observed - chance) / (1 - chance)
        return value

    return kappa


def _coincidences(counts: Array) -> Array:
    """Each unit's ordered pairs of ratings, weighted 1 / (raters - 1), [U, q * q]."""
    raters = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    weighted: Array = pairs / np.maximum(raters - 1, 1)[:, None, None]
    return weighted.reshape(len(counts), -1)


def _alpha_of(values: NDArray[np.object_], scale: Scale) -> Value:
    """Krippendorff's alpha as a function of summed coincidences [..., q * q]."""
    check_choice(("nominal", "ordinal", "interval", "ratio"), scale=scale)
    q = len(values)
    fixed = None if scale == "ordinal" else _squared_distances(values, scale)

    def alpha(sums: Array) -> Array:
        table = sums.reshape(*sums.shape[:-1], q, q)
        margin = table.sum(axis=-1)
        squared = _ordinal_distances(margin) if fixed is None else fixed
        observed = (table * squared).sum(axis=(-2, -1))
        expected = (margin[..., :, None] * margin[..., None, :] * squared).sum(axis=(-2, -1))
        value: Array = 1 - (margin.sum(axis=-1) - 1) * observed / expected
        return value

    return alpha


def _squared_distances(values: NDArray[np.object_], scale: Scale) -> Array:
    """Squared distances of categories: 0 or 1, v - w, or (v - w) / (v + w)."""
    if scale == "nominal":
        return 1 - np.eye(len(values))
    v = values.astype(np.float64)
    apart, together = v[:, None] - v, v[:, None] + v
    if scale == "interval":
        return apart**2
    return (apart / np.where(together == 0, 1.0, together)) ** 2


def _ordinal_distances(margin: Array) -> Array:
    """Squared number of ratings between two categories, half of either end; [..., q, q]."""
    middle = np.cumsum(margin, axis=-1) - margin / 2
    squared: Array = (middle[..., :, None] - middle[..., None, :]) ** 2
    return squared
