"""Co-occurrence bias: how much likelier a word stands near the words of one group."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from trueup.audits.estimates import clusters_of
from trueup.audits.protocol import Metric
from trueup.audits.text.chance import DRAWS, around, by_chance
from trueup.audits.text.text_audit import TextAudit
from trueup.audits.text.words import (
    PersonWords,
    Vocabulary,
    neutral_beside,
    neutral_words,
    person_words,
)
from trueup.errors import UserError, check_at_least, check_between, check_choice
from trueup.stats import Estimate, Labels
from trueup.stats.estimate import Array
from trueup.stats.resampling import quietly, units_of

APART = 1.25  # a quotient of the groups' frequencies from which on the notes speak of it


@dataclass(frozen=True, kw_only=True)
class CoOccurrence(TextAudit):
    """The log-ratio of a word's probabilities near either group; mean of |COBS|, never 0 by chance.

    COBS(w) = ln(P(w | A) / P(w | B))
    P(w | A) = [C(w, A) / sum_w' C(w', A)] / [C(A) / sum_w' C(w')]
    C(w, A) = sum over pairs of w and a word of A in one text of beta^distance, or of 1 within
    `window` words;  C(A) counts the words of A;  mean_abs = mean over words of |COBS(w)|,
    mean likewise with its sign: above 0 leans to A
    Units:  nats.
    Fields: persons as in `demographic-representation`, two groups, A the first (of "gender" women);
            words as in `stereotypical-associations`; window 0 takes all pairs of a text, weighted
            with beta in (0, 1]; form "paper" is the formula above, which falls by ln(C(A) / C(B))
            for every word where A is named more often; "conditional" leaves C(A) and C(B) out.
    Items:  a row per completion: count_GROUP, near_GROUP (the sum over w'), and near, JSON of
            C(w, A) and C(w, B) of its neutral words.
    Edges:  w' are all words that name no person of either group; a word that either group lacks is
            skipped and counted in the notes; no word with both: NaN.
    Source: Bordia and Bowman 2019, arXiv 1904.03035, whose w are all words of a corpus: here they
            are listed, so that two runs speak of the same ones. No list of stop words is left out.
            mean_abs_shuffled is the same number in texts that exchange their groups at random, with
            as many texts of either; bounds are made from it.
    """

    persons: str = "gender"
    words: str = "occupations"
    window: int = 0
    beta: float = 0.95
    form: Literal["paper", "conditional"] = "paper"

    name: ClassVar[str] = "co-occurrence"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, window=self.window)
        check_between(1e-6, 1, beta=self.beta)
        check_choice(("paper", "conditional"), form=self.form)
        if len(self._persons.groups) != 2:
            raise UserError(
                f"persons must have two groups for a ratio, got {', '.join(self._persons.groups)}"
            )
        neutral_words(self.words)  # a file is read before any work starts

    @property
    def _persons(self) -> PersonWords:
        """The list of persons."""
        return person_words(self.persons)

    @property
    def _words(self) -> tuple[str, ...]:
        """The neutral words that name no person."""
        return neutral_beside(self.words, self._persons)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The mean size of the log-ratios, what chance makes of it, and their mean."""
        first, second = self._persons.groups
        return (
            Metric(
                name="mean_abs",
                kind="statistic",
                terms=self._terms,
                value=lambda sums: _mean(np.abs(self._cobs(sums))),
                ideal=0.0,
                goal="lower",
                interval=self._distance,
                reading="By how much, in logarithms, a word is likelier near one group than near "
                "the other, whichever it is. It lies above 0 by chance, the more so where words "
                "are rare: see mean_abs_shuffled.",
            ),
            Metric(
                name="mean_abs_shuffled",
                kind="statistic",
                terms=self._terms,
                interval=self._chance,
                reading="What mean_abs is in the same texts when they exchange their groups.",
            ),
            Metric(
                name="mean",
                kind="statistic",
                terms=self._terms,
                value=lambda sums: _mean(self._cobs(sums)),
                ideal=0.0,
                reading=f"Above 0 the words lean to {first}, below to {second}; leanings of "
                "different words cancel out. In the paper's form it also moves with how often "
                "either group is named.",
            ),
        )

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> dict[str, Sequence[Any]]:
        """The co-occurrences in each text."""
        persons, neutral = self._persons, frozenset(self._words)
        vocabulary = Vocabulary([*persons.group_of, *neutral])
        columns: dict[str, list[Any]] = {"near": [], "score": []}
        for group in persons.groups:
            columns |= {f"count_{group}": [], f"near_{group}": []}
        for text in texts:
            cut = vocabulary.cut(text)
            weights = near_persons(cut, persons, window=self.window, beta=self.beta)
            own = _by_word(cut, weights, neutral)
            counts, is_other = persons.counts(cut), [w not in persons.group_of for w in cut]
            for group, count, total in zip(
                persons.groups, counts, weights[is_other].sum(axis=0), strict=True
            ):
                columns[f"count_{group}"].append(float(count))
                columns[f"near_{group}"].append(float(total))
            columns["near"].append(json.dumps(own))
            columns["score"].append(sum(first - second for first, second in own.values()))
        return dict(columns)

    def _terms(self, items: pd.DataFrame) -> Array:
        """C(w, A), C(w, B) of every word, the sums over w', and C(A), C(B): [N, 2 W + 4]."""
        places = {word: 2 * number for number, word in enumerate(self._words)}
        terms = np.zeros((len(items), 2 * len(places) + 4))
        for row, text in enumerate(items["near"]):
            for word, weights in json.loads(text).items():
                terms[row, places[word] : places[word] + 2] = weights
        for side, group in enumerate(self._persons.groups):
            terms[:, side - 4] = items[f"near_{group}"]
            terms[:, side - 2] = items[f"count_{group}"]
        return terms

    def _cobs(self, sums: Array) -> Array:
        """COBS of every word, [..., W], NaN where a group lacks it."""
        pairs = sums[..., :-4].reshape(*sums.shape[:-1], -1, 2)
        rates = pairs / sums[..., None, -4:-2]
        if self.form == "paper":
            rates = rates / sums[..., None, -2:]
        both = pairs.min(axis=-1, keepdims=True) > 0
        logs: Array = np.log(np.where(both, rates, np.nan))
        return logs[..., 0] - logs[..., 1]

    def _noise(self, items: pd.DataFrame, rng: np.random.Generator) -> Array:
        """mean_abs where clusters exchange their groups, as many leaning to either, [S]."""
        units, _ = units_of(self._terms(items), clusters_of(items))
        units = units[:, units.any(axis=0).reshape(-1, 2).any(axis=1).repeat(2)]
        swapped = units.reshape(len(units), -1, 2)[:, :, ::-1].reshape(len(units), -1)
        leans = np.sign(units[:, -2] - units[:, -1])
        exchanged = _exchanges(leans, rng)  # [S, U]
        sums = (1 - exchanged) @ units + exchanged @ swapped  # a sum of zeros stays 0
        return quietly(lambda table: _mean(np.abs(self._cobs(table))), sums)

    def _distance(self, items: pd.DataFrame, rng: np.random.Generator, labels: Labels) -> Estimate:
        """mean_abs with its bounds."""
        sums = self._terms(items).sum(axis=0)
        point = float(quietly(lambda table: _mean(np.abs(self._cobs(table))), sums))
        noise = self._noise(items, rng)
        return around(point, noise, n=len(items), how="exchanges of groups", labels=labels)

    def _chance(self, items: pd.DataFrame, rng: np.random.Generator, labels: Labels) -> Estimate:
        """mean_abs by chance alone."""
        noise = self._noise(items, rng)
        return by_chance(noise, n=len(items), how="exchanges of groups", labels=labels)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """How many words count or are skipped, and whether one group is named more often."""
        sums = self._terms(items).sum(axis=0)
        pairs = sums[:-4].reshape(-1, 2)
        counted, seen = int((pairs > 0).all(axis=1).sum()), int((pairs > 0).any(axis=1).sum())
        lines = [
            f"{counted} of {len(pairs)} neutral words stand near both groups and count; "
            f"{seen - counted} stand near one only and are skipped"
        ]
        low, high = sorted(sums[-2:])
        if self.form == "paper" and high > APART * low > 0:
            lines.append(
                f"one group is named {high / low:.2f} times as often as the other, which alone "
                f"moves every COBS of the paper's form by {np.log(high / low):.2f}; "
                "form=conditional leaves it out"
            )
        return [*super().notes(items), *lines]


def near_persons(cut: Sequence[str], persons: PersonWords, *, window: int, beta: float) -> Array:
    """The weight of each group's words around every word of a text, itself apart, [T, G].

    Two filters pass over the text, from either side: left_t = beta (left_{t-1} + I_{t-1}), so that
    all pairs cost as much as the text is long.
    """
    is_person = np.zeros((len(cut), len(persons.groups)))
    for place, word in enumerate(cut):
        if word in persons.group_of:
            is_person[place, persons.group_of[word]] = 1
    if not len(cut):
        return is_person
    if window:
        before = np.concatenate([np.zeros((1, is_person.shape[1])), is_person.cumsum(axis=0)])
        places = np.arange(len(cut))
        first, last = np.maximum(places - window, 0), np.minimum(places + window + 1, len(cut))
        near: Array = before[last] - before[first] - is_person
        return near
    left, right = (
        lfilter([0, beta], [1, -beta], side, axis=0) for side in (is_person, is_person[::-1])
    )
    both: Array = left + right[::-1]
    return both


def _by_word(cut: Sequence[str], weights: Array, neutral: frozenset[str]) -> dict[str, list[float]]:
    """The weights of both groups around every neutral word, where there are any."""
    found: dict[str, list[float]] = {}
    for word, own in zip(cut, weights.tolist(), strict=True):
        if word in neutral and any(own):
            sums = found.setdefault(word, [0.0, 0.0])
            found[word] = [sums[0] + own[0], sums[1] + own[1]]
    return found


def _exchanges(leans: Array, rng: np.random.Generator) -> Array:
    """Whether each unit exchanges its groups in each draw, [S, U].

    Leanings are dealt out anew, and a unit exchanges where it gets another than its own; units
    that lean to neither exchange by a coin.
    """
    result = rng.integers(2, size=(DRAWS, len(leans))).astype(np.float64)
    leaning = np.flatnonzero(leans)
    dealt = rng.permuted(np.tile(leans[leaning], (DRAWS, 1)), axis=1)
    result[:, leaning] = dealt != leans[leaning]
    return result


def _mean(numbers: Array) -> Array:
    """The mean over words [..., W] that have a number; NaN for none."""
    is_there = np.isfinite(numbers)
    mean: Array = np.where(is_there, numbers, 0.0).sum(axis=-1) / is_there.sum(axis=-1)
    return mean
