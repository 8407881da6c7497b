"""Which items drive a number: what it would be without each of them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from trueup.audits.protocol import Audit, Metric, counted_rows
from trueup.stats.resampling import quietly


@dataclass(frozen=True)
class Influence:
    """An item and how far it moves its audit's number.

    Fields: change is the number with all items minus the number without this one, in the metric's
            unit; text is what the model read.
    """

    audit: str
    metric: str
    id: str
    group: str
    text: str
    score: float
    change: float


def driving_items(audit: Audit, items: pd.DataFrame, *, most: int = 3) -> list[Influence]:
    """The items that push the audit's first number furthest up, and those furthest down.

    change = value(all terms) - value(all terms without the item's)
    Edges:  an item that changes nothing, or without which there is no number, is left out.
    """
    metric = audit.metrics[0]
    changes = _changes(metric, items)
    order = changes[np.isfinite(changes) & (np.abs(changes) > 1e-12)].sort_values(kind="stable")
    picked = [*order.index[::-1][:most], *order.index[:most]]
    signs = [1] * min(most, len(order)) + [-1] * min(most, len(order))
    rows = [
        items.loc[index]
        for index, sign in zip(picked, signs, strict=True)
        if sign * changes[index] > 0
    ]
    return [
        Influence(
            audit=audit.name,
            metric=metric.name,
            id=str(row["id"]),
            group=str(row["group"]),
            text=str(row["input"]),
            score=float(row["score"]),
            change=float(changes[row.name]),
        )
        for row in rows
    ]


def _changes(metric: Metric, items: pd.DataFrame) -> "pd.Series[float]":
    """The number minus the number without each item that counts, by the items' index."""
    terms = metric.terms(items)
    counts = counted_rows(terms)
    total = terms[counts].sum(axis=0)
    without = quietly(metric.value, total - terms[counts])
    return pd.Series(quietly(metric.value, total) - without, index=items.index[counts])
