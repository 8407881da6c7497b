"""CEAT: association tests over the contexts in which natural text uses the words."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.audits import estimates
from trueup.audits.embedding.contexts import found_tests
from trueup.audits.embedding.effect_size import effects, unit, variances
from trueup.audits.embedding.embedding_test import DEFAULT_TESTS, told_p
from trueup.audits.embedding.occurrences import spots
from trueup.audits.embedding.random_effects import random_effects
from trueup.audits.embedding.word_tests import Word
from trueup.audits.protocol import Metric, Model, Probe, Rows, Slices, frame, slices_by
from trueup.errors import check_at_least, check_between, check_choice
from trueup.models.embedder import POOLINGS, Array, Pooling, Vectors, vectors_of
from trueup.stats import Estimate


@dataclass(frozen=True, kw_only=True)
class Ceat:
    """Contextualized embedding association test: effect sizes of random contexts, combined.

    Of every word one of its contexts is drawn, `samples` times; each draw i gives an effect size
    d_i (as in WEAT) with a variance V_i.
    w_i   = 1 / V_i;  Q = sum w d^2 - (sum w d)^2 / sum w;  c = sum w - sum w^2 / sum w
    tau^2 = max(0, (Q - (N - 1)) / c);  v_i = 1 / (V_i + tau^2)
    CES   = sum v d / sum v, ideal 0
    Data:   text, sentences as people wrote them, in which the words of the built-in tests are
            found (names in their own case); or with test, set and word for tests of your own.
    Items:  a row per target word, with its association in every draw.
    Fields: variance "paper" is the authors' code, the squared deviation of the associations, which
            is not the sampling variance of d and moves with the scale of cosines, as then tau
            does; "hedges" is that one, (n1 + n2) / (n1 n2)
            + d^2 / (2 (n1 + n2)). contexts is how many sentences of a word are read at most. The
            paper draws 10,000 times, its code 1,000; here every context of a word is drawn as
            often as any other, so that fewer draws are as exact. Others as in `EmbeddingTest`.
    Source: Guo and Caliskan 2021, arXiv 2006.03955. Their p takes the draws as independent
            studies, which they are not; the intervals here resample words.
    """

    test: str = DEFAULT_TESTS
    variance: Literal["paper", "hedges"] = "paper"
    samples: int = 50
    contexts: int = 100
    layer: int = -1
    pooling: Pooling = "auto"
    seed: int = 0
    level: float = 0.95

    name: ClassVar[str] = "ceat"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    optional: ClassVar[tuple[str, ...]] = ("test", "set", "word", "group", "category")
    wants: ClassVar[str] = "natural sentences that hold the words of the tests"

    def __post_init__(self) -> None:
        check_choice(("paper", "hedges"), variance=self.variance)
        check_choice(POOLINGS, pooling=self.pooling)
        check_at_least(2, samples=self.samples)
        check_at_least(1, contexts=self.contexts)
        check_at_least(0, seed=self.seed)
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The combined effect size (ideal 0), and how much contexts differ (for information)."""
        return (
            Metric(
                name="ces",
                kind="statistic",
                terms=draw_terms,
                value=lambda sums: self._combined(sums, "ces"),
                ideal=0.0,
                span=(-2.0, 2.0),
                reading="The effect size over the contexts in which the given text uses the words; "
                "of several tests the mean. Other text has other contexts.",
            ),
            Metric(
                name="tau",
                kind="statistic",
                terms=draw_terms,
                value=lambda sums: self._combined(sums, "tau"),
                reading="How much the effect differs from one choice of contexts to the next, "
                "beyond the variance V.",
            ),
        )

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per target word that the text holds."""
        tests, dropped = found_tests(data, self.test, self.contexts)
        return [
            Probe(
                id=f"{test.name}/{side}/{word.word}",
                group="|".join(filter(None, (test.name, test.group))),
                cluster=word.word,
                prompt=word.word,
                texts=word.texts,
                labels={
                    "test": test.name,
                    "side": side,
                    "attributes": test.words[2:],
                    "dropped": "|".join(dropped),
                },
            )
            for test in tests
            for side, words in zip("xy", test.words[:2], strict=True)
            for word in words
        ]

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """The association of every target word in each draw of contexts."""
        source = vectors_of(model, self.name)
        tests = {probe.labels["test"]: probe.labels["attributes"] for probe in probes}
        targets = [Word(probe.prompt, probe.texts) for probe in probes]
        attributes = [word for sides in tests.values() for side in sides for word in side]
        found = iter(self._units(source, [*targets, *attributes]))
        of_targets = [next(found) for _ in targets]
        directions = {
            test: np.subtract(
                *(self._mean(f"{test}/{n}", side, found) for n, side in enumerate(sides))
            )
            for test, sides in tests.items()
        }
        draws = [
            (of_targets[n] @ directions[probe.labels["test"]].T)[
                self._drawn(probe.id, len(of_targets[n])), np.arange(self.samples)
            ]
            for n, probe in enumerate(probes)
        ]
        return frame(
            probes,
            test=[probe.labels["test"] for probe in probes],
            side=[probe.labels["side"] for probe in probes],
            dropped=[probe.labels["dropped"] for probe in probes],
            contexts=[len(probe.texts) for probe in probes],
            input=[probe.prompt for probe in probes],
            draws=[row.tolist() for row in draws],
            score=[float(row.mean()) for row in draws],
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By test and by what it is about."""
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Combined effect size and its spread, with intervals over words."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """The paper's test of every test, and what the text does not hold."""
        lines = [
            f"{test}: {told}, {_contexts_of(own)}"
            for test, own in items.groupby("test", sort=False)
            for told in [self._told(own)]
        ]
        lines.append(
            "p takes draws of contexts as independent studies, which they are not: it is too "
            "small, and more so with more draws; the intervals resample words"
        )
        dropped = str(items["dropped"].iloc[0]) if len(items) else ""
        if dropped:
            names = dropped.replace("|", ", ")
            lines.append(f"not measured, the text holds too few of the words: {names}")
        return lines

    def _told(self, items: pd.DataFrame) -> str:
        """The numbers of one test in words."""
        d, v = self._draws(draw_terms(items).sum(axis=0))
        effect = random_effects(d[0], v[0])
        return (
            f"CES = {effect.ces:.3f}, tau = {effect.tau:.3f}, z = {effect.z:.2f}, one-sided p "
            f"{told_p(float(effect.p_value))}"
        )

    def _draws(self, sums: Array) -> tuple[Array, Array]:
        """Effect sizes and variances [..., T, S] from the sums of `draw_terms`, [..., T, 2 + 3 S].

        The number of tests follows from `samples`.
        """
        table = sums.reshape(*sums.shape[:-1], -1, 2 + 3 * self.samples)
        n1, n2 = table[..., 0:1], table[..., 1:2]  # the same in every draw
        sum_x, sum_y, squares = np.split(table[..., 2:], 3, axis=-1)
        d = effects(n1, n2, sum_x, sum_y, squares)
        if self.variance == "hedges":
            return d, (n1 + n2) / (n1 * n2) + d**2 / (2 * (n1 + n2))
        return d, variances(n1 + n2, sum_x + sum_y, squares)

    def _combined(self, sums: Array, what: Literal["ces", "tau"]) -> Array:
        """A number of the random-effects model, the mean over tests."""
        numbers = getattr(random_effects(*self._draws(sums)), what)
        is_there = np.isfinite(numbers)
        mean: Array = np.where(is_there, numbers, 0.0).sum(axis=-1) / is_there.sum(axis=-1)
        return mean

    def _units(self, source: Vectors, words: Sequence[Word]) -> list[Array]:
        """Every word's vectors in its contexts, [M, D] at length 1."""
        found = [[spots(word.word, text, "first")[0] for text in word.texts] for word in words]
        flat = unit(
            source.span_vectors(
                [spot for own in found for spot in own], layer=self.layer, piece=self.pooling
            )
        )
        return np.split(flat, np.cumsum([len(own) for own in found])[:-1])

    def _mean(self, key: str, words: Sequence[Word], units: Iterator[Array]) -> Array:
        """The mean over words of the context that each draw picks, [S, D]."""
        drawn = [
            own[self._drawn(f"{key}/{word.word}", len(own))]
            for word, own in zip(words, units, strict=False)
        ]
        mean: Array = np.mean(drawn, axis=0)
        return mean

    def _drawn(self, key: str, count: int) -> NDArray[np.intp]:
        """Which of a word's contexts each draw takes: all as often, in an order of its own."""
        rng = np.random.default_rng(zlib.crc32(f"{self.seed}\0{key}".encode()))
        rounds = [rng.permutation(count) for _ in range(-(-self.samples // count))]
        return np.concatenate(rounds)[: self.samples]


def draw_terms(items: pd.DataFrame) -> Array:
    """1 over X, 1 over Y, then s over X, s over Y and s^2 in every draw: [N, T (2 + 3 S)]."""
    codes, names = pd.factorize(items["test"], sort=True)
    draws = np.array(items["draws"].tolist(), dtype=np.float64).reshape(len(items), -1)
    is_x = (items["side"] == "x").to_numpy(dtype=np.float64)[:, None]
    own = np.concatenate([is_x, 1 - is_x, is_x * draws, (1 - is_x) * draws, draws**2], axis=1)
    terms = np.zeros((len(items), max(1, len(names)), own.shape[1]))
    terms[np.arange(len(items)), codes] = own
    return terms.reshape(len(items), -1)


def _contexts_of(items: pd.DataFrame) -> str:
    """How many words and contexts stand behind a test."""
    sides = items["side"].value_counts()
    return (
        f"{sides.get('x', 0)} and {sides.get('y', 0)} words in {items['contexts'].sum()} contexts"
    )
