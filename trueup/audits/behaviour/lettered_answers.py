"""What a model answers to lettered questions: how much of its answer goes to each letter."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from trueup.errors import check_at_least, check_between, check_choice
from trueup.judging.asking import asker, letter_logps
from trueup.judging.judge_prompts import messages
from trueup.judging.verdicts import parsed_letter
from trueup.stats.estimate import Array

Read = Literal["letters", "text"]


class Answering(Protocol):
    """How answers are read; the fields of an audit that asks lettered questions."""

    @property
    def read(self) -> Read:
        """By the letters' probabilities, or from the written answer."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Tokens of a written answer at most."""
        ...

    @property
    def temperature(self) -> float:
        """Of a written answer; 0 is greedy."""
        ...

    @property
    def seed(self) -> int:
        """Of written answers above temperature 0."""
        ...

    @property
    def level(self) -> float:
        """The intervals' coverage."""
        ...


def check_answering(how: Answering) -> None:
    """Raise UserError where a field leaves its range."""
    check_choice(("letters", "text"), read=how.read)
    check_at_least(1, max_new_tokens=how.max_new_tokens)
    check_at_least(0, temperature=how.temperature)
    check_between(0.01, 0.999, level=how.level)


def letter_masses(
    model: Any, questions: Sequence[str], letters: Sequence[str], how: Answering, user: str
) -> list[Array]:
    """The mass of each letter in the answer to each question, an array [K] per question.

    By letters the masses are probabilities of the answer's beginning, and what they lack of 1 goes
    to other words. A written answer gives 1 to its letter; one without a letter gives none.
    Questions that are alike are asked once.
    Raises: UserError where the model gives no log-probabilities, or does not write.
    """
    keys = list(zip(questions, letters, strict=True))
    distinct = list(dict.fromkeys(keys))
    asked = [question for question, _ in distinct]
    known = [own for _, own in distinct]
    if how.read == "text":
        found = _written(model, asked, known, how, user)
    else:
        prompts = [messages(text) for text in asked]
        logps = letter_logps(model, prompts, known, instead="set read=text")
        found = [np.exp(part) for part in logps]
    masses = dict(zip(distinct, found, strict=True))
    return [masses[key] for key in keys]


def _written(
    model: Any, asked: Sequence[str], letters: Sequence[str], how: Answering, user: str
) -> list[Array]:
    """A one at the letter that the answer states."""
    ask = asker(
        model,
        user=user,
        max_new_tokens=how.max_new_tokens,
        temperature=how.temperature,
        seed=how.seed,
    )
    answers = ask([messages(text) for text in asked])
    said = [
        parsed_letter(answer, own, prompt=text)
        for answer, own, text in zip(answers, letters, asked, strict=True)
    ]
    return [
        np.array([float(letter == one) for letter in own])
        for one, own in zip(said, letters, strict=True)
    ]
