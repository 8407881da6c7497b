"""Effect sizes: how large a difference is, whatever n says about its certainty."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


def cohen_h(p1: float, p2: float) -> float:
    """Difference of two rates on the arcsine scale: 2 asin sqrt(p1) - 2 asin sqrt(p2)."""
    return 2 * math.asin(math.sqrt(p1)) - 2 * math.asin(math.sqrt(p2))


def cohen_d(first: ArrayLike, second: ArrayLike) -> float:
    """Difference of two groups' means over their pooled deviation; NaN where that is 0."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    freedom = len(a) + len(b) - 2
    if freedom < 1 or min(len(a), len(b)) < 1:
        return math.nan
    squares = ((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()
    return _ratio(float(a.mean() - b.mean()), math.sqrt(squares / freedom))


def hedges_g(first: ArrayLike, second: ArrayLike) -> float:
    """Cohen's d freed of its small-sample bias: d (1 - 3 / (4 df - 1))."""
    freedom = np.size(first) + np.size(second) - 2
    return cohen_d(first, second) * (1 - 3 / (4 * freedom - 1))


def cohen_dz(differences: ArrayLike) -> float:
    """Mean of paired differences over their deviation; NaN where that is 0."""
    d = np.asarray(differences, dtype=np.float64)
    return _ratio(float(d.mean()), float(d.std(ddof=1))) if len(d) > 1 else math.nan


def cliff_delta(first: ArrayLike, second: ArrayLike) -> float:
    """P(first > second) - P(first < second) over all pairs: 2U / (nm) - 1, ties count half."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not len(a) or not len(b):
        return math.nan
    ranks = rankdata(np.concatenate([a, b]))
    u = ranks[: len(a)].sum() - len(a) * (len(a) + 1) / 2
    return float(2 * u / (len(a) * len(b)) - 1)


def risk_ratio(p1: float, p2: float) -> float:
    """One rate over another; inf where only the second is 0, NaN where both are."""
    return _ratio(p1, p2)


def odds_ratio(p1: float, p2: float) -> float:
    """One rate's odds over another's; inf or NaN as in `risk_ratio`."""
    return _ratio(p1 * (1 - p2), p2 * (1 - p1))


def _ratio(above: float, below: float) -> float:
    """A quotient that is inf or NaN, not an error, where it divides by 0."""
    if below:
        return above / below
    return math.nan if above == 0 else math.copysign(math.inf, above)
