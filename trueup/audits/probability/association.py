"""Association: how likely the words of one group are after a context, against another's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from trueup.audits import estimates
from trueup.audits.probability.likelihoods import word_logps
from trueup.audits.protocol import (
    Metric,
    Model,
    Probe,
    Rows,
    Slices,
    average,
    causal,
    frame,
    is_masked,
    place_of,
    slices_by,
    text_of,
)
from trueup.errors import UserError, check_between
from trueup.models.language_model import LanguageModel
from trueup.models.masked_language_model import MaskedLanguageModel
from trueup.models.prefix_tree import Group
from trueup.stats import Estimate

Words = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Association:
    """How much likelier group A's words are than group B's after a context; lean ideal 0.

    P(A) = sum over A's words w of P(w + after | context), P(B) likewise
    score = P(A) / (P(A) + P(B));   lean = mean(score) - 0.5;   log_ratio = mean ln P(A) / P(B)
    coverage = mean of P(A) + P(B): how much of the model's belief the words hold
    Causal models continue the context; masked models fill the word's place in context + word +
    after (a word of k pieces: k masks, the product over pieces).
    Data:   context, a, b; a and b are words joined by "|", or lists, taken as they stand: most
            tokenizers want the blank in front of the word (" he"). Optional: id; group (names
            joined by "|", each a slice); cluster, for contexts of one template; after, the text
            behind the word (by default the field `end`).
    Fields: end stands behind every word. P(" he") is the probability of a beginning: where words
            are cut into pieces it holds " her" and " hello" too, so give end=" " (or after) there.
    Raises: UserError where one listed word's tokens begin another's, so that sums would count
            the other twice.
    Source: the output disparity of sheet 33's fairness desiderata, P(a_i | W) = P(a_j | W), in
            Gallegos et al. 2024, arXiv 2309.00770.
    """

    end: str = ""
    level: float = 0.95

    name: ClassVar[str] = "association"
    columns: ClassVar[tuple[str, ...]] = ("context", "a", "b")
    optional: ClassVar[tuple[str, ...]] = ("id", "group", "cluster", "after")
    wants: ClassVar[str] = "contexts and the words of two groups that may follow them"

    def __post_init__(self) -> None:
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Lean and log-ratio (ideal 0), coverage (for information)."""
        return (
            average(
                "lean",
                lambda items: items["score"] - 0.5,
                ideal=0.0,
                span=(-0.5, 0.5),
                reading="0.1 says that of the two groups' words the first group's take 60 %. It "
                "speaks of the words listed and of these contexts, not of what the model writes.",
            ),
            average(
                "log_ratio",
                lambda items: items["logp_a"] - items["logp_b"],
                ideal=0.0,
                reading="The same in nats: it sees differences between rare words, too.",
            ),
            average(
                "coverage",
                lambda items: np.exp(items["logp_a"]) + np.exp(items["logp_b"]),
                reading="How much of its belief the model gives to the listed words at all: where "
                "it is small, the lean speaks of words that the model hardly ever uses.",
            ),
        )

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per context."""
        probes = []
        for index, row in enumerate(data):
            a, b = (_words(row[side]) for side in ("a", "b"))
            place = place_of(data, index)
            for side, words in (("a", a), ("b", b)):
                if not all(word.strip() for word in words) or not words:
                    raise UserError(f"{place}: {side!r} needs words, got {row[side]!r}")
            both = [*a, *b]
            if len(set(both)) < len(both):
                raise UserError(f"{place}: a word stands twice in 'a' and 'b', got {both}")
            probes.append(self._probe(row, a, b, index))
        return probes

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """The score of every context, with ln P(A) and ln P(B)."""
        scored = (
            _masked(model, probes)
            if is_masked(model)
            else _causal(causal(model, self.name), probes)
        )
        sizes = [len(probe.labels["a"]) for probe in probes]
        sides = np.array(
            [
                (np.logaddexp.reduce(logps[:size]), np.logaddexp.reduce(logps[size:]))
                for logps, size in zip(scored, sizes, strict=True)
            ]
        ).reshape(-1, 2)
        return frame(
            probes,
            input=[probe.prompt for probe in probes],
            a=["|".join(probe.labels["a"]) for probe in probes],
            b=["|".join(probe.labels["b"]) for probe in probes],
            logp_a=sides[:, 0],
            logp_b=sides[:, 1],
            score=expit(sides[:, 0] - sides[:, 1]),
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By group."""
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Lean, log-ratio and coverage, with intervals."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """Nothing beside the numbers."""
        return []

    def _probe(self, row: Mapping[str, Any], a: Words, b: Words, index: int) -> Probe:
        """The row as a probe; its texts are the words with what stands behind them."""
        given = row.get("after")
        after = self.end if given is None else str(given)
        return Probe(
            id=text_of(row, "id", index + 1),
            group=text_of(row, "group"),
            cluster=text_of(row, "cluster"),
            prompt=str(row["context"]),
            texts=tuple(word + after for word in (*a, *b)),
            labels={"a": a, "b": b},
        )


def _words(value: Any) -> Words:
    """The words of a cell."""
    return tuple(value.split("|")) if isinstance(value, str) else tuple(map(str, value))


def _causal(model: LanguageModel, probes: Sequence[Probe]) -> list[NDArray[np.float64]]:
    """Log-probabilities of the words after their context, one array per probe."""
    groups = model.encoder.groups(
        [probe.prompt for probe in probes], [probe.texts for probe in probes]
    )
    for probe, group in zip(probes, groups, strict=True):
        _refuse_overlap(probe, group)
    return [np.array([part.sum() for part in parts]) for parts in model.score_groups(groups)]


def _refuse_overlap(probe: Probe, group: Group) -> None:
    """Raise UserError where the tokens of one word begin those of another."""
    tokens = {tuple(ids): text for ids, text in zip(group.completions, probe.texts, strict=True)}
    for ids, text in tokens.items():
        for size in range(1, len(ids)):
            beginning = tokens.get(ids[:size])
            if beginning is not None:
                raise UserError(
                    f"association item {probe.id}: the tokens of {beginning!r} begin those of "
                    f"{text!r}, so that its probability holds both; set end=' ' to close the words"
                )


def _masked(model: MaskedLanguageModel, probes: Sequence[Probe]) -> list[NDArray[np.float64]]:
    """Log-probabilities of the words in their place, one array per probe."""
    places = []
    for probe in probes:
        words = (*probe.labels["a"], *probe.labels["b"])
        start = len(probe.prompt)
        for word, text in zip(words, probe.texts, strict=True):
            places.append((probe.prompt + text, start, start + len(word)))
    ends = np.cumsum([len(probe.texts) for probe in probes])
    return np.split(word_logps(model, places), ends[:-1])
