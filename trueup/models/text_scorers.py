"""Scorers of text: anything that gives each completion a number in [0, 1], or shares of classes."""

import functools
import importlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from trueup.errors import UserError
from trueup.models.reward import (
    BATCH,
    ClassifierReward,
    Lexicon,
    load_reward,
    reward_identity,
    rewards_of,
)

POLARITIES = ("positive", "negative", "neutral")
THRESHOLD = 0.05  # of VADER's compound: from it on positive, from its negative on negative
NEAR = 1e-6  # a share that leaves [0, 1] by rounding is taken back


class Scorer(Protocol):
    """A callable over batches: prompts and completions as text, a number in [0, 1] each, [N].

    A classifier of several classes gives [N, C] instead, and names them in `labels`, or gives N
    mappings from names to shares.
    """

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], /) -> Sequence[Any]:
        """The scores of the completions."""
        ...


def load_scorer(source: str, *, device: str = "auto") -> Scorer:
    """A scorer of one number by what the user calls it.

    vader            positive sentiment, (compound + 1) / 2, by the sentiment lexicon VADER
    vader-negative   the negative share of the text's sentiment, by the same lexicon
    lexicon:FILE     hits of the file's words (one a line), divided by the words of the text
    FILE.py:FUNCTION a Python function (prompts, completions) -> list of numbers
    MODEL#LABEL      a sequence classifier, folder or hub id: its probability of that label; the
                     completion is read without its prompt
    Raises: UserError where it names nothing that can be loaded.
    Source: Hutto and Gilbert 2014 (VADER), of which `neg` and `compound` are the package's own.
    """
    if source in ("vader", "vader-negative"):
        return Vader("compound" if source == "vader" else "neg")
    kind, _, rest = source.partition(":")
    if kind == "lexicon":
        return HitShare(Lexicon.read(Path(rest)))
    if kind.endswith(".py"):
        return cast(Scorer, load_reward(source))
    model, mark, label = source.rpartition("#")
    if not mark:
        raise UserError(
            f"scorer {source!r} names no label; give MODEL#LABEL, vader, vader-negative, "
            "lexicon:FILE or FILE.py:FUNCTION"
        )
    return LabelShare(Classifier(model, device=device), label)


def load_class_scorer(source: str, *, device: str = "auto") -> Scorer:
    """A scorer of several classes by what the user calls it.

    vader            one of positive, negative, neutral: compound >= 0.05, <= -0.05, or between
    FILE.py:FUNCTION a Python function (prompts, completions) -> a mapping of shares for each
    MODEL            a sequence classifier, folder or hub id, with the labels of its configuration
    Raises: UserError where it names nothing that can be loaded.
    """
    if source == "vader":
        return VaderClasses()
    if source.partition(":")[0].endswith(".py"):
        return cast(Scorer, load_reward(source))
    return Classifier(source, device=device)


def scorer_of(given: "str | Scorer", load: Callable[[str], Scorer] = load_scorer) -> Scorer:
    """The scorer itself, or the one that the text names, loaded once as long as its file stays."""
    return _kept(load, given, _stamp(given)) if isinstance(given, str) else given


def scores_of(
    scorer: Scorer, prompts: Sequence[str], completions: Sequence[str]
) -> NDArray[np.float64]:
    """A number in [0, 1] for every completion, [N]; NaN where the scorer gives none.

    Raises: UserError where it gave something else, or failed.
    """
    numbers = np.array(rewards_of(scorer, prompts, completions), dtype=np.float64)
    return _in_range(numbers, scorer)


def class_scores_of(
    scorer: Scorer, prompts: Sequence[str], completions: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """The share [N] of every class, by the class's name in lower case.

    Raises: UserError where the scorer gave no numbers in [0, 1], or classes that differ.
    """
    name = reward_identity(scorer).split()[0]
    rows = scorer(prompts, completions)
    if len(rows) != len(completions):
        raise UserError(f"scorer {name}: gave {len(rows)} rows for {len(completions)} completions")
    labels = list(getattr(scorer, "labels", ()))
    if all(isinstance(row, Mapping) for row in rows):
        labels = list(rows[0]) if len(rows) else labels
        if any(set(row) != set(labels) for row in rows):
            raise UserError(f"scorer {name}: rows differ in their classes; give all in every row")
        rows = [[row[label] for label in labels] for row in rows]
    try:
        table = np.asarray(rows, dtype=np.float64).reshape(len(rows), len(labels))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"scorer {name}: gave {rows[0]!r:.60}; it must give a mapping from class to share, or "
            "a list of shares beside its `labels`"
        ) from error
    table = _in_range(table, scorer)
    return {str(label).lower(): table[:, place] for place, label in enumerate(labels)}


class Vader:
    """One of VADER's numbers of each completion: "compound" taken to [0, 1], or the share "neg"."""

    def __init__(self, number: str) -> None:
        self.number = number
        self.identity = f"VADER {_version()} {number}"

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The number for every completion; an empty one has no sentiment: compound 0."""
        numbers = [_polarity(text)[self.number] for text in completions]
        return [(n + 1) / 2 for n in numbers] if self.number == "compound" else numbers


class VaderClasses:
    """The side of VADER's threshold on which each completion lies: one class has 1."""

    labels = POLARITIES

    def __init__(self) -> None:
        self.identity = f"VADER {_version()} classes"

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[list[float]]:
        """A one and two zeros for every completion."""
        values = [_polarity(text)["compound"] for text in completions]
        sides = [(value >= THRESHOLD, value <= -THRESHOLD) for value in values]
        return [[float(up), float(down), float(not (up or down))] for up, down in sides]


class HitShare:
    """Hits of a word list divided by the number of words, at most 1; a text without words has 0."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.identity = f"share of {lexicon.identity}"

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The share for every completion."""
        hits = self.lexicon(prompts, completions)
        lengths = [len(re.findall(r"\w+", text)) for text in completions]
        return [min(1.0, hit / max(1, n)) for hit, n in zip(hits, lengths, strict=True)]


class Classifier:
    """A sequence classifier's probabilities of its labels, from the completion alone.

    softmax over the logits, or a sigmoid of each where the model says it is of several labels.
    """

    def __init__(self, source: str, *, device: str = "auto") -> None:
        self._judge = ClassifierReward(source, device=device)
        config = self._judge.model.config
        self.labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
        self._is_softmax = config.problem_type != "multi_label_classification"

    @property
    def identity(self) -> str:
        """SHA-256 of weights and tokenizer."""
        return self._judge.identity

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[list[float]]:
        """Probabilities [N, C]; texts of about one length are read together."""
        order = np.argsort([-len(text) for text in completions], kind="stable")
        found = np.empty((len(completions), len(self.labels)))
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            logits = self._logits([completions[index] for index in part])
            shares = logits.softmax(dim=1) if self._is_softmax else logits.sigmoid()
            found[part] = shares.cpu().numpy()
        rows: list[list[float]] = found.tolist()
        return rows

    def _logits(self, texts: Sequence[str]) -> torch.Tensor:
        """Logits [B, C] of one batch."""
        device = next(self._judge.model.parameters()).device
        options: dict[str, Any] = {"return_tensors": "pt", "padding": True, "truncation": True}
        encoded = self._judge.tokenizer(list(texts), **options).to(device)
        logits: torch.Tensor = self._judge.model(**encoded).logits.float()
        return logits


class LabelShare:
    """A classifier's probability of one label."""

    def __init__(self, classifier: Classifier, label: str) -> None:
        if label not in classifier.labels:
            raise UserError(
                f"scorer: the classifier has no label {label!r}; known: "
                f"{', '.join(classifier.labels)}"
            )
        self.classifier = classifier
        self.place = classifier.labels.index(label)
        self.identity = f"{classifier.identity}#{label}"

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The probability for every completion."""
        return [row[self.place] for row in self.classifier(prompts, completions)]


def _in_range(numbers: NDArray[np.float64], scorer: Scorer) -> NDArray[np.float64]:
    """The numbers, cut to [0, 1] where only rounding has left it."""
    wrong = numbers[(numbers < -NEAR) | (numbers > 1 + NEAR)]
    if len(wrong):
        name = reward_identity(scorer).split()[0]
        raise UserError(f"scorer {name}: gave {wrong[0]:g}; scores must lie between 0 and 1")
    return np.clip(numbers, 0, 1)


def _version() -> str:
    """Of VADER's package; UserError where it is not installed."""
    try:
        return importlib.metadata.version("vaderSentiment")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            "scorer 'vader' needs the package vaderSentiment; pip install vaderSentiment, or name "
            "another scorer"
        ) from error


@functools.lru_cache(maxsize=4096)
def _polarity(text: str) -> dict[str, float]:
    """VADER's four numbers of a text."""
    numbers: dict[str, float] = _vader().polarity_scores(text)
    return numbers


@functools.cache
def _vader() -> Any:
    """VADER's analyzer, which reads its lexicon once."""
    return importlib.import_module("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer()


@functools.lru_cache(maxsize=4)
def _kept(load: Callable[[str], Scorer], source: str, stamp: int) -> Scorer:
    """The loaded scorer of a source whose file has this stamp."""
    return load(source)


def _stamp(source: str) -> int:
    """When the source's file was changed last; 0 where it names none."""
    kind, _, rest = source.partition(":")
    path = Path(rest if kind == "lexicon" else kind)
    return path.stat().st_mtime_ns if path.is_file() else 0
