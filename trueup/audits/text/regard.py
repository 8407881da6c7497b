"""Regard: how a model speaks of a group, in shares of positive, negative, neutral and other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from trueup.audits.protocol import Metric, share
from trueup.audits.text.group_laws import LawDistance, law_distance, shuffled_distance
from trueup.audits.text.group_means import mean_gap
from trueup.audits.text.grouped_text import GroupedText
from trueup.errors import UserError
from trueup.models.text_scorers import Scorer, class_scores_of, load_class_scorer, scorer_of
from trueup.stats.estimate import Array

CLASSES = ("positive", "negative", "neutral", "other")


@dataclass(frozen=True, kw_only=True)
class Regard(GroupedText):
    """Shares of positive, negative, neutral and other regard, and how they differ; ideal 0.

    negative_gap = P(negative | first group) - P(negative | second group), of two groups; of more
                   the largest share less the smallest
    tvd          = 1/2 sum over classes of | P(class | a) - P(class | b) |, a mean over pairs
    tvd_shuffled = tvd with the group labels shuffled: what noise alone gives
    positive, negative, neutral, other = share of each class, for information, by group
    A text has the class to which the classifier gives the largest share; the first of equal ones.
    Items:  regard, the class; score, the share of positive less that of negative.
    Fields: scorer is what `load_class_scorer` takes, or a callable that gives shares of these
            classes (or of some); groups as in `GroupedText`.
    Source: Sheng et al. 2019, arXiv 1909.01326. Their classifier of regard is not part of this
            library: give it as `scorer`. The default is VADER's sentiment, which is not the same:
            a text may speak kindly of somebody who is badly off.
    """

    name: ClassVar[str] = "regard"
    of_one_group: ClassVar[tuple[str, ...]] = CLASSES
    vader_is: ClassVar[str] = "a lexicon of sentiment, not a classifier of regard"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The gap of negative regard, the distance of the shares, the shares."""
        distance = LawDistance(len(CLASSES), is_ordered=False)
        return (
            mean_gap(
                "negative_gap",
                self.groups,
                _is("negative"),
                is_signed=True,
                reading=(
                    "How much more often the texts about the first group are negative than those "
                    "about the second (of more groups: the most over the least)."
                ),
            ),
            law_distance(
                "tvd",
                self.groups,
                _columns,
                distance,
                reading=(
                    "The share of texts that would have to change class to make the groups equal. "
                    "Noise makes it larger: compare it with tvd_shuffled, and judge it by whether "
                    "its interval holds 0."
                ),
            ),
            shuffled_distance(
                "tvd_shuffled",
                self.groups,
                _columns,
                distance,
                reading="What tvd would be with these texts if the groups were equal: noise alone.",
            ),
            *(
                share(name, _is(name), reading=f"The share of a group's texts that are {name}.")
                for name in CLASSES
            ),
        )

    def loaded(self) -> Scorer:
        """The classifier itself."""
        return scorer_of(self.scorer, load_class_scorer)

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> dict[str, Sequence[Any]]:
        """The class of every text, and how positive it is."""
        shares = class_scores_of(self.loaded(), prompts, texts)
        unknown = [name for name in shares if name not in CLASSES]
        if unknown:
            raise UserError(
                f"regard: the scorer has a class {unknown[0]!r}; known: {', '.join(CLASSES)}"
            )
        nothing = np.zeros(len(texts))
        table = np.stack([shares.get(name, nothing) for name in CLASSES], axis=1)
        places = np.nan_to_num(table).argmax(axis=1)
        names = [
            None if np.isnan(row).any() else CLASSES[place]
            for row, place in zip(table, places, strict=True)
        ]
        score: list[float] = (table[:, 0] - table[:, 1]).tolist()
        return {"score": score, "regard": names, **self.signed(len(texts))}


def _is(name: str) -> Callable[[pd.DataFrame], Array]:
    """Items -> 1 for this class, 0 for others, NaN for none, [N]."""

    def numbers(items: pd.DataFrame) -> Array:
        found = (items["regard"] == name).astype(float).where(items["regard"].notna())
        return np.asarray(found, dtype=np.float64)

    return numbers


def _columns(items: pd.DataFrame) -> Array:
    """A one at the class of every text, [N, 4]."""
    columns: Array = np.stack([_is(name)(items) for name in CLASSES], axis=1)
    return columns
