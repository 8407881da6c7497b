"""From items to numbers: every metric of an audit on every slice, with interval and n."""

import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.audits.few_units import at_the_end, jackknife
from trueup.audits.protocol import Audit, Metric, counted_rows
from trueup.stats import Estimate, Labels, bootstrap, mean, proportion
from trueup.stats.resampling import quietly

FEW = 30  # independent units below which the jackknife stands in for the bootstrap


def estimate(
    audit: Audit, items: pd.DataFrame, *, rng: np.random.Generator | None = None
) -> list[Estimate]:
    """Every metric on every slice: Wilson for shares, Student for means, else resampling.

    Statistics, and whatever is clustered, take the BCa bootstrap from 30 independent units on and
    the jackknife with Student's t below; a number at the end of its span (all answers biased, say)
    takes Wilson's interval over units.

    Where items share clusters, clusters are resampled whole; a slice that is one single cluster
    (one occupation, say) takes its items as independent, and speaks of that cluster alone.
    Fields: rng is by default seeded by audit, metric and slice: the same items give the same
            numbers, and no slice changes another.
    Edges:  a slice without items for a metric is left out, "all" is kept with n = 0 unless the
            metric has an interval of its own, which needs an item.
    """
    result = []
    slices = audit.slices(items)
    for metric in audit.metrics:
        for name, mask in slices.items():
            if name != "all" and not metric.sliced:
                continue
            labels = Labels(
                audit=audit.name,
                metric=metric.name,
                slice=name,
                level=audit.level,
                ideal=metric.ideal,
            )
            source = rng or generator(audit.name, metric.name, name)
            if metric.interval is None:
                row = _estimate(metric, items[mask], source, labels)
            elif counted_rows(metric.terms(items[mask])).any():
                row = metric.interval(items[mask], source, labels)
            else:
                continue
            if row.n or name == "all":
                result.append(_within(metric.span, row))
    return result


def of_what_is_there(audit: Audit, items: pd.DataFrame) -> list[Estimate]:
    """`estimate` without the numbers for which there is no item, where another one has some."""
    found = estimate(audit, items)
    return [row for row in found if row.n] or found


def generator(*names: str) -> np.random.Generator:
    """A generator that the names alone determine."""
    return np.random.default_rng(zlib.crc32("\0".join(names).encode()))


def clusters_of(items: pd.DataFrame) -> NDArray[np.int64] | None:
    """The cluster of every item as a number; None where each item, or none, stands alone."""
    names = items["cluster"].where(items["cluster"] != "", "item " + items["id"])
    codes, distinct = pd.factorize(names)
    return codes if 1 < len(distinct) < len(items) else None


def _within(span: tuple[float, float] | None, row: Estimate) -> Estimate:
    """The estimate with its bounds cut to the values that are possible."""
    if span is None:
        return row
    low, high = np.clip([row.low, row.high], *span).tolist()
    return replace(row, low=low, high=high)


def _estimate(
    metric: Metric, items: pd.DataFrame, rng: np.random.Generator, labels: Labels
) -> Estimate:
    """One metric on one slice."""
    terms = metric.terms(items)
    counts = counted_rows(terms)
    terms, clusters = terms[counts], clusters_of(items.loc[counts])
    if metric.kind != "statistic" and clusters is None:
        numbers = terms[:, 0]
        if metric.kind == "share" and np.isin(numbers, (0.0, 1.0)).all():
            return proportion(int(numbers.sum()), len(numbers), **labels)
        return mean(numbers, **labels)
    point = float(quietly(metric.value, terms.sum(axis=0)))
    units = len(terms) if clusters is None else len(np.unique(clusters))
    if metric.span is not None and point in metric.span:
        return at_the_end(point, units, len(terms), metric.span, labels)
    if units < FEW:
        return jackknife(terms, metric.value, clusters, labels)
    return bootstrap(terms, metric.value, clusters=clusters, rng=rng, **labels)
