"""What a judge reads: a question with lettered answers, and where in the text each of them lies."""

import functools
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from trueup.data.messages import Message, Prompt
from trueup.judging.verdicts import LETTERS


@dataclass(frozen=True, kw_only=True)
class JudgeItem:
    """A question whose better or right answer is known.

    Fields: options are the answers in the order in which they are shown, no two alike; answer is
            the place of the right one; is_fact asks for the correct answer, else for the better
            one; subject is told in bandwagon's survey; system stands before the prompt.
    """

    question: str
    options: tuple[str, ...]
    answer: int
    is_fact: bool = False
    subject: str = ""
    system: str = ""

    @property
    def letters(self) -> str:
        """The letters of the options."""
        return LETTERS[: len(self.options)]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A judge's prompt with its places: where each answer's line starts and its text ends.

    Fields: starts and ends are by answer, ends just before the closing quote; close is the end of
            the last answer's line.
    """

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    close: int


@functools.cache
def texts(section: str) -> dict[str, Any]:
    """The wordings of one section of `judge_prompts.toml`."""
    text = files("trueup.judging").joinpath("judge_prompts.toml").read_text(encoding="utf-8")
    found: dict[str, Any] = tomllib.loads(text)[section]
    return found


def laid_out(question: Prompt, options: Sequence[str], request: str, *, head: str = "") -> Layout:
    """The prompt: head, the question, a line per answer, an empty line, and the request.

    Question and answers are quoted as JSON strings, so that none can pass for another line.
    """
    words = texts("ask")
    text = f"{head}{words['question']}{json.dumps(question, ensure_ascii=False)}"
    starts, ends = [], []
    for letter, option in zip(LETTERS, options, strict=False):
        text += "\n"
        starts.append(len(text))
        text += words["answer"].format(letter=letter) + json.dumps(option, ensure_ascii=False)
        ends.append(len(text) - 1)
    close = len(text)
    return Layout(text=f"{text}\n\n{request}", starts=tuple(starts), ends=tuple(ends), close=close)


def control(item: JudgeItem) -> Layout:
    """The prompt of an item without any cue."""
    words = texts("ask")
    asked: str = words["correct" if item.is_fact else "better"]
    listed = ", ".join(item.letters[:-1]) + f" or {item.letters[-1]}"
    return laid_out(
        item.question, item.options, asked + words["letter_only"].format(letters=listed)
    )


def messages(text: str, system: str = "") -> list[Message]:
    """A judge's prompt as chat messages."""
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": text}]


def pair_question(
    prompt: Prompt, first: str, second: str, *, criterion: str, ties: bool
) -> list[Message]:
    """Which of two completions is better, as chat messages."""
    words = texts("ask")
    letters = words["ties"] if ties else "A or B"
    request = criterion + words["letter_only"].format(letters=letters)
    head = words["quoted"] + "\n\n"
    return messages(laid_out(prompt, (first, second), request, head=head).text)


def grade_question(
    prompt: Prompt, completion: str, *, criterion: str, low: float, high: float
) -> list[Message]:
    """How good a completion is on a scale, as chat messages."""
    words = texts("ask")
    request = criterion + words["number_only"].format(low=f"{low:g}", high=f"{high:g}")
    lines = [
        words["quoted"],
        "",
        words["question"] + json.dumps(prompt, ensure_ascii=False),
        words["completion"] + json.dumps(completion, ensure_ascii=False),
        "",
        request,
    ]
    return messages("\n".join(lines))
