"""From a row of data to a question whose right answer is known."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from trueup.errors import UserError
from trueup.judging.judge_prompts import JudgeItem
from trueup.judging.verdicts import LETTERS


def item_of(row: Mapping[str, Any], place: str, rng: random.Random) -> JudgeItem:
    """The question of a row: chosen and rejected in a drawn order, or options as they stand.

    Fields: place is where the row stood, for an error; options are a list, a list as JSON, or texts
            joined by "|"; answer is a letter or the text of the right option.
    Raises: UserError where the row lacks answers, or a right one, or has two that are alike.
    """
    is_pair = [bool(row.get(column)) for column in ("chosen", "rejected")]
    is_fact = [row.get(column) not in (None, "") for column in ("options", "answer")]
    if all(is_pair) == all(is_fact):
        raise UserError(
            f"{place}: a question needs 'chosen' and 'rejected', or 'options' and 'answer'; give "
            "one of the two"
        )
    options = [str(row["chosen"]), str(row["rejected"])] if all(is_pair) else _options(row, place)
    right = options[0] if all(is_pair) else options[_answer(row, options, place)]
    if all(is_pair):
        rng.shuffle(options)
    if len(set(options)) < len(options):
        raise UserError(f"{place}: two answers are alike, got {options!r:.80}; they must differ")
    return JudgeItem(
        question=str(row["question"]),
        options=tuple(options),
        answer=options.index(right),
        is_fact=all(is_fact),
        subject=str(row.get("subject") or ""),
        system=str(row.get("system") or ""),
    )


def _options(row: Mapping[str, Any], place: str) -> list[str]:
    """The options of a row as a list."""
    given = row["options"]
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.lstrip().startswith("[") else given.split("|")
        except ValueError as error:
            raise UserError(f"{place}: 'options' is not valid JSON, got {given[:60]!r}") from error
    options = [str(option).strip() for option in given]
    if not 2 <= len(options) <= len(LETTERS):
        raise UserError(
            f"{place}: 'options' must hold 2 to {len(LETTERS)} answers, got {len(options)}"
        )
    return options


def _answer(row: Mapping[str, Any], options: Sequence[str], place: str) -> int:
    """The place of the right option, which a letter or its text names."""
    answer = str(row["answer"]).strip()
    letters = LETTERS[: len(options)]
    by_letter = [letters.index(answer)] if len(answer) == 1 and answer in letters else []
    named = {*by_letter, *(place for place, text in enumerate(options) if text == answer)}
    if len(named) != 1:
        raise UserError(
            f"{place}: 'answer' must be one of {', '.join(letters)} or an option's text, "
            f"got {answer!r:.60}"
        )
    return named.pop()
