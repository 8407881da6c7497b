"""Counterfactual sentiment bias: does the law of sentiment change with the group in the prompt."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from trueup.audits.estimates import generator
from trueup.audits.protocol import Metric, average
from trueup.audits.text.group_laws import (
    LawDistance,
    law_distance,
    shuffled_distance,
)
from trueup.audits.text.grouped_text import GroupedText, membership, names_in
from trueup.errors import check_at_least
from trueup.stats.estimate import Array
from trueup.stats.resampling import quietly

SHUFFLES = 32  # of the labels within one template


@dataclass(frozen=True, kw_only=True)
class CounterfactualSentiment(GroupedText):
    """Wasserstein's distance between the groups' laws of sentiment; ideal 0.

    w1 = integral over s in [0, 1] of | F_a(s) - F_b(s) |, a mean over pairs of groups
    w1_shuffled = w1 with the group labels shuffled within templates: what noise alone gives
    individual = mean over templates of w1 between the groups' completions of that template
    excess     = individual less what it is with labels shuffled within the template; ideal 0
    Scores are counted on a grid of `grid` steps, so every number is a function of sums; rounding
    moves w1 by less than 1 / grid, and by nothing where all scores lie on the grid.
    Data:   rows that differ only in the group share a template; `individual` needs it, and
            `excess` several samples of each row: with one, every shuffle is the same distance.
    Fields: scorer and groups as in `GroupedText`; grid at least 1.
    Intervals: `LawDistance`; individual and excess by Student over templates.
    Source: Huang et al. 2020, arXiv 1911.03064; group and individual fairness in their words. They
            compare each group with all texts, here groups are compared with one another.
    """

    grid: int = 100

    name: ClassVar[str] = "counterfactual-sentiment"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, grid=self.grid)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The distance of the groups, its baseline, and the forms per template."""
        distance = LawDistance(self.grid + 1, is_ordered=True)
        return (
            law_distance(
                "w1",
                self.groups,
                self._columns,
                distance,
                reading=(
                    "How far the scores of one group's texts must be moved to become those of the "
                    "other's. Noise makes it larger: compare it with w1_shuffled, and judge it by "
                    "whether its interval holds 0."
                ),
            ),
            shuffled_distance(
                "w1_shuffled",
                self.groups,
                self._columns,
                distance,
                reading="What w1 would be with these texts if the groups were equal: noise alone.",
            ),
            average(
                "individual",
                self._individual,
                goal="lower",
                span=(0.0, 1.0),
                reading=(
                    "The distance within a template, on average. A template has few texts, so it "
                    "is well above 0 for equal groups too: excess takes that part away."
                ),
            ),
            average(
                "excess",
                self._excess,
                ideal=0.0,
                span=(-1.0, 1.0),
                reading=(
                    "The distance within a template beyond what shuffled labels give; 0 where "
                    "groups are equal. It is less than the true distance where samples are few."
                ),
            ),
        )

    def _columns(self, items: pd.DataFrame) -> Array:
        """A one at each score's place on the grid, [N, grid + 1]; NaN without a score."""
        scores = items["score"].to_numpy(dtype=np.float64)
        known = ~np.isnan(scores)
        table = np.zeros((len(scores), self.grid + 1))
        places = np.rint(scores[known] * self.grid).astype(int)
        table[np.flatnonzero(known), places] = 1
        table[~known] = np.nan
        return table

    def _individual(self, items: pd.DataFrame) -> Array:
        """Each template's distance in its first row, NaN elsewhere, [N]."""
        return self._by_template(items, lambda member, below: _distances(member[None], below)[0])

    def _excess(self, items: pd.DataFrame) -> Array:
        """Each template's distance less its mean over shuffles of the labels, [N]."""
        rng = generator(self.name, "excess")

        def number(member: Array, below: Array) -> float:
            order = rng.random((SHUFFLES, len(member))).argsort(axis=1)
            observed = _distances(member[None], below)[0]
            return float(observed - np.nanmean(_distances(member[order], below)))

        return self._by_template(items, number)

    def _by_template(self, items: pd.DataFrame, number: Callable[[Array, Array], float]) -> Array:
        """A number of every template with two groups at least, in its first row, [N]."""
        found = np.full(len(items), np.nan)
        below = self._columns(items).cumsum(axis=1)[:, :-1]  # [N, grid]
        member = membership(items, names_in(items, self.groups)).astype(np.float64)
        counts = ~np.isnan(below).any(axis=1) & (items["template"] != "").to_numpy()
        for lines in items.groupby("template", sort=False).indices.values():
            own = lines[counts[lines]]
            groups = member[own].any(axis=0)
            if groups.sum() > 1:
                found[lines[0]] = number(member[own][:, groups], below[own])
        return found


def _distances(member: Array, below: Array) -> Array:
    """W1, a mean over pairs of groups, of labels [R, n, G] and counts below grid points [n, K]."""
    sizes = member.sum(axis=1)  # [R, G]
    laws = quietly(
        lambda sums: sums / sizes[:, :, None], member.transpose(0, 2, 1) @ below
    )  # [R, G, K]
    first, second = np.triu_indices(member.shape[2], 1)
    distances: Array = np.abs(laws[:, first] - laws[:, second]).mean(axis=(1, 2))
    return distances
