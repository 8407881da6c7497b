"""The difference of two groups' means, where numbers have a scale of their own."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from trueup.audits.protocol import Metric
from trueup.audits.text.group_means import signed_gap
from trueup.audits.text.grouped_text import group_terms, names_in
from trueup.errors import UserError
from trueup.stats.estimate import Array


def two_group_gap(
    name: str, groups: Sequence[str], numbers: Callable[[pd.DataFrame], Array], *, reading: str
) -> Metric:
    """mean(first group) - mean(second group), ideal 0.

    Fields: groups names the two; without it they are those of the data, sorted, if there are two.
    Edges:  data of no or more groups have no gap: no item counts.
    """

    def terms(items: pd.DataFrame) -> Array:
        x = np.asarray(numbers(items), dtype=np.float64)
        if len(names_in(items, groups)) != 2:
            return np.full((len(items), 4), np.nan)
        return group_terms(items, groups, np.stack([x, np.ones_like(x)], axis=1))

    return Metric(
        name=name,
        kind="statistic",
        terms=terms,
        value=signed_gap,
        ideal=0.0,
        sliced=False,
        reading=reading,
    )


def check_two(place: str, groups: Sequence[str]) -> None:
    """Raise UserError unless the groups are none or two."""
    if groups and len(set(groups)) != 2:
        raise UserError(f"{place}.groups must name two groups, got {tuple(groups)!r}")
