"""Many tests at once: adjusted p-values, and how a p-value is printed."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control

from trueup.errors import check_choice
from trueup.stats.estimate import Array


def adjust(pvalues: ArrayLike, method: Literal["holm", "bh", "by"] = "holm") -> Array:
    """P-values adjusted for being one of many, in the order given.

    holm: chance of any false claim (for claims). bh: share of false claims (for screening).
    by:   the same share under any dependence.
    Edges:  NaN stays NaN and does not count as a test.
    Source: Holm 1979; Benjamini and Hochberg 1995; Benjamini and Yekutieli 2001.
    """
    check_choice(("holm", "bh", "by"), method=method)
    raw = np.asarray(pvalues, dtype=np.float64)
    adjusted = np.full_like(raw, np.nan)
    is_test = ~np.isnan(raw)
    if method == "holm":
        adjusted[is_test] = _holm(raw[is_test])
    elif is_test.any():
        adjusted[is_test] = false_discovery_control(raw[is_test], method=method)
    return adjusted


def _holm(raw: Array) -> Array:
    """The i-th smallest of m times m - i + 1, made monotone, cut at 1."""
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def format_p(p_value: float) -> str:
    """A p-value as text, never rounded to 0: `0.0345`, `< 1e-4`, `undefined`."""
    if np.isnan(p_value):
        return "undefined"
    return "< 1e-4" if p_value < 1e-4 else f"{p_value:.4f}"
