"""What audits share that compare groups: which groups, which items are whose, which slices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from trueup.audits.protocol import Probe, Rows, Slices
from trueup.audits.text.scored_text import ScoredText
from trueup.audits.text.text_audit import groups_of
from trueup.errors import UserError
from trueup.stats import Estimate
from trueup.stats.estimate import Array, normal_quantile

MOST_PAIRED = 6  # groups, up to which every pair of them is a slice
VERSUS = " vs "


@dataclass(frozen=True, kw_only=True)
class GroupedText(ScoredText):
    """An audit of generated text that compares the scores of groups.

    Data:   as `TextAudit`, with at least two names in the column group; rows that differ only in
            the group share a template.
    Fields: groups picks and orders them: of two, the first less the second is told; by default all
            of the data, sorted.
    Slices: each group, for the numbers of one group; each pair of three to six groups.
    """

    groups: tuple[str, ...] = ()

    of_one_group: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups and len(set(self.groups)) < 2:
            raise UserError(f"{self.name}.groups must name at least two, got {self.groups!r}")

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per prompt and sample; the groups to compare must be there."""
        probes = super().probes(data)
        found = sorted({name for probe in probes for name in probe.group.split("|")} - {""})
        missing = [name for name in self.groups if name not in found]
        if missing:
            raise UserError(
                f"{self.name}: the data have no group {missing[0]!r}; known: {', '.join(found)}"
            )
        if len(found) < 2:
            raise UserError(
                f"{self.name} compares groups, got {', '.join(found) or 'none'}; name at least two "
                "in the column group"
            )
        return probes

    def slices(self, items: pd.DataFrame) -> Slices:
        """All items of the groups, those of each group, and those of each pair of a few."""
        names = names_in(items, self.groups)
        member = membership(items, names)
        result: Slices = {"all": np.asarray(member.any(axis=1))}
        result.update({name: member[:, place] for place, name in enumerate(names)})
        if 2 < len(names) <= MOST_PAIRED and (member.sum(axis=1) <= 1).all():
            for a, b in combinations(range(len(names)), 2):
                both = member[:, a] | member[:, b]
                result[f"{names[a]}{VERSUS}{names[b]}"] = both
        return result

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """The numbers of one group for groups, those of several for pairs and all."""
        return [
            row
            for row in super().estimate(items)
            if row.n and not (row.metric in self.of_one_group and VERSUS in row.slice)
        ]


def names_in(items: pd.DataFrame, groups: Sequence[str]) -> list[str]:
    """Those of the groups that the items hold, in their order; without groups all, sorted."""
    found = groups_of(items)
    return [name for name in groups if name in found] if groups else found


def membership(items: pd.DataFrame, names: Sequence[str]) -> NDArray[np.bool_]:
    """Which items belong to which group, [N, G]; an item may have several groups."""
    codes, texts = pd.factorize(items["group"])
    table = [[name in text.split("|") for name in names] for text in texts]
    return np.array(table, dtype=np.bool_).reshape(len(texts), len(names))[codes]


def stretch(units: int, level: float) -> float:
    """How much wider the bootstrap's interval must be where the smallest group has few units.

    t_{U-1} / z  sqrt(U / (U - 1));  U at least 2
    """
    student = float(stdtrit(units - 1, (1 + level) / 2))
    return student / normal_quantile(level) * math.sqrt(units / (units - 1))


def group_terms(items: pd.DataFrame, groups: Sequence[str], columns: Array) -> Array:
    """Columns [N, C] set apart by group, [N, G C]: their sums are the sums of every group.

    Edges:  NaN for items of no group, and for all items where there are fewer than two groups.
    """
    names = names_in(items, groups)
    if len(names) < 2:
        return np.full((len(items), 2 * columns.shape[1]), np.nan)
    member = membership(items, names)
    terms: Array = (member[:, :, None] * columns[:, None, :]).reshape(len(items), -1)
    terms[~member.any(axis=1)] = np.nan
    return terms
