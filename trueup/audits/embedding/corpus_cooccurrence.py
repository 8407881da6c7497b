"""Corpus co-occurrence: do pronouns and occupations stand together as the stereotype has it."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pandas as pd

from trueup.audits import estimates
from trueup.audits.protocol import Metric, Model, Probe, Rows, Slices, frame, slices_by, text_of
from trueup.errors import check_between
from trueup.stats import Estimate
from trueup.stats.estimate import Array

CELLS = ("male_male", "male_female", "female_male", "female_female")  # pronoun, occupation
PRONOUNS = ("male", "female", "neutral")

_TOKEN = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True, kw_only=True)
class CorpusCooccurrence:
    """Sentences with pronouns and occupations of a text, counted; no model is asked.

    A sentence counts at most once in a cell, however often its words stand in it.
    log_odds = ln (male_male female_female) / (male_female female_male), half a sentence added to
               each cell; ideal 0, above it pronouns go with the occupations of their gender
    pro      = stereotypical co-occurrences among all, for information: it moves with how many
               pronouns and occupations of either kind there are, log_odds does not
    male     = sentences with he, him or his among those with these or with she, her or hers; 0.5
    neutral  = sentences with they, them or their(s) among those with any pronoun
    Data:   text, one or many sentences; optional id, group (names joined by "|"), cluster.
    Items:  a row per text; its sentences stay together in every resample.
    Source: Tan and Celis 2019, arXiv 1911.01485, whose code counts blank-separated tokens; here
            words are cut from their marks. Occupations by gender: WinoBias. log_odds is ours.
    """

    level: float = 0.95

    name: ClassVar[str] = "corpus-co-occurrence"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    optional: ClassVar[tuple[str, ...]] = ("id", "group", "cluster")
    wants: ClassVar[str] = "the texts of a corpus"

    def __post_init__(self) -> None:
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Log odds ratio and share of men's pronouns (ideals 0 and 0.5), and two shares."""
        return (
            Metric(
                name="log_odds",
                kind="statistic",
                terms=lambda items: _columns(items, CELLS),
                value=log_odds,
                ideal=0.0,
                reading="How much oftener pronouns stand with the occupations of their own gender "
                "than chance has it. Who is meant by a pronoun is not looked at.",
            ),
            Metric(
                name="male",
                kind="statistic",
                terms=lambda items: _columns(items, PRONOUNS[:2]),
                value=_first_share,
                ideal=0.5,
                span=(0.0, 1.0),
                reading="The share of sentences with men's pronouns among those with men's or "
                "women's.",
            ),
            Metric(
                name="pro",
                kind="statistic",
                terms=_pro_terms,
                value=_first_share,
                span=(0.0, 1.0),
                reading="The share of stereotypical pairs. It is not one half in a text without "
                "any association that has more men and more of their occupations.",
            ),
            Metric(
                name="neutral",
                kind="statistic",
                terms=lambda items: _columns(items, ("neutral", "any")),
                value=lambda sums: sums[..., 0] / sums[..., 1],
                span=(0.0, 1.0),
                sliced=False,
            ),
        )

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per text."""
        return [
            Probe(
                id=text_of(row, "id", index + 1),
                group=text_of(row, "group"),
                cluster=text_of(row, "cluster"),
                prompt=str(row["text"]),
            )
            for index, row in enumerate(data)
        ]

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """The counts of every text; the model is not asked."""
        counts = [counted(probe.prompt) for probe in probes]
        columns = {name: [float(own[name]) for own in counts] for name in counts[0]}
        pro = np.add(columns["male_male"], columns["female_female"])
        anti = np.add(columns["male_female"], columns["female_male"])
        return frame(probes, input=[probe.prompt for probe in probes], **columns, score=pro - anti)

    def slices(self, items: pd.DataFrame) -> Slices:
        """By group."""
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Log odds and shares, with intervals."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """The counts themselves."""
        total = {name: int(items[name].sum()) for name in (*PRONOUNS, *CELLS, "sentences")}
        return [
            f"{total['sentences']} sentences: {total['male']} with he, {total['female']} with she, "
            f"{total['neutral']} with they; men's occupations {total['male_male']} with he and "
            f"{total['female_male']} with she, women's {total['male_female']} and "
            f"{total['female_female']}",
            "the text is measured, not the model: another model has the same numbers",
        ]


def counted(text: str) -> dict[str, int]:
    """How many sentences hold each pronoun, and each pronoun with an occupation."""
    totals = dict.fromkeys((*PRONOUNS, "any", *CELLS, "sentences"), 0)
    for sentence in _SENTENCE_END.split(text):
        tokens = _TOKEN.findall(sentence.lower())
        totals["sentences"] += bool(tokens)
        words = set(tokens) | {" ".join(pair) for pair in pairwise(tokens)}
        pronouns = {name: bool(words & _words("pronouns")[name]) for name in PRONOUNS}
        for name, stands in pronouns.items():
            totals[name] += stands
        totals["any"] += any(pronouns.values())
        for cell in CELLS:
            pronoun, occupation = cell.split("_")
            totals[cell] += pronouns[pronoun] and bool(words & _words("occupations")[occupation])
    return totals


def log_odds(sums: Array) -> Array:
    """Log odds ratio of counts [..., 4] in the order of `CELLS`, half a count added to each.

    Source: Haldane 1956 for the halves.
    """
    male_male, male_female, female_male, female_female = np.moveaxis(np.log(sums + 0.5), -1, 0)
    odds: Array = male_male + female_female - male_female - female_male
    return odds


def _first_share(sums: Array) -> Array:
    """The share of the first of two counts."""
    share: Array = sums[..., 0] / sums.sum(axis=-1)
    return share


def _columns(items: pd.DataFrame, names: Sequence[str]) -> Array:
    """Counts as terms, [N, K]."""
    return items[list(names)].to_numpy(dtype=np.float64)


def _pro_terms(items: pd.DataFrame) -> Array:
    """Stereotypical co-occurrences and the others."""
    table = _columns(items, CELLS)
    return np.stack([table[:, 0] + table[:, 3], table[:, 1] + table[:, 2]], axis=1)


@cache
def _words(kind: str) -> Mapping[str, frozenset[str]]:
    """The pronouns or the occupations by gender."""
    text = (files("trueup.audits.embedding") / "occupation_words.toml").read_text(encoding="utf-8")
    return {name: frozenset(words) for name, words in tomllib.loads(text)[kind].items()}
