"""What the embedding association tests share: a row per target word, effect sizes, partitions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from trueup.audits import estimates
from trueup.audits.embedding.effect_size import (
    Partitions,
    effect_of_sums,
    effect_size,
    partition_test,
    unit,
)
from trueup.audits.embedding.word_tests import (
    Word,
    WordTest,
    builtin_rows,
    published_rows,
    word_tests,
)
from trueup.audits.protocol import Metric, Model, Probe, Rows, Slices, frame, slices_by
from trueup.errors import check_at_least, check_between, check_choice
from trueup.models.embedder import POOLINGS, Array, Pooling, Vectors, vectors_of
from trueup.stats import Estimate, adjust, format_p

DEFAULT_TESTS = "gender,race,intersectional"
UNEVEN = 1.5  # times as many tokens a word on one side as on the other are told


@dataclass(frozen=True, kw_only=True)
class EmbeddingTest:
    """The fields and steps of an association test; which vector a word has is its own.

    Data:   none is needed, tests are built in; else a file with targ1, targ2, attr1 and attr2, or
            a table with test, set (one of these four) and word. Optional: text, a sentence with
            the word, a row for each; kind, which built-in sentences fit the word (name, count,
            bare, plural, verb); group, what the test is about; category, what the set is called.
    Items:  a row per target word, or with cluster="none" per sentence.
    Fields: test names tests or groups of tests, several joined by ",", or "all"; level of
            intervals; samples is how many partitions the permutation test has at most; seed draws
            them; layer and pooling as in `Embedder.text_vectors`; cluster="none" takes every
            sentence as independent, as the papers did.
    """

    test: str = DEFAULT_TESTS
    layer: int = -1
    pooling: Pooling = "auto"
    cluster: Literal["word", "none"] = "word"
    samples: int = 100_000
    seed: int = 0
    level: float = 0.95

    name: ClassVar[str] = ""
    columns: ClassVar[tuple[str, ...]] = ("test", "set", "word")
    optional: ClassVar[tuple[str, ...]] = ("text", "kind", "group", "category")
    wants: ClassVar[str] = "an association test"

    def __post_init__(self) -> None:
        check_choice(POOLINGS, pooling=self.pooling)
        check_choice(("word", "none"), cluster=self.cluster)
        check_at_least(2, samples=self.samples)
        check_at_least(0, seed=self.seed)
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Effect size and gap, both 0 of vectors without the association."""
        return (
            Metric(
                name="d",
                kind="statistic",
                terms=effect_terms,
                value=lambda sums: _over_tests(sums, effect_of_sums),
                ideal=0.0,
                span=(-2.0, 2.0),
                reading="How many standard deviations the first targets lie nearer to the first "
                "attributes than the second targets do; of several tests the mean. It compares "
                "these very words: other words, or other sentences, can give another sign.",
            ),
            Metric(
                name="gap",
                kind="statistic",
                terms=effect_terms,
                value=lambda sums: _over_tests(sums, _gap_of_sums),
                ideal=0.0,
                reading="The same difference in cosines. It shrinks where all vectors draw "
                "together, which d does not show.",
            ),
        )

    def builtin(self) -> list[dict[str, Any]]:
        """The built-in tests, for a user who brings none."""
        return builtin_rows()

    def read_own(self, path: Path) -> list[dict[str, Any]] | None:
        """The tests in a published file."""
        return published_rows(path)

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per target word, or per sentence of one."""
        return [probe for test in word_tests(data, self._tests(data)) for probe in self._of(test)]

    def vectors(self, source: Vectors, words: Sequence[Word]) -> list[Array]:
        """The vectors [M, D] of every word, one per sentence; NaN where there is none."""
        raise NotImplementedError

    def spellings(self, word: Word) -> tuple[str, int, int]:
        """Where the word's tokens are counted: a text and its characters."""
        return word.word, 0, len(word.word)

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """The association s of every target word, the mean over its sentences."""
        source = vectors_of(model, self.name)
        targets = [Word(probe.prompt, probe.texts) for probe in probes]
        tests = {probe.labels["test"]: probe.labels["attributes"] for probe in probes}
        attributes = [word for sides in tests.values() for side in sides for word in side]
        found = iter(_units(self.vectors(source, [*targets, *attributes])))
        targets_units = [next(found) for _ in targets]
        directions, lost = {}, {}
        for test, sides in tests.items():
            means = [_mean_of_words([next(found) for _ in side]) for side in sides]
            directions[test] = means[0][0] - means[1][0]
            lost[test] = means[0][1] + means[1][1]
        names = [probe.labels["test"] for probe in probes]
        return frame(
            probes,
            test=names,
            side=[probe.labels["side"] for probe in probes],
            category=[probe.labels["category"] for probe in probes],
            lost_attributes=[lost[test] for test in names],
            pieces=np.array(source.pieces([self.spellings(word) for word in targets]), float),
            input=[word.word for word in targets],
            score=[
                float((units @ directions[test]).mean())
                for units, test in zip(targets_units, names, strict=True)
            ],
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By test and by what it is about."""
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Effect size and gap, with intervals over words."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """The permutation test of every test, adjusted for their number, and what confounds it."""
        tests = {str(test): own for test, own in items.groupby("test", sort=False)}
        results = {test: self._partitions(own) for test, own in tests.items()}
        adjusted = adjust([result.p_value for result in results.values()])
        lines = [
            _told(test, tests[test], result, float(p))
            for (test, result), p in zip(results.items(), adjusted, strict=True)
        ]
        return lines + _intersections(tests) + self._warnings(tests)

    def _tests(self, data: Rows) -> str:
        """The default selection is of the built-in tests; a user's own are all measured."""
        names = {row["test"] for row in data}
        is_own = self.test == DEFAULT_TESTS and not names <= {row["test"] for row in builtin_rows()}
        return "all" if is_own else self.test

    def _of(self, test: WordTest) -> Iterable[Probe]:
        """The probes of one test."""
        attributes = test.words[2:]
        for side, words in zip("xy", test.words[:2], strict=True):
            for word in words:
                texts = [word.texts] if self.cluster == "word" else [(text,) for text in word.texts]
                for number, own in enumerate(texts, start=1):
                    ending = "" if self.cluster == "word" else f"/{number}"
                    yield Probe(
                        id=f"{test.name}/{side}/{word.word}{ending}",
                        group="|".join(filter(None, (test.name, test.group))),
                        cluster=word.word if self.cluster == "word" else "",
                        prompt=word.word,
                        texts=own,
                        labels={
                            "test": test.name,
                            "side": side,
                            "category": test.categories["xy".index(side)],
                            "attributes": attributes,
                        },
                    )

    def _partitions(self, items: pd.DataFrame) -> Partitions:
        """One test's permutation test."""
        rng = np.random.default_rng(self.seed)
        return partition_test(*_sides(items), samples=self.samples, rng=rng)

    def _warnings(self, tests: Mapping[str, pd.DataFrame]) -> list[str]:
        """Words that are missing, names in more pieces, sentences taken as independent."""
        lines = []
        for test, items in tests.items():
            missing = int(items["score"].isna().sum()) + int(items["lost_attributes"].iloc[0])
            if missing:
                lines.append(f"{test}: {missing} words have no vector and are left out")
        pieces = {test: _pieces(items) for test, items in tests.items()}
        told = [
            f"{test} ({x:.1f} and {y:.1f})"
            for test, (x, y) in pieces.items()
            if max(x, y) > UNEVEN * min(x, y)
        ]
        if told:
            lines.append(
                "the targets of one side have more tokens a word than the other's, so that how "
                f"rare a name is may be what the test shows: {', '.join(told)}"
            )
        if self.cluster == "none":
            lines.append(
                "each sentence counts as independent: without any association such a test has "
                "15 to 35 % false alarms instead of 5 %; use cluster=word"
            )
        return lines


def effect_terms(items: pd.DataFrame) -> Array:
    """What `effect_of_sums` adds up for every test, [N, 5 T], tests in sorted order."""
    codes, names = pd.factorize(items["test"], sort=True)
    score = items["score"].to_numpy(dtype=np.float64)
    is_x = (items["side"] == "x").to_numpy(dtype=np.float64)
    own = np.stack([is_x, 1 - is_x, is_x * score, (1 - is_x) * score, score**2], axis=1)
    terms = np.zeros((len(items), max(1, len(names)), 5))
    terms[np.arange(len(items)), codes] = own
    return terms.reshape(len(items), -1)


def _over_tests(sums: Array, value: Any) -> Array:
    """The mean over tests of a value of sums [..., 5 T]; a test without a value does not count."""
    numbers = value(sums.reshape(*sums.shape[:-1], -1, 5))
    is_there = np.isfinite(numbers)
    mean: Array = np.where(is_there, numbers, 0.0).sum(axis=-1) / is_there.sum(axis=-1)
    return mean


def _gap_of_sums(sums: Array) -> Array:
    """mean_X s - mean_Y s."""
    count_x, count_y, sum_x, sum_y, _ = np.moveaxis(sums, -1, 0)
    gap: Array = sum_x / count_x - sum_y / count_y
    return gap


def _units(vectors: Sequence[Array]) -> list[Array]:
    """Every word's vectors at length 1."""
    if not vectors:
        return []
    flat = unit(np.concatenate(vectors))
    return np.split(flat, np.cumsum([len(own) for own in vectors])[:-1])


def _mean_of_words(units: Sequence[Array]) -> tuple[Array, int]:
    """The mean over words of each word's mean, and how many words have none."""
    means = np.array([own.mean(axis=0) for own in units])
    is_there = np.isfinite(means).all(axis=1)
    if not is_there.any():
        return np.full(means.shape[1], np.nan), len(means)
    return means[is_there].mean(axis=0), int((~is_there).sum())


def _sides(items: pd.DataFrame) -> tuple[Array, Array]:
    """The associations of a test's two sets of targets, where there are any."""
    known = items[items["score"].notna()]
    x, y = (known.loc[known["side"] == side, "score"].to_numpy(np.float64) for side in "xy")
    return x, y


def _pieces(items: pd.DataFrame) -> tuple[float, float]:
    """Tokens of a word, the mean over each side."""
    x, y = (float(items.loc[items["side"] == side, "pieces"].mean()) for side in "xy")
    return x, y


def _told(test: str, items: pd.DataFrame, result: Partitions, adjusted: float) -> str:
    """One line on one test."""
    x, y = _sides(items)
    first, second = (items.loc[items["side"] == side, "category"].iloc[0] for side in "xy")
    how = "all" if result.is_exact else "a sample of"
    return (
        f"{test}: {first} ({len(x)}) against {second} ({len(y)}), d = {effect_size(x, y):.3f}, "
        f"one-sided p {told_p(result.p_value)} over {how} {result.tried} partitions, "
        f"{told_p(adjusted)} after Holm"
    )


def told_p(p_value: float) -> str:
    """A p-value with its sign: `= 0.0123`, `< 1e-4`."""
    text = format_p(p_value)
    return text if text.startswith("<") else f"= {text}"


def _intersections(tests: Mapping[str, pd.DataFrame]) -> list[str]:
    """Whether white men against black women is the largest of the five intersectional tests."""
    names = [f"i{number}" for number in range(1, 6)]
    if not set(names) <= tests.keys():
        return []
    effects = {name: effect_size(*_sides(tests[name])) for name in names}
    largest = max(names[:4], key=effects.__getitem__)
    sign = "exceeds" if effects["i5"] > effects[largest] else "does not exceed"
    return [
        f"intersections: i5 (white men against black women) {sign} the largest of the tests along "
        f"one axis, {effects['i5']:.3f} against {effects[largest]:.3f} ({largest})"
    ]
