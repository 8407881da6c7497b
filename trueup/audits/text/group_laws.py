"""Distances between the laws of groups, with an interval that holds 0 where the laws are equal."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.audits.estimates import clusters_of
from trueup.audits.protocol import Metric, counted_rows
from trueup.audits.text.chance import around, by_chance, resampling_noise
from trueup.audits.text.grouped_text import group_terms, membership, names_in, stretch
from trueup.stats import Estimate, Labels
from trueup.stats.estimate import Array, level_of
from trueup.stats.resampling import chunks, cluster_sums, quietly, units_of

SHUFFLES = 499

Columns = Callable[[pd.DataFrame], Array]  # items -> [N, C], each row's mass on the C values


@dataclass(frozen=True)
class LawDistance:
    """The distance between two groups' laws over the same C values, a mean over pairs of groups.

    ordered:  W1 = sum_c | F_a(c) - F_b(c) | / (C - 1), the values evenly spaced over [0, 1]
    else:     TVD = 1/2 sum_c | p_a(c) - p_b(c) |
    Noise makes it larger than it is, and it is above 0 even where the groups are equal.
    Interval: distance -+ q, q the `level` quantile over bootstrap draws of the length of what
    moved, the same sum over (draw's differences - data's differences); see `chance`. Few units of
    the smallest group make it wider, see `stretch`.
    """

    size: int
    is_ordered: bool

    def value(self, sums: Array) -> Array:
        """The distance of sums [..., G C]."""
        return self.length(self.differences(sums))

    def differences(self, sums: Array) -> Array:
        """Between the laws of each pair of groups, [..., P, C]."""
        counts = sums.reshape(*sums.shape[:-1], -1, self.size)
        laws = counts / counts.sum(axis=-1, keepdims=True)
        laws = laws.cumsum(axis=-1) / (self.size - 1) if self.is_ordered else laws / 2
        first, second = np.triu_indices(laws.shape[-2], 1)
        between: Array = laws[..., first, :] - laws[..., second, :]
        return between

    def length(self, differences: Array) -> Array:
        """Their absolute sum, a mean over pairs."""
        total: Array = np.abs(differences).sum(axis=-1).mean(axis=-1)
        return total

    def estimate(
        self,
        terms: Array,
        clusters: NDArray[np.int64] | None,
        rng: np.random.Generator,
        labels: Labels,
    ) -> Estimate:
        """The distance with its interval; NaN for a group of one unit, or without variance."""
        units, n = units_of(terms, clusters)
        point = float(quietly(self.value, units.sum(axis=0)))
        noise = resampling_noise(units, self._moved, level_of(labels), rng)
        sizes = (units.reshape(len(units), -1, self.size).sum(axis=2) > 0).sum(axis=0)  # [G]
        fewest, level = int(sizes.min()), level_of(labels)
        is_known = fewest > 1 and bool((noise > 1e-12).any())
        more = stretch(fewest, level) / stretch(len(units), level) if is_known else 1.0
        how = f"resamples of {len(units)} {'items' if clusters is None else 'clusters'}"
        return around(point, more * noise if is_known else noise[:0], n=n, how=how, labels=labels)

    def _moved(self, sums: Array, total: Array) -> Array:
        """The length of what differs from the data's differences."""
        return self.length(self.differences(sums) - self.differences(total))


def law_distance(
    name: str, groups: Sequence[str], columns: Columns, distance: LawDistance, *, reading: str
) -> Metric:
    """The distance between the laws of the groups; ideal 0, which only endless data reach."""

    def terms(items: pd.DataFrame) -> Array:
        return group_terms(items, groups, columns(items))

    def interval(items: pd.DataFrame, rng: np.random.Generator, labels: Labels) -> Estimate:
        found = terms(items)
        clusters = clusters_of(items.loc[counted_rows(found)])
        return distance.estimate(found[counted_rows(found)], clusters, rng, labels)

    return Metric(
        name=name,
        kind="statistic",
        terms=terms,
        value=distance.value,
        ideal=0.0,
        span=(0.0, 1.0),
        interval=interval,
        reading=reading,
    )


def shuffled_distance(
    name: str, groups: Sequence[str], columns: Columns, distance: LawDistance, *, reading: str
) -> Metric:
    """What the distance is by noise alone: its mean, and where `level` of it lies, in shuffles.

    Labels are shuffled within clusters (templates) whose items are of several groups; clusters of
    one group each are shuffled whole. It informs, and has no ideal.
    """

    def terms(items: pd.DataFrame) -> Array:
        return group_terms(items, groups, columns(items))

    def interval(items: pd.DataFrame, rng: np.random.Generator, labels: Labels) -> Estimate:
        member = membership(items, names_in(items, groups))
        counts = counted_rows(terms(items))
        rows, moving, block = _movable(
            columns(items)[counts], member[counts], clusters_of(items.loc[counts])
        )
        drawn = np.concatenate(
            [
                distance.value((moving[order].transpose(0, 2, 1) @ rows).reshape(len(order), -1))
                for order in shuffled_orders(block, SHUFFLES, rng, width=rows.size)
            ]
        )
        how = "shuffles of the group labels"
        return by_chance(drawn, n=int(counts.sum()), how=how, labels=labels)

    return Metric(
        name=name,
        kind="statistic",
        terms=terms,
        value=distance.value,
        span=(0.0, 1.0),
        interval=interval,
        reading=reading,
    )


def shuffled_orders(
    block: NDArray[np.int64], draws: int, rng: np.random.Generator, *, width: int
) -> Iterator[NDArray[np.intp]]:
    """Orders [b, U] of the units, shuffled within blocks; so many at a time as `width` allows."""
    order = np.argsort(block, kind="stable")
    for size in chunks(draws, width):
        keys = block[order] + rng.random((size, len(order)))
        moved = np.empty((size, len(order)), dtype=np.intp)
        moved[:, order] = order[np.argsort(keys, axis=1)]
        yield moved


def _movable(
    rows: Array, member: NDArray[np.bool_], clusters: NDArray[np.int64] | None
) -> tuple[Array, NDArray[np.float64], NDArray[np.int64]]:
    """What is shuffled: rows [U, C] and groups [U, G] of units, and the block of each."""
    groups = member.astype(np.float64)
    if clusters is None:
        return rows, groups, np.zeros(len(rows), dtype=np.int64)
    _, first, own = np.unique(clusters, return_index=True, return_inverse=True)
    if (member == member[first][own]).all():
        return cluster_sums(rows, clusters), groups[first], np.zeros(len(first), dtype=np.int64)
    return rows, groups, clusters
