"""What a judge's text says: a letter, a verdict or a grade, or nothing that could be counted."""

import math
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["first", "second", "tie"]

LETTERS = "ABCDEFGHIJ"
TIE_LETTER = "C"  # what a judge of two answers says for "equally good", where that is allowed

_MIRRORED: dict[Verdict, Verdict] = {"first": "second", "second": "first", "tie": "tie"}
_POINTS: dict[Verdict | None, float] = {"first": 1.0, "second": 0.0, "tie": 0.5, None: math.nan}

_END_OF_REASONING = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_OPEN_REASONING = re.compile(r"<think(?:ing)?>.*\Z", re.IGNORECASE | re.DOTALL)
_CLAUSE_END = re.compile(r"[.;!?,\n]|\bbut\b", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:not|never|neither|nor|cannot)\b|n['\u2019]t\b", re.IGNORECASE)

_OPEN = r"[\s*_`\"'(\[{]*"
_NOUN = r"(?:the\s+)?(?:(?:answer|option|choice|response|letter)\b\s*)?"
# One capital that stands alone: no word, no "A or B", and no "I" that begins a clause.
_LETTER = (
    r"(?<![\w'\u2019/-])(?P<letter>[A-Z])(?![\w'\u2019/-])"
    r"(?!\W*(?:\bor\b|\band\b|[/&])\W*[A-Z]\b)(?!(?<=I)\s+[a-z])"
)
_PRAISE = (
    r"(?:better|best|correct|right|good|preferable|superior|stronger|true"
    r"|more\s+(?:accurate|appropriate|complete|convincing|correct|helpful|honest|useful))\b"
)
_STATEMENTS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        # the answer is B; my verdict: B
        r"(?i:\b(?:answer|choice|option|pick|verdict|winner|decision|conclusion|preference"
        r"|judgment|judgement|response)\s*(?:\bis\b|\bwould\s+be\b|\bshould\s+be\b|\bmust\s+be\b"
        rf"|\bremains\b|:|=)\s*(?:(?:still|clearly|therefore|thus)\s+)?{_OPEN}{_NOUN}){_OPEN}{_LETTER}",
        # B is the better one; B wins
        rf"{_LETTER}[\s*_`\"')\]}}]*(?i:\s(?:is|was|seems|looks|remains)\s+"
        rf"(?:(?:the|a|an|clearly|much|slightly|still)\s+)*{_PRAISE}|\swins\b)",
        # I choose B
        r"(?i:\b(?:choose|chose|pick|select|prefer|favou?r|go\s+with|vote\s+for)\s+"
        rf"{_OPEN}{_NOUN}){_OPEN}{_LETTER}",
        # ..., so B (at the end of a line)
        rf"(?i:\b(?:so|thus|therefore|hence|finally)\b[\s,:]*{_NOUN}){_OPEN}{_LETTER}\W*$",
        # a line of its own
        rf"^\W*(?i:{_NOUN}){_OPEN}{_LETTER}[^\w\n]*$",
        # [[B]], \boxed{B}, **B**
        r"(?:\[\[|\\boxed\{(?:\\text\{)?|\*\*)(?P<letter>[A-Z])(?:\]\]|\}|\*\*)",
    )
)
_LED_LINE = re.compile(
    rf"^{_OPEN}(?i:{_NOUN})(?P<letter>[A-Z])[*_`\"')\]}}]*(?:,|[).:](?!\s*[a-z]))", re.MULTILINE
)
_TIE_LINE = re.compile(r"^\W*(?:it is |it's )?(?:a )?tie\W*$", re.IGNORECASE)

_NUMBER = r"(?P<number>-?\d+(?:\.\d+)?)"
_GRADES = tuple(
    re.compile(pattern, re.MULTILINE | re.IGNORECASE)
    for pattern in (
        rf"\b(?:score|rating|grade|mark)\s*(?:\bis\b|\bof\b|:|=)\s*{_OPEN}{_NUMBER}\b",
        rf"\[\[{_NUMBER}\]\]",
        rf"^[^\w\n-]*{_NUMBER}\s*(?:/\s*\d+(?:\.\d+)?)?[^\w\n]*$",
        rf"(?<![\w.]){_NUMBER}\s*(?:/|\bout\s+of\b)\s*\d+",
    )
)
_OUT_OF = re.compile(r"\W*?(?:/|\bout\s+of\b)\s*(?P<most>\d+(?:\.\d+)?)", re.IGNORECASE)


def without_reasoning(text: str) -> str:
    """The text after the reasoning; nothing where the reasoning was cut before its end."""
    return _OPEN_REASONING.sub("", _END_OF_REASONING.split(text)[-1])


def parsed_letter(answer: str, letters: str = "AB", *, prompt: str = "") -> str | None:
    """The letter of the last explicit statement after the reasoning; None where there is none.

    Explicit is "The answer is B", "B is better", "I choose B", "so B" at a line's end, [[B]],
    **B**, a boxed B, a line that holds B alone; without any of them, one answer that is quoted
    with its letter in front.
    Capitals only; a denied statement ("I don't think A is better") and "A or B" say nothing.
    Fields: letters are those that may be given; lines that stand in the prompt are not read,
            unless they quote one single answer.
    Edges:  a last statement of another letter is None: nothing is guessed from what came before.
    """
    said = _own_lines(without_reasoning(answer), prompt)
    found = [
        (match.end("letter"), match["letter"])
        for pattern in _STATEMENTS
        for match in pattern.finditer(said)
        if not _is_denied(said, match.start("letter"))
    ]
    found = found or _quoted_answer(said)
    last = max(found)[1] if found else None
    return last if last is not None and last in letters else None


def parsed_verdict(answer: str, *, ties: bool = False, prompt: str = "") -> Verdict | None:
    """The verdict of an answer to a question of two: A is "first", B "second", C a tie."""
    said = without_reasoning(answer).strip()
    if ties and _TIE_LINE.match(said.splitlines()[-1] if said else ""):
        return "tie"
    letter = parsed_letter(answer, "ABC" if ties else "AB", prompt=prompt)
    verdicts: dict[str | None, Verdict] = {"A": "first", "B": "second", TIE_LETTER: "tie"}
    return verdicts.get(letter)


def parsed_grade(answer: str, low: float, high: float) -> float | None:
    """The last explicit number after the reasoning: "score: 7", [[7]], 7/10, or a line of its own.

    Edges: None without one, for one off the scale, and for one out of another scale (7/10 of 5).
    """
    said = without_reasoning(answer)
    found = [
        (match.start("number"), match["number"], match.end("number"))
        for pattern in _GRADES
        for match in pattern.finditer(said)
    ]
    if not found:
        return None
    _, number, end = max(found)
    scale = _OUT_OF.match(said, end)
    if scale is not None and float(scale["most"]) != high:
        return None
    return float(number) if low <= float(number) <= high else None


def mirrored(verdict: Verdict | None) -> Verdict | None:
    """What a verdict on two answers says of them in the other order."""
    return None if verdict is None else _MIRRORED[verdict]


def points(verdicts: Sequence[Verdict | None]) -> NDArray[np.float64]:
    """What the first answers win, [N]: 1, a tie 0.5, 0, and NaN where nothing could be read."""
    return np.array([_POINTS[verdict] for verdict in verdicts], dtype=np.float64)


def _own_lines(said: str, prompt: str) -> str:
    """The lines that are no echo of the prompt; all where they quote one single answer of it."""
    asked = {line.strip() for line in prompt.splitlines() if len(line.strip()) > 1}
    lines = said.splitlines()
    quoted = {
        match["letter"]
        for line in lines
        if line.strip() in asked
        for match in _LED_LINE.finditer(line)
    }
    if len(quoted) == 1 and all(line.strip() in asked or not line.strip() for line in lines):
        return said
    return "\n".join(line for line in lines if line.strip() not in asked)


def _quoted_answer(said: str) -> list[tuple[int, str]]:
    """The letter that begins lines ("B) ..."), where it is one; several list the answers."""
    found = [(match.end("letter"), match["letter"]) for match in _LED_LINE.finditer(said)]
    return found[-1:] if len({letter for _, letter in found}) == 1 else []


def _is_denied(said: str, place: int) -> bool:
    """Whether a negation stands before the place in its clause."""
    ends = [match.end() for match in _CLAUSE_END.finditer(said, 0, place)]
    return _NEGATION.search(said, ends[-1] if ends else 0, place) is not None
