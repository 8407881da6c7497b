"""The smallest lean that an audit finds: where the power curve of a sweep crosses 80 %."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import ndtri

POWER = 0.8
ROUNDING = 1e-9


def smallest_lean(null: float, groups: Sequence[pd.DataFrame]) -> float:
    """The distance from the null at which the audit's interval excludes it in 80 % of draws.

    At each planted size the power is a probit: t = the normal quantile of the share of draws whose
    interval excludes the null on the side of the lean; where all do, t = (mean bound - null) /
    deviation of the bound, which goes on growing. Between the sizes, the null among them, t is a
    straight line over the size; the answer is where it first reaches that of 80 %.
    Fields: groups are the rows of each planted size.
    Edges:  leans on both sides of the null: the larger answer, unless one side was not swept as
            far. No size reaches 80 %: infinity. No null, or the interval excludes it in 80 % of
            draws without a lean: NaN.
    """
    by_size = {float(rows["planted"].iloc[0]): rows for rows in groups}
    if null not in by_size:
        return math.nan
    sides = [_on_side(side, null, by_size) for side in (1, -1)]
    found = [lean for lean, is_found in sides if is_found]
    missed = [lean for lean, is_found in sides if not is_found and lean > 0]
    if not found:
        return math.inf
    return math.inf if missed and max(missed) >= max(found) else float(np.max(found))


def _on_side(side: int, null: float, by_size: dict[float, pd.DataFrame]) -> tuple[float, bool]:
    """The lean above the null (or below it) that is found, or the largest, which is not."""
    wanted, size, height = float(ndtri(POWER)), 0.0, _probit(side, null, by_size[null])
    leans = sorted((side * (planted - null), planted) for planted in by_size)
    leans = [(lean, planted) for lean, planted in leans if lean > 0]
    if leans and height >= wanted:
        return math.nan, True
    for lean, planted in leans:
        above = _probit(side, null, by_size[planted])
        if above >= wanted:
            return size + (wanted - height) / (above - height) * (lean - size), True
        size, height = lean, above
    return size, False


def _probit(side: int, null: float, rows: pd.DataFrame) -> float:
    """The power at one planted size as a normal quantile."""
    bound = side * (rows["low" if side > 0 else "high"].to_numpy() - null)
    rate, least = float((bound > ROUNDING).mean()), 0.5 / len(bound)
    height = float(ndtri(np.clip(rate, least, 1 - least)))
    spread = float(bound.std(ddof=1))
    if rate == 1 and spread > 0:
        height = max(height, float(bound.mean()) / spread)
    return height
