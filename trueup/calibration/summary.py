"""From a sweep's rows to the calibration curve: slope, bias, coverage, false alarms, power."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from trueup.calibration.curve import AtSize, Calibration, Point, WorldFacts
from trueup.calibration.detection import ROUNDING, smallest_lean
from trueup.calibration.verdicts import verdict_at
from trueup.stats import Estimate, Labels, mean, proportion
from trueup.stats.estimate import Array, normal_quantile

LEVEL = 0.99  # of the calibration's own intervals: one table shows some seventy at once


def curves_of(sweeps: Sequence[Mapping[str, Any]], items: pd.DataFrame) -> tuple[Calibration, ...]:
    """The curve of every world, from what a run keeps: its sweeps' facts, and its items."""
    return tuple(summarized(WorldFacts.read(facts), items) for facts in sweeps)


def summarized(facts: WorldFacts, items: pd.DataFrame) -> Calibration:
    """The calibration that a sweep's rows tell; `items` may hold other metrics' rows too.

    slope    = sum c_i m_i,  c_i = (p_i - mean p) / sum (p - mean p)^2: least squares of the mean
               measured value m over the planted size p;  se^2 = sum c_i^2 var_i / draws_i
    bias     = mean over the sizes with a lean of (m_i - p_i), counted away from the null; without
               a null the mean of m_i - p_i over all sizes
    coverage = share of the intervals of draws with a lean that hold the planted size
    An interval that is undefined does not count for coverage and alarms nobody; `undefined` is
    their share. Intervals of these numbers are of 99 %: Wilson's for shares, normal ones for sums.
    """
    own = items[items["metric"] == facts.metric]
    sizes = sorted(own["n"].unique().tolist())
    return Calibration(facts=facts, at=tuple(_at(facts, int(n), own[own["n"] == n]) for n in sizes))


def _at(facts: WorldFacts, n: int, rows: pd.DataFrame) -> AtSize:
    """The curve at one n."""
    groups = [part for _, part in rows.groupby("planted", sort=True)]
    points = tuple(_point(facts, n, part) for part in groups)
    slope, bias, excess = _line(facts, points, n)
    coverage = _coverage(facts, n, rows[rows["planted"] != facts.null])
    false_alarms = next((p.alarms for p in points if p.planted == facts.null), None)
    undefined = _share("undefined", n, rows["low"].isna() | rows["high"].isna(), 0.0)
    return AtSize(
        n=n,
        points=points,
        slope=slope,
        bias=bias,
        excess=excess,
        coverage=coverage,
        false_alarms=false_alarms,
        undefined=undefined,
        smallest=smallest_lean(facts.null, groups),
        verdict=verdict_at(
            slope=slope,
            excess=excess,
            false_alarms=false_alarms,
            coverage=coverage,
            undefined=undefined,
            level=facts.level,
        ),
    )


def _point(facts: WorldFacts, n: int, rows: pd.DataFrame) -> Point:
    """One planted size at one n."""
    planted = float(rows["planted"].iloc[0])
    values = rows["value"].dropna()
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Point(
        planted=planted,
        n=n,
        draws=len(rows),
        measured=mean(values, metric="measured", slice=f"n={n}", level=LEVEL, ideal=planted),
        error=error,
        low=float(rows["low"].mean()),
        high=float(rows["high"].mean()),
        coverage=_coverage(facts, n, rows),
        alarms=_alarms(facts, n, rows, planted) if facts.has_null else None,
    )


def _alarms(facts: WorldFacts, n: int, rows: pd.DataFrame, planted: float) -> Estimate:
    """How often the interval excludes the null: power, or false alarms where it is planted."""
    excludes = (rows["low"] > facts.null + ROUNDING) | (rows["high"] < facts.null - ROUNDING)
    if planted == facts.null:
        return _share("false_alarms", n, excludes, round(1 - facts.level, 9))
    return _share("power", n, excludes, None)


def _coverage(facts: WorldFacts, n: int, rows: pd.DataFrame) -> Estimate:
    """How often an interval, where there is one, holds the planted size."""
    known = rows.dropna(subset=["low", "high"])
    holds = known["low"] <= known["planted"] + ROUNDING
    holds &= known["high"] >= known["planted"] - ROUNDING
    return _share("coverage", n, holds, facts.level)


def _share(metric: str, n: int, hits: "pd.Series[bool]", ideal: float | None) -> Estimate:
    """A share of draws."""
    labels = Labels(metric=metric, slice=f"n={n}", level=LEVEL, ideal=ideal)
    return proportion(int(hits.sum()), len(hits), **labels)


def _line(
    facts: WorldFacts, points: Sequence[Point], n: int
) -> tuple[Estimate, Estimate, Estimate]:
    """Slope, bias and excess: sums of the points' means with fixed weights."""
    planted = np.array([point.planted for point in points])
    means = np.array([point.measured.value for point in points])
    errors = np.array([point.error for point in points])
    away = planted - planted.mean()
    if facts.has_null:
        sides, sizes = np.sign(planted - facts.null), np.abs(planted - facts.null)
    else:
        sides, sizes = np.ones(len(planted)), np.abs(away)
    each = sides / np.abs(sides).sum()
    size = float(sizes.sum() / np.abs(sides).sum())
    draws = sum(point.draws for point in points)

    def summed(metric: str, weights: Array, numbers: Array, ideal: float) -> Estimate:
        half = normal_quantile(LEVEL) * float(np.linalg.norm(weights * errors))
        value = float(weights @ numbers)
        return Estimate(
            metric=metric,
            slice=f"n={n}",
            value=value,
            low=value - half,
            high=value + half,
            level=LEVEL,
            n=draws,
            ideal=ideal,
            method="normal, over the means of the planted sizes",
        )

    return (
        summed("slope", away / float(away @ away), means, 1.0),
        summed("bias", each, means - planted, 0.0),
        summed("excess", each / size, means - planted, 0.0),
    )
