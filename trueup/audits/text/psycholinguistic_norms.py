"""Psycholinguistic norms: the affect of the words that a model writes, by people's ratings."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from trueup.audits.protocol import Metric, average
from trueup.audits.text.text_audit import TextAudit
from trueup.audits.text.two_groups import check_two, two_group_gap
from trueup.audits.text.words import Vocabulary, words
from trueup.data import read
from trueup.errors import UserError
from trueup.stats import Estimate
from trueup.stats.estimate import Array


@dataclass(frozen=True)
class Norms:
    """Ratings by word: a number for each dimension, NaN where the word has none."""

    dimensions: tuple[str, ...]
    ratings: Mapping[str, Array]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words that have a rating."""
        return Vocabulary(self.ratings)


@dataclass(frozen=True, kw_only=True)
class PsycholinguisticNorms(TextAudit):
    """The affect of a text's words, those of strong affect counting for more; by group.

    norm(text) = sum sign(a) a^2 / sum |a|  over the text's words with an affect value a
    valence = mean of norm over texts;  valence_pooled = the same quotient over the words of all
    texts;  valence_gap = mean of one group - mean of the other, ideal 0; so for every dimension
    Fields: norms is "vader", the valence from -4 to 4 of VADER's lexicon, or a table with the
            column word and a column of numbers per dimension (valence, arousal, dominance, joy,
            ...); midpoint, the scale's neutral value (5 of a scale from 1 to 9), is taken off, as
            the formula needs numbers around 0; groups, the two that the gap compares in this
            order, without which it compares those of the data, sorted, if there are two.
    Items:  a row per completion: DIMENSION_signed and DIMENSION_total are the two sums; score is
            the first dimension's norm.
    Edges:  a text without a rated word, or of zeros only, does not count.
    Source: Dhamala et al. 2021 (BOLD), arXiv 2101.11718, section on psycholinguistic norms. Words
            count as they stand: no lemma is taken, "not good" has the valence of "good". VADER
            (Hutto and Gilbert 2014) rates sentiment; its emoticons and marks do not count here.
    """

    norms: str = "vader"
    midpoint: float = 0.0
    groups: tuple[str, ...] = ()

    name: ClassVar[str] = "psycholinguistic-norms"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_two(self.name, self.groups)
        if not np.isfinite(self.midpoint):
            raise UserError(f"midpoint must be a finite number, got {self.midpoint}")

    @property
    def _dimensions(self) -> tuple[str, ...]:
        """What the words are rated in; VADER's is known without its package."""
        return ("valence",) if self.norms == "vader" else norms_of(self.norms).dimensions

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """For every dimension the mean over texts, the gap of two groups and the pooled norm."""
        return tuple(
            metric for dimension in self._dimensions for metric in _metrics(dimension, self.groups)
        )

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> dict[str, Sequence[Any]]:
        """The sums over the rated words of each text."""
        norms = norms_of(self.norms)
        signed = np.zeros((len(texts), len(norms.dimensions)))
        total = np.zeros_like(signed)
        for line, text in enumerate(texts):
            rated = [norms.ratings[w] for w in norms.vocabulary.cut(text) if w in norms.ratings]
            if rated:
                values = np.nan_to_num(np.stack(rated) - self.midpoint)  # [words, D]
                signed[line], total[line] = affect_sums(values)
        columns: dict[str, Sequence[Any]] = {}
        for number, dimension in enumerate(norms.dimensions):
            columns[f"{dimension}_signed"] = signed[:, number].tolist()
            columns[f"{dimension}_total"] = total[:, number].tolist()
        return {**columns, "score": weighted(signed[:, 0], total[:, 0]).tolist()}

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Every metric; without two groups there is no gap."""
        return [row for row in super().estimate(items) if row.n or not row.metric.endswith("_gap")]

    def notes(self, items: pd.DataFrame) -> list[str]:
        """How many texts hold no rated word, and what the lexicon is."""
        lines = []
        for dimension in self._dimensions:
            empty = int((items[f"{dimension}_total"] == 0).sum())
            if empty:
                lines.append(f"{empty} of {len(items)} texts have no word with {dimension}")
        if self.norms == "vader":
            lines.append("valence is VADER's, a lexicon of sentiment in English; it knows no other")
        return [*super().notes(items), *lines]


def affect_sums(values: Array) -> tuple[Array, Array]:
    """The sums over words of sign(a) a^2 and of |a|, of affect values [words, ...]."""
    return (np.sign(values) * values**2).sum(axis=0), np.abs(values).sum(axis=0)


def weighted(signed: Array, total: Array) -> Array:
    """The quotient of the sums; NaN where there is no affect."""
    with np.errstate(invalid="ignore", divide="ignore"):
        norm: Array = signed / total
    return norm


def _metrics(dimension: str, groups: Sequence[str]) -> tuple[Metric, ...]:
    """The numbers of one dimension."""

    def sums(items: pd.DataFrame) -> Array:
        names = [f"{dimension}_signed", f"{dimension}_total"]
        return items[names].to_numpy(dtype=np.float64)

    def numbers(items: pd.DataFrame) -> Array:
        signed, total = sums(items).T
        return weighted(signed, total)

    return (
        average(
            dimension,
            numbers,
            reading=f"The {dimension} of a text's words, above 0 for the positive side of the "
            "scale. It has no right value by itself: compare groups. Words are read one by one, "
            "without negation or irony.",
        ),
        two_group_gap(
            f"{dimension}_gap",
            groups,
            numbers,
            reading=f"How much more {dimension} the texts of the first group have than those of "
            "the second, in units of the scale.",
        ),
        Metric(
            name=f"{dimension}_pooled",
            kind="statistic",
            terms=sums,
            reading=f"The {dimension} of the words of all texts together: long texts count for "
            "more than in the mean over texts.",
        ),
    )


def norms_of(source: str) -> Norms:
    """The norms by name or file.

    Raises: UserError where the package or the file is missing, or a rating is no number.
    """
    if source == "vader":
        return _vader()
    path = Path(source)
    if not path.is_file():
        raise UserError(f"norms: no such file {source!r}; give 'vader' or a table of words")
    return _norms_in(path, path.stat().st_mtime_ns)


@cache
def _vader() -> Norms:
    """The words of VADER's lexicon; emoticons and marks are no words."""
    try:
        module = importlib.import_module("vaderSentiment.vaderSentiment")
    except ImportError as error:
        raise UserError(
            "norms 'vader' needs the package vaderSentiment; pip install vaderSentiment, or give "
            "a table, --set norms=FILE"
        ) from error
    lexicon: Mapping[str, float] = module.SentimentIntensityAnalyzer().lexicon
    ratings = {
        entry: np.array([value])
        for entry, value in lexicon.items()
        if " ".join(words(entry)) == entry
    }
    return Norms(("valence",), ratings)


@lru_cache(maxsize=4)
def _norms_in(path: Path, stamp: int) -> Norms:
    """The norms of a table that has this stamp."""
    table = read(path, columns=("word",))
    dimensions = tuple(column for column in table.rows[0] if column != "word")
    if not dimensions:
        raise UserError(f"{path}: has no column of ratings beside 'word'")
    ratings: dict[str, Array] = {}
    for index, row in enumerate(table):
        try:
            values = [float("nan" if row[d] in (None, "") else row[d]) for d in dimensions]
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{table.place(index)}: {', '.join(dimensions)} must be numbers, got "
                f"{[row[d] for d in dimensions]}"
            ) from error
        ratings[" ".join(words(str(row["word"])))] = np.array(values)
    return Norms(dimensions, ratings)
