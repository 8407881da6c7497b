"""Where a word stands in a sentence."""

import re
from functools import lru_cache
from typing import Literal

from trueup.errors import UserError


def spots(
    word: str, text: str, occurrence: Literal["first", "last", "all"]
) -> list[tuple[str, int, int]]:
    """The text with the characters of the word in it, whole words only.

    The word as it stands, else in other case, else with s or es behind it.
    Raises: UserError where the sentence does not hold the word.
    """
    for pattern in _patterns(word):
        found = [(text, *match.span()) for match in pattern.finditer(text)]
        if found:
            return {"first": found[:1], "last": found[-1:], "all": found}[occurrence]
    raise UserError(f"the word {word!r} does not stand in its sentence, got {text!r}")


@lru_cache(maxsize=4096)
def _patterns(word: str) -> tuple[re.Pattern[str], ...]:
    """The ways in which the word is looked for, the strictest first."""
    start, end = r"(?<!\w)", r"(?!\w)"
    middle = re.escape(word)
    return (
        re.compile(start + middle + end),
        re.compile(start + middle + end, re.IGNORECASE),
        re.compile(start + middle + "(?:s|es)" + end, re.IGNORECASE),
    )
