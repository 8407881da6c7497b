"""The numbers of `group-swap`: rates of compliance by group, their gaps, and tests of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import chdtrc, logit

from trueup.stats.estimate import Array

SIDES = ("protected", "privileged")


def success_rates(table: ArrayLike) -> Array:
    """The share of requests that each group's prompts got done, [G, N] of 0 and 1 -> [G].

    Edges:  NaN, a reply without a verdict, does not count; a group of NaN alone has none.
    """
    cells = np.asarray(table, dtype=np.float64)
    counts = (~np.isnan(cells)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        rates: Array = np.nansum(cells, axis=1) / counts
    return rates


def paired_gap(table: ArrayLike, first: int, second: int) -> float:
    """The rate of one group less that of another, over requests with a verdict for both."""
    cells = np.asarray(table, dtype=np.float64)
    change = cells[first] - cells[second]
    return float(change[~np.isnan(change)].mean()) if (~np.isnan(change)).any() else float("nan")


def cochran_q(table: ArrayLike) -> tuple[float, float]:
    """Cochran's Q over the groups, and its p-value; [G, N] of 0 and 1.

    Q = (G - 1)(G sum_g C_g^2 - T^2) / (G T - sum_i R_i^2), chi-square on G - 1 degrees of freedom;
    C_g the groups' totals, R_i the requests', T all
    Edges:  requests with a NaN do not count; where no request divides the groups, Q is 0 and p 1.
    Source: Cochran 1950.
    """
    cells = np.asarray(table, dtype=np.float64)
    cells = cells[:, ~np.isnan(cells).any(axis=0)]
    groups, total = len(cells), cells.sum()
    divided = groups * total - (cells.sum(axis=0) ** 2).sum()
    if divided == 0:
        return 0.0, 1.0
    spread = groups * (cells.sum(axis=1) ** 2).sum() - total**2
    q = float((groups - 1) * spread / divided)
    return q, float(chdtrc(groups - 1, q))


def by_group(items: pd.DataFrame) -> pd.DataFrame:
    """The verdicts on every phrase of the items, a row per request; NaN where there is none.

    A phrase that stands in several pairs is one group.
    """
    sides = [
        items[["cluster", f"{side}_group", side]].set_axis(["request", "group", "verdict"], axis=1)
        for side in SIDES
    ]
    once = pd.concat(sides).drop_duplicates(["request", "group"])
    return once.pivot(index="request", columns="group", values="verdict")


def told_once(items: pd.DataFrame, numbers: "pd.Series[float]") -> Array:
    """A number per request in the request's first row, NaN in its others; [R] -> [N]."""
    is_first = ~items["cluster"].duplicated().to_numpy()
    found = numbers.reindex(items["cluster"]).to_numpy(dtype=np.float64)
    told: Array = np.where(is_first, found, np.nan)
    return told


def side_terms(items: pd.DataFrame) -> Array:
    """Verdicts of both sides and a one, [N, 3], where both have one."""
    both = items[list(SIDES)].to_numpy(dtype=np.float64)
    known = np.where(np.isnan(both).any(axis=1), np.nan, 1.0)
    terms: Array = np.stack([both[:, 0] * known, both[:, 1] * known, known], axis=1)
    return terms


def rate_ratio(sums: Array) -> Array:
    """The protected groups' rate over the privileged groups', from sums [..., 3]; NaN over 0."""
    ratio: Array = np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)
    return ratio


def log_odds_gap(sums: Array) -> Array:
    """The difference of the rates' log-odds, from sums [..., 3]; NaN at rates of 0 and 1."""
    odds = logit(sums[..., :2] / sums[..., 2:])
    gap: Array = odds[..., 0] - odds[..., 1]
    return np.where(np.isfinite(gap), gap, np.nan)


def worst_bounds(items: pd.DataFrame) -> tuple[float, float]:
    """The least and the greatest gap that the missing verdicts allow, whatever they are."""
    filled: Sequence[tuple[float, float]] = ((0.0, 1.0), (1.0, 0.0))
    least, most = (
        float((items["protected"].fillna(first) - items["privileged"].fillna(second)).mean())
        for first, second in filled
    )
    return least, most


def discordant(items: pd.DataFrame) -> tuple[int, int]:
    """Requests that only the protected group's prompt got done, and only the privileged one's."""
    change = items["protected"] - items["privileged"]
    return int((change == 1).sum()), int((change == -1).sum())
