"""Sentences of an answer: where it may be cut so that nothing that belongs together is torn."""

import functools
import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib.resources import files

FENCES = ("```", "~~~")
_ITEM = re.compile(r"\s*(?:[-*+\N{BULLET}]|[0-9]{1,3}[.)]|[IVX]{1,4}[.)]|[A-Za-z]\))\s+\S")
_HEADING = re.compile(r" {0,3}#{1,6}\s")
_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)+\|?\s*")
_END = re.compile(
    r"(?P<stop>[.!?\N{HORIZONTAL ELLIPSIS}]+)"
    r"(?P<close>[\"')\]*_\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}]*)\s+"
    r"|[\N{IDEOGRAPHIC FULL STOP}\N{FULLWIDTH EXCLAMATION MARK}\N{FULLWIDTH QUESTION MARK}]+"
    r"[\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT CORNER BRACKET}\N{FULLWIDTH RIGHT PARENTHESIS}]*\s*"
)
_LAST_WORD = re.compile(r"[\w.&-]+\Z")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_NUMBERING = re.compile(r"(?:\A|(?P<before>[\w.&-]*)[:;.!?]\s+)[0-9]{1,2}\Z")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each with the white space behind it: joined they are the text.

    A sentence ends at . ! ? (and their full-width kin) before white space, but not behind an
    abbreviation, an initial or a number that counts ("1."), nor inside a decimal. A fenced code
    block, a table, a list item and a heading are one unit each; a blank line ends whatever stood.
    Edges:  "" has no sentence; white space alone is one.
    Source: our own rules [R]; the words stand in splitting.toml.
    """
    parts: list[str] = []
    for block, is_prose in _blocks(text):
        parts.extend(_sentences(block) if is_prose else [block])
    return parts


def _blocks(text: str) -> Iterator[tuple[str, bool]]:
    """The blocks of a text, each with the blank lines behind it, and whether it is prose."""
    lines = text.splitlines(keepends=True)
    start, before = 0, ""
    while start < len(lines):
        if not lines[start].strip():
            before, start = before + lines[start], start + 1
            continue
        end, is_prose = _block_end(lines, start)
        while end < len(lines) and not lines[end].strip():
            end += 1
        yield before + "".join(lines[start:end]), is_prose
        start, before = end, ""
    if before:
        yield before, False


def _block_end(lines: Sequence[str], start: int) -> tuple[int, bool]:
    """Where the block that begins at a line ends, and whether it is prose."""
    mark = lines[start].lstrip()[:3]
    end = start + 1
    if mark in FENCES:
        while end < len(lines) and not lines[end].lstrip().startswith(mark):
            end += 1
        return min(end + 1, len(lines)), False
    if _HEADING.match(lines[start]):
        return end, False
    if _is_table(lines, start):
        while end < len(lines) and "|" in lines[end]:
            end += 1
        return end, False
    is_item = _ITEM.match(lines[start]) is not None
    while end < len(lines) and lines[end].strip() and not _begins_block(lines, end):
        if is_item and not lines[end][0].isspace():
            break  # a line at the margin is no longer the item's
        end += 1
    return end, not is_item


def _begins_block(lines: Sequence[str], at: int) -> bool:
    """Whether a line breaks off the prose or the list item before it."""
    line = lines[at]
    is_marked = _ITEM.match(line) or _HEADING.match(line) or line.lstrip()[:3] in FENCES
    return bool(is_marked) or _is_table(lines, at)


def _is_table(lines: Sequence[str], at: int) -> bool:
    """Whether a table begins at a line: a bar first, or a rule of bars and dashes below."""
    has_rule = at + 1 < len(lines) and _RULE.fullmatch(lines[at + 1].rstrip()) is not None
    return lines[at].lstrip().startswith("|") or (has_rule and "|" in lines[at])


def _sentences(prose: str) -> list[str]:
    """The sentences of a block of prose."""
    ends = [match.end() for match in _END.finditer(prose) if _ends_sentence(prose, match)]
    starts = [0, *(end for end in ends if end < len(prose))]
    return [prose[start:end] for start, end in zip(starts, [*starts[1:], len(prose)], strict=True)]


def _ends_sentence(prose: str, match: "re.Match[str]") -> bool:
    """Whether a stop with white space behind it ends its sentence."""
    stop, follows = match["stop"], prose[match.end() : match.end() + 1]
    if stop is None or not follows:
        return True
    if follows.islower() and (len(stop) > 1 or match["close"]):
        return False  # "Really?" she said; well... maybe
    if stop != ".":
        return True
    head = prose[max(0, match.start() - 40) : match.start()]
    found = _LAST_WORD.search(head)
    word = found.group() if found else ""
    counts = _NUMBERING.search(head)
    if counts and not _is_abbreviation((counts["before"] or "").lower(), word):
        return False
    if _INITIALS.fullmatch(word) and word != "I":
        return False
    return not _is_abbreviation(word.lower(), follows)


def _is_abbreviation(word: str, follows: str) -> bool:
    """Whether a full stop behind a word belongs to the word, given what follows."""
    known = _abbreviations()
    return (
        word in known["always"]
        or (follows.isdigit() and word in known["before_number"])
        or (follows.islower() and word in known["before_lower"])
    )


@functools.cache
def _abbreviations() -> dict[str, frozenset[str]]:
    """The words of splitting.toml."""
    text = files("trueup.judging").joinpath("splitting.toml").read_text(encoding="utf-8")
    return {kind: frozenset(words) for kind, words in tomllib.loads(text).items()}
