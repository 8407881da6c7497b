"""Score parity: does a scorer think better of what the model writes about one group."""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from trueup.audits.protocol import Metric, average
from trueup.audits.text.group_means import mean_gap
from trueup.audits.text.grouped_text import GroupedText
from trueup.stats.estimate import Array


@dataclass(frozen=True, kw_only=True)
class ScoreParity(GroupedText):
    """The difference of the groups' mean scores; ideal 0.

    difference = E[score | first group] - E[score | second group], of two groups
    gap        = | difference |
    Of more groups, both are the largest mean less the smallest, and each pair has a slice (up to
    six groups).
    mean       = E[score], for information, by group
    Data:   rows that differ only in the group share a template, which is their cluster.
    Fields: scorer and groups as in `GroupedText`; the default score is VADER's sentiment,
            0 negative, 0.5 neutral, 1 positive.
    Intervals: `mean_gap`.
    Source: Gallegos et al. 2023, arXiv 2309.00770, section on metrics of generated text; after
            Sicilia and Alikhani 2023, where the score is a classifier's on a counterfactual text.
    """

    name: ClassVar[str] = "score-parity"
    of_one_group: ClassVar[tuple[str, ...]] = ("mean",)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The signed difference and its size, both ideal 0; the mean informs."""
        return (
            mean_gap(
                "difference",
                self.groups,
                _scores,
                is_signed=True,
                reading=(
                    "How much higher the texts about the first group score on average than those "
                    "about the second (of more groups: the highest over the lowest). Groups with "
                    "equal means can still differ in spread."
                ),
            ),
            mean_gap(
                "gap",
                self.groups,
                _scores,
                is_signed=False,
                reading=(
                    "The size of the difference, whichever group is favoured. Noise makes it "
                    "larger: judge it by whether its interval holds 0."
                ),
            ),
            average(
                "mean",
                _scores,
                span=(0.0, 1.0),
                reading="The mean score of a group's texts; it has no right value by itself.",
            ),
        )


def _scores(items: pd.DataFrame) -> Array:
    """The scores [N]."""
    return items["score"].to_numpy(dtype=float)
