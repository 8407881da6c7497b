"""What PORTIA's judge reads and says: two answers part beside part, and the form of a verdict."""

import functools
import json
import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Literal

from trueup.data.messages import Prompt
from trueup.judging.verdicts import Verdict, parsed_verdict, without_reasoning

Answer = Verdict | float | None  # a number: by how much the first shown is better; None: unread
Form = Literal["relation", "score", "likert"]

_NUMBER = r"([-+\N{MINUS SIGN}]?[0-9]+(?:\.[0-9]+)?)"
_SCORES = re.compile(rf"(?:scores:)?\s*a\s*=\s*{_NUMBER}[\s,;]+b\s*=\s*{_NUMBER}\.?", re.IGNORECASE)
_PREFERENCE = re.compile(rf"(?:preference:)?\s*{_NUMBER}\.?", re.IGNORECASE)
_SCALES = {"score": (1.0, 10.0), "likert": (-3.0, 3.0)}  # what portia.toml asks for


def parse_answer(text: str, prompt: str = "", *, form: Form = "relation") -> Answer:
    """What an answer says in the asked form, None where it does not say it.

    A verdict is read as `parsed_verdict` does; scores and preferences stand on the last line, and
    a number off the scale is none.
    """
    if form == "relation":
        return parsed_verdict(text, ties=True, prompt=prompt)
    lines = without_reasoning(text).strip().splitlines()
    line = lines[-1].strip(" \t*_`\"'") if lines else ""
    match = (_SCORES if form == "score" else _PREFERENCE).fullmatch(line)
    if match is None:
        return None
    numbers = [float(number.replace("\N{MINUS SIGN}", "-")) for number in match.groups()]
    low, high = _SCALES[form]
    if not all(low <= number <= high for number in numbers):
        return None
    return numbers[0] - sum(numbers[1:])


def merge_prompt(
    question: Prompt, firsts: Sequence[str], seconds: Sequence[str], form: Form = "relation"
) -> str:
    """The judge's question: the parts of both answers in turn, the first's before the second's.

    The answer shown first is A. Swapping is calling it the other way round: parts and letters.
    Question and parts are quoted as JSON strings, so that none can pass for another line.
    """
    count, texts = len(firsts), _texts()
    lines = [
        texts["opening" if count > 1 else "opening_whole"].strip(),
        "",
        f"Question: {json.dumps(question, ensure_ascii=False)}",
    ]
    for number, pair in enumerate(zip(firsts, seconds, strict=True), start=1):
        place = f", part {number} of {count}" if count > 1 else ""
        lines += [
            f"Answer {letter}{place}: {json.dumps(part, ensure_ascii=False)}"
            for letter, part in zip("AB", pair, strict=True)
        ]
    return "\n".join([*lines, "", texts["instruction"][form].strip()])


@functools.cache
def _texts() -> dict[str, Any]:
    """What portia.toml says."""
    text = files("trueup.judging").joinpath("portia.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
