"""Judges: callables over batches that compare two completions, or grade one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import pandas as pd

from trueup.data.messages import Prompt
from trueup.errors import UserError, check_between, check_choice
from trueup.judging.asking import Ask, letter_probabilities
from trueup.judging.judge_prompts import grade_question, pair_question, texts
from trueup.judging.verdicts import (
    Verdict,
    mirrored,
    parsed_grade,
    parsed_verdict,
    points,
)
from trueup.stats import Estimate, mean, proportion
from trueup.stats.estimate import Array

if TYPE_CHECKING:
    from trueup.models.endpoint import Endpoint
    from trueup.models.language_model import LanguageModel

BETTER: str = texts("ask")["better"]
GOOD: str = texts("ask")["good"]

Conflict = Literal["tie", "none"]


class PairJudge(Protocol):
    """Whatever compares two completions of a prompt: a model, a reward, a person, a script."""

    def __call__(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[Verdict | None]:
        """Which completion is better, as they are shown; None where no verdict can be read."""
        ...


class Grader(Protocol):
    """Whatever gives one completion a number on a scale of its own."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """The grades; None where none can be read."""
        ...


@dataclass(frozen=True, kw_only=True)
class TextJudge:
    """A pair judge that asks for a letter and reads it from the answer's text.

    Fields: ask is made by `asker` from a model, or any function from prompts to answers; criterion
            is the question; ties lets the judge call two completions equally good.
    """

    ask: Ask
    criterion: str = BETTER
    ties: bool = False

    def __post_init__(self) -> None:
        _check_criterion(self.criterion)

    def __call__(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[Verdict | None]:
        """The verdicts of one batch of questions."""
        questions: list[Prompt] = [
            pair_question(*each, criterion=self.criterion, ties=self.ties)
            for each in zip(prompts, firsts, seconds, strict=True)
        ]
        return [
            parsed_verdict(answer, ties=self.ties, prompt=asked_text(question))
            for question, answer in zip(questions, self.ask(questions), strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class LetterJudge:
    """A pair judge that weighs the probabilities of the letters A and B; nothing is parsed.

    p = P(A) / (P(A) + P(B)) as the answer's beginning, one forward pass per pair
    Fields: model is a language model, or an endpoint that gives the likeliest tokens; |p - 1/2| of
            at most tie_width is a tie.
    """

    model: "LanguageModel | Endpoint"
    criterion: str = BETTER
    tie_width: float = 0.0

    def __post_init__(self) -> None:
        _check_criterion(self.criterion)
        check_between(0, 0.5, tie_width=self.tie_width)

    def probabilities(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]
    ) -> Array:
        """The probability of the first completion, [N]; NaN where neither letter was likely."""
        questions: list[Prompt] = [
            pair_question(*each, criterion=self.criterion, ties=False)
            for each in zip(prompts, firsts, seconds, strict=True)
        ]
        found = letter_probabilities(self.model, questions, ["AB"] * len(questions))
        return np.array([each[0] for each in found], dtype=np.float64)

    def __call__(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[Verdict | None]:
        """The likelier letter of each pair."""
        return [self._verdict(p) for p in self.probabilities(prompts, firsts, seconds).tolist()]

    def _verdict(self, p: float) -> Verdict | None:
        if np.isnan(p):
            return None
        if abs(p - 0.5) <= self.tie_width:
            return "tie"
        return "first" if p > 0.5 else "second"


@dataclass(frozen=True, kw_only=True)
class TextGrader:
    """A grader that asks for a number from low to high and reads it from the answer's text."""

    ask: Ask
    low: float = 1.0
    high: float = 10.0
    criterion: str = GOOD

    def __post_init__(self) -> None:
        _check_criterion(self.criterion)
        if not self.low < self.high:
            raise UserError(f"low must be below high, got {self.low:g} and {self.high:g}")

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """The grades of one batch."""
        questions: list[Prompt] = [
            grade_question(*each, criterion=self.criterion, low=self.low, high=self.high)
            for each in zip(prompts, completions, strict=True)
        ]
        return [parsed_grade(answer, self.low, self.high) for answer in self.ask(questions)]


def in_both_orders(
    judge: PairJudge,
    prompts: Sequence[Prompt],
    firsts: Sequence[str],
    seconds: Sequence[str],
    *,
    conflict: Conflict = "tie",
) -> pd.DataFrame:
    """Judge every pair in both orders, in one batch; a row per pair.

    Columns: given, the verdict in the given order; swapped, that of the other order in terms of the
             given one; is_consistent, whether the two are the same (None where one is unread);
             decided, the verdict where both agree.
    Fields:  conflict says what two contradicting verdicts decide: a tie, or nothing.
    Edges:   a pair with an unread verdict is undecided.
    """
    check_choice(("tie", "none"), conflict=conflict)
    both = judge([*prompts, *prompts], [*firsts, *seconds], [*seconds, *firsts])
    given, swapped = both[: len(prompts)], [mirrored(one) for one in both[len(prompts) :]]
    pairs = list(zip(given, swapped, strict=True))
    contradiction: Verdict | None = "tie" if conflict == "tie" else None
    columns = {
        "given": given,
        "swapped": swapped,
        "is_consistent": [None if None in pair else pair[0] == pair[1] for pair in pairs],
        "decided": [
            None if None in pair else pair[0] if pair[0] == pair[1] else contradiction
            for pair in pairs
        ],
    }
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


def order_consistency(table: pd.DataFrame, *, level: float = 0.95) -> Estimate:
    """The share of pairs with the same verdict in both orders, from `in_both_orders`."""
    read = table["is_consistent"].dropna()
    return proportion(
        int(read.sum()), len(read), metric="order_consistency", level=level, ideal=1.0
    )


def pick_first(table: pd.DataFrame, *, level: float = 0.95) -> Estimate:
    """How often the answer that is shown first wins, over both orders; 1/2 without preference.

    Edges:  a tie counts one half. Pairs that all have the same number: Wilson's interval, where
            it is 0 or 1.
    """
    given, swapped = points(table["given"].tolist()), points(table["swapped"].tolist())
    shown_first = (given + 1 - swapped) / 2
    read = shown_first[~np.isnan(shown_first)]
    if np.isin(read, (0.0, 1.0)).all():
        return proportion(int(read.sum()), len(read), metric="pick_first", level=level, ideal=0.5)
    return mean(read, metric="pick_first", level=level, ideal=0.5)


def asked_text(question: Prompt) -> str:
    """The text of a question's last turn: what an answer may echo."""
    return question if isinstance(question, str) else question[-1]["content"]


def _check_criterion(criterion: str) -> None:
    """Raise UserError where a judge would not know what to judge by."""
    if not criterion.strip():
        raise UserError(f"criterion must say what is better, got {criterion!r}")
