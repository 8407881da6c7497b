"""Differences of group means: signed for two groups, the largest less the smallest for more."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.audits.estimates import FEW, clusters_of
from trueup.audits.few_units import jackknife
from trueup.audits.protocol import Metric, counted_rows
from trueup.audits.text.grouped_text import group_terms, membership, names_in, stretch
from trueup.stats import Estimate, Labels, bootstrap, format_p, group_gap
from trueup.stats.estimate import Array, level_of
from trueup.stats.resampling import units_of

RESAMPLES = 1999  # of the largest gap: its quantile at 0.95 has a standard error of 0.005 there

Numbers = Callable[[pd.DataFrame], Array]  # items -> [N]


def mean_gap(
    name: str, groups: Sequence[str], numbers: Numbers, *, is_signed: bool, reading: str
) -> Metric:
    """The difference of two groups' means, or the gap over more; ideal 0.

    two groups, signed:  mean(first) - mean(second)
    two, not signed:     | mean(first) - mean(second) |
    more:                largest mean - smallest mean
    Its interval: of a signed difference by resampling (jackknife below 30 units); of the others
    the simultaneous one of `group_gap`, whose search for the largest gap is inside the test, made
    wider for few units of the smallest group, see `stretch`.
    """

    def terms(items: pd.DataFrame) -> Array:
        x = np.asarray(numbers(items), dtype=np.float64)
        return group_terms(items, groups, np.stack([x, np.ones_like(x)], axis=1))

    def interval(items: pd.DataFrame, rng: np.random.Generator, labels: Labels) -> Estimate:
        names = names_in(items, groups)
        if is_signed and len(names) == 2:
            return _signed(terms(items), items, rng, labels)
        return _gap(np.asarray(numbers(items), dtype=np.float64), names, items, rng, labels)

    return Metric(
        name=name,
        kind="statistic",
        terms=terms,
        value=signed_gap if is_signed else largest_gap,
        ideal=0.0,
        span=(-1.0 if is_signed else 0.0, 1.0),
        interval=interval,
        reading=reading,
    )


def signed_gap(sums: Array) -> Array:
    """First less second mean of two groups, largest less smallest of more; [..., 2 G] -> [...]."""
    means = _means(sums)
    if means.shape[-1] > 2:
        return largest_gap(sums)
    difference: Array = means[..., 0] - means[..., 1]
    return difference


def largest_gap(sums: Array) -> Array:
    """Largest less smallest mean; [..., 2 G] -> [...]."""
    means = _means(sums)
    gap: Array = means.max(axis=-1) - means.min(axis=-1)
    return gap


def _means(sums: Array) -> Array:
    """The groups' means [..., G]."""
    means: Array = sums[..., 0::2] / sums[..., 1::2]
    return means


def _signed(
    terms: Array, items: pd.DataFrame, rng: np.random.Generator, labels: Labels
) -> Estimate:
    """A signed difference with the interval of `estimates`: BCa, for few units the jackknife."""
    counts = counted_rows(terms)
    terms, clusters = terms[counts], clusters_of(items.loc[counts])
    if len(units_of(terms, clusters)[0]) < FEW:
        return jackknife(terms, signed_gap, clusters, labels)
    return bootstrap(terms, signed_gap, clusters=clusters, rng=rng, **labels)


def _gap(
    numbers: Array,
    names: Sequence[str],
    items: pd.DataFrame,
    rng: np.random.Generator,
    labels: Labels,
) -> Estimate:
    """The largest gap; an item of several groups stands in each, beside itself."""
    counts = ~np.isnan(numbers)
    member = membership(items, names) & counts[:, None]
    line, place = np.nonzero(member)
    n = int(member.any(axis=1).sum())
    if member.any(axis=0).sum() < 2:
        nothing, why = math.nan, "undefined, only one group has scores"
        return Estimate(value=nothing, low=nothing, high=nothing, n=n, method=why, **labels)
    units = _units(items, member, line)
    found = group_gap(
        numbers[line],
        np.asarray(names)[place],
        rng=rng,
        clusters=units,
        resamples=RESAMPLES,
        level=level_of(labels),
    )
    how = f"simultaneous bootstrap of {len(names)} groups, {RESAMPLES} resamples"
    half, fewest = found.high - found.value, _fewest(place, units)
    if math.isnan(half) or fewest < 2:
        half, how = math.nan, "undefined without variance, or where a group is one cluster"
    else:
        half *= stretch(fewest, level_of(labels))
    told = f"{found.highest} over {found.lowest}, {found.test}, p {_p(found.p_value)}"
    return Estimate(
        value=found.value,
        low=found.value - half,
        high=found.value + half,
        n=n,
        method=f"{how}; {told}",
        **labels,
    )


def _units(
    items: pd.DataFrame, member: NDArray[np.bool_], line: NDArray[np.intp]
) -> NDArray[np.int64] | None:
    """The cluster of every item that counts, as often as the item; None where all stand alone."""
    counts: NDArray[np.bool_] = np.asarray(member.any(axis=1))
    codes = np.full(len(items), -1, dtype=np.int64)
    clusters = clusters_of(items.loc[counts])
    if clusters is None and (member.sum(axis=1) <= 1).all():
        return None
    codes[counts] = np.arange(counts.sum()) if clusters is None else clusters
    return codes[line]


def _fewest(place: NDArray[np.intp], units: NDArray[np.int64] | None) -> int:
    """The number of units of the group that has the fewest."""
    if units is None:
        return int(np.unique(place, return_counts=True)[1].min())
    pairs = np.unique(np.stack([place, units]), axis=1)
    return int(np.unique(pairs[0], return_counts=True)[1].min())


def _p(p_value: float) -> str:
    """A p-value in a sentence."""
    text = format_p(p_value)
    return text if text.startswith("<") else f"= {text}"
