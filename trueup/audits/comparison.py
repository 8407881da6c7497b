"""Before against after: every metric and slice on the items that both runs have."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.audits.estimates import clusters_of, generator
from trueup.audits.protocol import Audit, Metric, counted_rows
from trueup.errors import UserError
from trueup.stats import (
    PairedResult,
    adjust,
    format_p,
    paired_binary,
    paired_mean,
    paired_statistic,
)
from trueup.stats.estimate import Array
from trueup.stats.resampling import quietly

ALPHA = 0.05

Verdict = Literal["improved", "worse", "no evidence"]


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One metric on one slice, before and after: one row of compare.json.

    Fields: delta is after minus before on the shared items, low and high its interval; p_adjusted
            is Holm's over the whole family; verdict is "improved" or "worse" where p_adjusted is
            below 0.05 and the value came nearer to or went away from its ideal or goal.
    """

    audit: str
    metric: str
    slice: str
    before: float
    after: float
    delta: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    n_pairs: int
    test: str
    verdict: Verdict

    def as_dict(self) -> dict[str, str | float | int]:
        """The row of compare.json, keys in the design's order."""
        return asdict(self)

    def __str__(self) -> str:
        change = f"{self.before:.3f} -> {self.after:.3f} [{self.low:+.3f}, {self.high:+.3f}]"
        p_text = f"p={format_p(self.p_adjusted)}".replace("=<", " <")
        return f"{self.metric}  {self.slice}  {change}  {p_text}  n={self.n_pairs}  {self.verdict}"


def compare_items(
    audit: Audit,
    before: pd.DataFrame,
    after: pd.DataFrame,
    *,
    rng: np.random.Generator | None = None,
) -> list[ComparisonRow]:
    """Compare two runs of one audit; the family of tests is this audit's metrics and slices."""
    return compare_audits([(audit, before, after)], rng=rng)


def compare_audits(
    runs: Iterable[tuple[Audit, pd.DataFrame, pd.DataFrame]],
    *,
    smallest: float = 0.0,
    rng: np.random.Generator | None = None,
) -> list[ComparisonRow]:
    """Compare the items before and after of several audits; Holm's family is all of their rows.

    Shares are tested by exact McNemar, means by sign flips, statistics by swaps of before and
    after; where items share clusters, these flip and swap whole. A metric that only informs (no
    ideal, no goal) is not tested.
    Fields: smallest is the smallest change that matters, in the metric's unit: a lesser one is "no
            evidence" however small its p; rng is by default seeded by audit, metric and slice.
    Edges:  items that only one run has are left out, see `unpaired`.
    Raises: UserError where two runs share no item.
    """
    rows: list[ComparisonRow] = []
    metrics: list[Metric] = []
    for audit, before, after in runs:
        for metric, row in _audit_rows(audit, *_paired(audit, before, after), rng):
            metrics.append(metric)
            rows.append(row)
    adjusted = adjust([row.p_value for row in rows])
    return [
        replace(row, p_adjusted=float(p), verdict=_verdict(metric, row, float(p), smallest))
        for metric, row, p in zip(metrics, rows, adjusted, strict=True)
    ]


def unpaired(before: pd.DataFrame, after: pd.DataFrame) -> int:
    """The number of items that only one of the runs has; they take no part in a comparison."""
    return len(set(before["id"]) ^ set(after["id"]))


def _paired(
    audit: Audit, before: pd.DataFrame, after: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The shared items of both runs in the order of the first."""
    in_after = set(after["id"])
    shared = [name for name in before["id"] if name in in_after]
    if not shared:
        raise UserError(
            f"{audit.name}: the runs share no item, got ids like {_first(before)} and "
            f"{_first(after)}; audit both models on the same data"
        )
    return tuple(run.set_index("id", drop=False).loc[shared] for run in (before, after))  # type: ignore[return-value]  # two frames


def _first(items: pd.DataFrame) -> str:
    """An item's id for an error."""
    return repr(items["id"].iloc[0]) if len(items) else "none"


def _audit_rows(
    audit: Audit, before: pd.DataFrame, after: pd.DataFrame, rng: np.random.Generator | None
) -> list[tuple[Metric, ComparisonRow]]:
    """Unadjusted rows; slices are those of the run before."""
    result = []
    slices = audit.slices(before)
    headline, *_ = metrics = audit.metrics
    for metric in (metric for metric in metrics if metric.has_verdict):
        for name, mask in slices.items():
            if name != "all" and not metric.sliced:
                continue
            source = rng or generator(audit.name, metric.name, name)
            row = _row(audit, metric, name, before[mask], after[mask], source)
            if row.n_pairs or (name == "all" and metric is headline):
                result.append((metric, row))
    return result


def _row(
    audit: Audit,
    metric: Metric,
    name: str,
    before: pd.DataFrame,
    after: pd.DataFrame,
    rng: np.random.Generator,
) -> ComparisonRow:
    """One metric on one slice, not yet adjusted."""
    sides = (metric.terms(before), metric.terms(after))
    if metric.kind != "statistic":
        counts = counted_rows(sides[0]) & counted_rows(sides[1])
        sides = (sides[0][counts], sides[1][counts])
        before = before.loc[counts]
    result = _test(metric, sides, clusters_of(before), audit.level, rng)
    values = [float(quietly(metric.value, _sums(side))) for side in sides]
    return ComparisonRow(
        audit=audit.name,
        metric=metric.name,
        slice=name,
        before=values[0],
        after=values[1],
        delta=result.delta,
        low=result.low,
        high=result.high,
        p_value=result.p_value,
        p_adjusted=math.nan,
        n_pairs=result.n_pairs,
        test=result.test,
        verdict="no evidence",
    )


def _sums(terms: Array) -> Array:
    """The sums over the rows that count."""
    sums: Array = terms[counted_rows(terms)].sum(axis=0)
    return sums


def _test(
    metric: Metric,
    sides: tuple[Array, Array],
    clusters: NDArray[np.int64] | None,
    level: float,
    rng: np.random.Generator,
) -> PairedResult:
    """The paired test that fits the metric."""
    first, second = sides
    if metric.kind == "statistic":
        return paired_statistic(
            first, second, metric.value, clusters=clusters, rng=rng, level=level
        )
    x, y = first[:, 0], second[:, 0]
    is_binary = np.isin([x, y], (0.0, 1.0)).all()
    if metric.kind == "share" and is_binary:
        return paired_binary(x, y, clusters=clusters, rng=rng, level=level)
    return paired_mean(x, y, clusters=clusters, rng=rng, level=level)


def _verdict(metric: Metric, row: ComparisonRow, p_adjusted: float, smallest: float) -> Verdict:
    """Whether a change beyond chance, and one that matters, was for the better."""
    if not p_adjusted < ALPHA or row.delta == 0 or abs(row.delta) < smallest:
        return "no evidence"
    if metric.goal == "ideal":
        ideal = metric.ideal or 0.0
        gain = abs(row.before - ideal) - abs(row.after - ideal)
    else:
        gain = row.delta if metric.goal == "higher" else -row.delta
    if gain == 0:
        return "no evidence"
    return "improved" if gain > 0 else "worse"
