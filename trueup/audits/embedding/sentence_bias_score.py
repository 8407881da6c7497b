"""Sentence bias score: how far the words of a sentence lie along the direction of gender."""

import math
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from trueup.audits import estimates
from trueup.audits.embedding.effect_size import unit
from trueup.audits.embedding.occurrences import spots
from trueup.audits.protocol import (
    Metric,
    Model,
    Probe,
    Rows,
    Slices,
    average,
    frame,
    slices_by,
    text_of,
)
from trueup.errors import check_at_least, check_between, check_choice
from trueup.models.embedder import POOLINGS, Array, Place, Pooling, Vectors, vectors_of
from trueup.stats import Estimate

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


@dataclass(frozen=True, kw_only=True)
class SentenceBiasScore:
    """How much of gender the words of each sentence carry that do not mean one.

    v      = first principal component of the differences of ten pairs such as she - he, towards
             the woman's words
    bias   = sum over words w of alpha_w |cos(w, v)|;   signed = sum of alpha_w cos(w, v)
    null   = bias along directions of pairs of one gender (she - mother), of which v should stand
             out; excess = bias - null
    Data:   text, a sentence; optional id, group (names joined by "|"), cluster.
    Fields: weights "idf" gives alpha in proportion to 1 + ln((1 + N) / (1 + sentences with w)),
            "uniform" to 1; both add up to 1 in a sentence. nulls is how many such directions are
            drawn, seed draws them; layer and pooling as in `Embedder.span_vectors`.
    Edges:  a sentence of gender's own words only, or of unknown ones: NaN, left out.
    Source: Dolci et al. 2023, as in sheet 33 [R]: pairs of Bolukbasi et al. 2016, the weights and
            the null are ours.
    """

    weights: Literal["idf", "uniform"] = "idf"
    nulls: int = 20
    layer: int = -1
    pooling: Pooling = "auto"
    seed: int = 0
    level: float = 0.95

    name: ClassVar[str] = "sentence-bias-score"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    optional: ClassVar[tuple[str, ...]] = ("id", "group", "cluster")
    wants: ClassVar[str] = "sentences"

    def __post_init__(self) -> None:
        check_choice(("idf", "uniform"), weights=self.weights)
        check_choice(POOLINGS, pooling=self.pooling)
        check_at_least(1, nulls=self.nulls)
        check_at_least(0, seed=self.seed)
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Signed score (ideal 0), bias (the lower the better), excess (for information)."""
        return (
            average(
                "signed",
                lambda items: items["signed"],
                ideal=0.0,
                span=(-1.0, 1.0),
                reading="Above 0 the sentences' words lie on the women's side, below on the "
                "men's. Words that lean either way cancel.",
            ),
            average(
                "bias",
                lambda items: items["score"],
                goal="lower",
                span=(0.0, 1.0),
                reading="How far words lie along the direction of gender, on either side. It is "
                "above 0 without any bias, as cosines never are exactly 0.",
            ),
            average(
                "excess",
                lambda items: items["score"] - items["null"],
                reading="How much further they lie along it than along directions between words "
                "of one gender.",
            ),
        )

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per sentence, with the words that count and their weights."""
        texts = [str(row["text"]) for row in data]
        found = [_counted_words(text) for text in texts]
        weights = self._weights([[_key(spot) for spot in own] for own in found])
        return [
            Probe(
                id=text_of(row, "id", index + 1),
                group=text_of(row, "group"),
                cluster=text_of(row, "cluster"),
                prompt=texts[index],
                labels={"words": found[index], "weights": weights[index]},
            )
            for index, row in enumerate(data)
        ]

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """The scores of every sentence."""
        source = vectors_of(model, self.name)
        directions = self._directions(source)
        places = [place for probe in probes for place in probe.labels["words"]]
        cosines = np.empty((0, len(directions)))
        if places:
            vectors = source.span_vectors(places, layer=self.layer, piece=self.pooling)
            cosines = unit(vectors) @ directions.T
        sizes = [len(probe.labels["words"]) for probe in probes]
        parts = np.split(cosines, np.cumsum(sizes)[:-1])
        scores = [
            sentence_bias(part, np.array(probe.labels["weights"]))
            for part, probe in zip(parts, probes, strict=True)
        ]
        return frame(
            probes,
            words=sizes,
            input=[probe.prompt for probe in probes],
            signed=[float(signed[0]) for _, signed in scores],
            null=[float(bias[1:].mean()) for bias, _ in scores],
            score=[float(bias[0]) for bias, _ in scores],
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By group."""
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Signed score, bias and excess, with intervals."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """What bias is without any lean, and how many sentences have no score."""
        null = float(items["null"].mean())
        lines = [
            f"along directions that hold no gender the same sentences have a bias of {null:.3f}; "
            "only what exceeds it speaks of gender"
        ]
        empty = int(items["score"].isna().sum())
        if empty:
            lines.append(f"{empty} sentences have no word that counts and are left out")
        return lines

    def _weights(self, sentences: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
        """The weights of every sentence's words; they add up to 1."""
        holding = Counter(word for own in sentences for word in set(own))
        rarity = {
            word: 1.0 if self.weights == "uniform" else 1 + math.log((1 + len(sentences)) / (1 + n))
            for word, n in holding.items()
        }
        totals = [sum(rarity[word] for word in own) for own in sentences]
        return [
            tuple(rarity[word] / total for word in own)
            for own, total in zip(sentences, totals, strict=True)
        ]

    def _directions(self, source: Vectors) -> Array:
        """The direction of gender and those of pairs of one gender, [1 + R, D] at length 1."""
        lexicon = _lexicon()
        words = [word for pair in lexicon["pairs"] for word in pair]
        texts = [lexicon["sentence"].format(word=word) for word in words]
        places = [spots(word, text, "last")[0] for word, text in zip(words, texts, strict=True)]
        vectors = unit(source.span_vectors(places, layer=self.layer, piece=self.pooling))
        sides = vectors.reshape(len(lexicon["pairs"]), 2, -1)
        sides = sides[np.isfinite(sides).all(axis=(1, 2))]
        rng = np.random.default_rng(self.seed)
        own = [gender_direction(sides[:, 0], sides[:, 1])]
        for _ in range(self.nulls):
            first, second = (
                side[rng.permutation(len(side))[: len(side) // 2 * 2]].reshape(-1, 2, side.shape[1])
                for side in (sides[:, 0], sides[:, 1])
            )
            pairs = np.concatenate([first, second])
            own.append(gender_direction(pairs[:, 0], pairs[:, 1]))
        return np.array(own)


def gender_direction(first: Array, second: Array) -> Array:
    """The first principal component of first - second, not centred, towards first: [P, D] to [D].

    Edges:  no pair, or no difference: NaN.
    """
    differences = first - second
    if not differences.any():
        return np.full(first.shape[1], np.nan)
    direction: Array = np.linalg.svd(differences, full_matrices=False)[2][0]
    return direction * (1.0 if (differences @ direction).sum() >= 0 else -1.0)


def sentence_bias(cosines: Array, weights: Array) -> tuple[Array, Array]:
    """Sums over words of weight |cos| and of weight cos, for every direction: [W, R] to [R] twice.

    Edges:  a word without a vector (NaN) passes its weight on to the others; no word, or a
            direction without a length: NaN.
    """
    is_there = np.isfinite(cosines).any(axis=1)
    if not is_there.any():
        return np.full(cosines.shape[1], np.nan), np.full(cosines.shape[1], np.nan)
    if not is_there.all():
        cosines, weights = cosines[is_there], weights[is_there]
        weights = weights / weights.sum()
    return weights @ np.abs(cosines), weights @ cosines


def gender_pairs() -> list[tuple[str, str]]:
    """The pairs that define the direction, the woman's word first."""
    return [(woman, man) for woman, man in _lexicon()["pairs"]]


@cache
def _lexicon() -> dict[str, Any]:
    """Pairs, their sentence, and words that mean a gender."""
    text = (files("trueup.audits.embedding") / "gender_words.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def _left_out() -> frozenset[str]:
    """The words that mean a gender, in lower case."""
    lexicon = _lexicon()
    words = [*lexicon["definitional"], *(word for pair in lexicon["pairs"] for word in pair)]
    return frozenset(word.lower() for word in words)


def _counted_words(text: str) -> tuple[Place, ...]:
    """Where the words stand that do not mean a gender."""
    found = [(text, *match.span()) for match in _WORD.finditer(text)]
    return tuple(place for place in found if _key(place) not in _left_out())


def _key(place: Place) -> str:
    """The word in lower case."""
    text, start, end = place
    return text[start:end].lower()
