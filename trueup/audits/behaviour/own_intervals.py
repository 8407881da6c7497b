"""Estimates of audits some of whose numbers bring an interval of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import pandas as pd

from trueup.audits import estimates
from trueup.audits.protocol import Audit, Metric, Slices, counted_rows
from trueup.audits.text.text_audit import OwnInterval
from trueup.stats import Estimate, Labels


@dataclass(frozen=True)
class _Part:
    """What `estimates.estimate` reads of an audit, with some of its metrics."""

    name: str
    level: float
    metrics: tuple[Metric, ...]
    slices: Callable[[pd.DataFrame], Slices]


def estimate(audit: Audit, items: pd.DataFrame) -> list[Estimate]:
    """Every metric on every slice that has items for it, in the audit's order.

    An `OwnInterval` makes its estimate itself, all others are told the shared way. A metric for
    which there is no item at all is left out, where another one has some.
    """
    found = []
    for metric in audit.metrics:
        if isinstance(metric, OwnInterval):
            found += _own(audit, metric, items)
        else:
            part = _Part(audit.name, audit.level, (metric,), audit.slices)
            found += estimates.estimate(cast(Audit, part), items)
    return [row for row in found if row.n] or found


def _own(audit: Audit, metric: OwnInterval, items: pd.DataFrame) -> list[Estimate]:
    """One metric with its own interval."""
    rows = []
    for name, mask in audit.slices(items).items():
        part = items[mask]
        if (name == "all" or metric.sliced) and counted_rows(metric.terms(part)).any():
            labels = Labels(
                audit=audit.name,
                metric=metric.name,
                slice=name,
                level=audit.level,
                ideal=metric.ideal,
            )
            rng = estimates.generator(audit.name, metric.name, name)
            rows.append(metric.interval(part, rng, labels))
    return rows
