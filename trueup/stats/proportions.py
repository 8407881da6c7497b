"""Rates and differences of independent rates, with intervals that stay inside their range."""

import math
from typing import Literal, Unpack

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest

from trueup.stats.estimate import Estimate, Labels, level_of, normal_quantile


def proportion(
    successes: int,
    n: int,
    *,
    interval: Literal["wilson", "exact"] = "wilson",
    **labels: Unpack[Labels],
) -> Estimate:
    """A share of successes with Wilson's interval, or Clopper and Pearson's ("exact").

    low, high = (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),  p = successes / n
    Edges:  n = 0: value and bounds are NaN. 0 of n and n of n still have a real interval.
    Source: Wilson 1927, as scipy's binomtest has it.
    """
    labels.setdefault("metric", "share")
    if n == 0:
        nan = math.nan
        return Estimate(value=nan, low=nan, high=nan, n=0, method="no items", **labels)
    bounds = binomtest(int(successes), int(n)).proportion_ci(level_of(labels), method=interval)
    method = "Wilson" if interval == "wilson" else "Clopper-Pearson"
    return Estimate(
        value=float(successes / n),
        low=float(bounds.low),
        high=float(bounds.high),
        n=int(n),
        method=method,
        **labels,
    )


def proportion_difference(
    successes: int,
    n: int,
    other_successes: int,
    other_n: int,
    *,
    interval: Literal["newcombe", "score"] = "newcombe",
    **labels: Unpack[Labels],
) -> Estimate:
    """The first rate minus the second, two independent groups, with an interval.

    newcombe: low = d - sqrt((p1-l1)^2 + (u2-p2)^2), high = d + sqrt((u1-p1)^2 + (p2-l2)^2) with
              each rate's Wilson bounds l, u.
    score:    the differences that the score test of Miettinen and Nurminen does not reject.
    Edges:  an empty group: NaN.
    Source: Newcombe 1998, methods 10 and 9; Miettinen and Nurminen 1985. statsmodels 0.15 has a
            slip in its score interval (a count where the group's size belongs): it raises on many
            tables and is off on others, so its numbers differ from Newcombe's table and from ours.
    """
    labels.setdefault("metric", "difference")
    level = level_of(labels)
    first = proportion(successes, n, level=level)
    second = proportion(other_successes, other_n, level=level)
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    method = "Newcombe"
    if interval == "score" and n and other_n:
        low, high = _score_interval(successes, n, other_successes, other_n, level)
        method = "score"
    return Estimate(value=value, low=low, high=high, n=int(n + other_n), method=method, **labels)


def _score_interval(k1: int, n1: int, k2: int, n2: int, level: float) -> tuple[float, float]:
    """Where the score statistic crosses -+z; the end of the range for a difference at that end."""
    z = normal_quantile(level)
    value, edge = k1 / n1 - k2 / n2, 1 - 1e-9

    def crossing(target: float, start: float, stop: float) -> float:
        return float(
            brentq(lambda d: _score_statistic(k1, n1, k2, n2, d) - target, start, stop, xtol=1e-13)
        )

    low = -1.0 if value <= -edge else crossing(z, -edge, min(value, edge))
    high = 1.0 if value >= edge else crossing(-z, max(value, -edge), edge)
    return low, high


def _score_statistic(k1: int, n1: int, k2: int, n2: int, delta: float) -> float:
    """Distance of the data from a difference, in deviations under that difference."""
    n = n1 + n2
    p2 = _restricted_rate(k1, n1, k2, n2, delta)
    p1 = p2 + delta
    variance = (p1 * (1 - p1) / n1 + p2 * (1 - p2) / n2) * n / (n - 1)
    return (k1 / n1 - k2 / n2 - delta) / math.sqrt(max(variance, 1e-300))


def _restricted_rate(k1: int, n1: int, k2: int, n2: int, delta: float) -> float:
    """The second rate's maximum likelihood where the first is `delta` above it."""
    n, k = n1 + n2, k1 + k2
    low, high = max(0.0, -delta), min(1.0, 1 - delta)
    roots = np.roots(
        [
            n,
            (n1 + 2 * n2) * delta - n - k,
            (n2 * delta - n - 2 * k2) * delta + k,
            k2 * delta * (1 - delta),
        ]
    )
    real = roots.real[(abs(roots.imag) < 1e-8) & (roots.real >= low - 1e-9)]
    inside = real[real <= high + 1e-9]
    return float(np.clip(inside[0] if len(inside) else k / n, low, high))
