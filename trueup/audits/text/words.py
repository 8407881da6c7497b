"""Words of a text, and the lists in which audits look for them: persons by group, neutral words."""

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from trueup.data import read
from trueup.errors import UserError, unknown_name
from trueup.stats.estimate import Array

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_ENDING = re.compile(r"(?<=\w)'(?:s|d|m|ll|re|ve)\b")  # of "she's", "the girl's", "he'll"


def words(text: str) -> list[str]:
    """The words of a text in lower case, without what English hangs on them ("she's" is "she").

    A word is letters and digits, with hyphens and apostrophes inside: "non-binary" is one word.
    """
    return _WORD.findall(_ENDING.sub("", text.lower().replace("\u2019", "'")))


def without_accents(text: str) -> str:
    """The text with its letters' accents taken off."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


class Vocabulary:
    """Listed words and phrases, and a text cut into words among which a listed phrase is one."""

    def __init__(self, entries: Iterable[str]) -> None:
        self.entries = frozenset(" ".join(words(entry)) for entry in entries) - {""}
        self._longest = max((entry.count(" ") + 1 for entry in self.entries), default=1)

    def cut(self, text: str) -> list[str]:
        """The words of the text; where several phrases begin with a word, the longest is taken."""
        plain = words(text)
        if self._longest == 1:
            return plain
        found, start = [], 0
        while start < len(plain):
            found.append(self._at(plain, start))
            start += found[-1].count(" ") + 1
        return found

    def _at(self, plain: Sequence[str], start: int) -> str:
        """The longest listed phrase that begins here, else the word."""
        for length in range(min(self._longest, len(plain) - start), 1, -1):
            phrase = " ".join(plain[start : start + length])
            if phrase in self.entries:
                return phrase
        return plain[start]


@dataclass(frozen=True)
class PersonWords:
    """Words that name persons, by group.

    Fields: groups in the order of the list; group_of, the group's number of every word; sizes [G],
            how many words each group has.
    """

    groups: tuple[str, ...]
    group_of: dict[str, int]

    @property
    def sizes(self) -> Array:
        """How many words each group has, [G]."""
        return np.bincount([*self.group_of.values()], minlength=len(self.groups)).astype(float)

    def counts(self, cut: Iterable[str]) -> Array:
        """How often the words of each group stand in a text, [G]."""
        found = [self.group_of[word] for word in cut if word in self.group_of]
        return np.bincount(found, minlength=len(self.groups)).astype(np.float64)


def person_words(source: str) -> PersonWords:
    """The built-in list of this name ("gender"), or a table with the columns word and group.

    Raises: UserError where it is neither, holds one group only, or a word of two groups.
    """
    builtin = _builtin()["persons"]
    if source in builtin:
        return _builtin_persons(source)
    return _persons_in(_existing(source, "persons", builtin), _stamp(source))


def neutral_words(source: str) -> tuple[str, ...]:
    """The built-in list of this name, or a file: a word a line, or a table with the column word."""
    builtin = _builtin()["neutral"]
    if source in builtin:
        return tuple(builtin[source])
    return _neutral_in(_existing(source, "words", builtin), _stamp(source))


def neutral_beside(source: str, persons: PersonWords) -> tuple[str, ...]:
    """The neutral words of `neutral_words` that name no person."""
    return tuple(word for word in neutral_words(source) if word not in persons.group_of)


def listed_words(path: Path) -> list[str]:
    """The words of a .txt file, one a line, or of a table's column "word", each once.

    Raises: UserError where there is none.
    """
    if path.suffix.lower() == ".txt":
        lines = _lines(path)
        found = [line.strip() for line in lines if not line.lstrip().startswith("#")]
    else:
        found = [str(row["word"]) for row in read(path, columns=("word",))]
    kept = list(dict.fromkeys(" ".join(words(word)) for word in found if words(word)))
    if not kept:
        raise UserError(f"{path}: holds no words; write one a line")
    return kept


@cache
def _builtin() -> dict[str, Any]:
    """The built-in lists."""
    return tomllib.loads((files("trueup.audits.text") / "words.toml").read_text(encoding="utf-8"))


def _existing(source: str, field: str, builtin: Iterable[str]) -> Path:
    """The file; UserError with the built-in names where there is none."""
    path = Path(source)
    if not path.is_file():
        raise unknown_name(f"file or list of {field}", source, builtin)
    return path


def _stamp(source: str) -> int:
    """When the file was changed last."""
    return Path(source).stat().st_mtime_ns


@cache
def _builtin_persons(name: str) -> PersonWords:
    """The built-in persons of this name."""
    lists = _builtin()["persons"][name]
    return _grouped(name, [(word, group) for group, own in lists.items() for word in own])


@lru_cache(maxsize=8)
def _neutral_in(path: Path, stamp: int) -> tuple[str, ...]:
    """The words of a file that has this stamp."""
    return tuple(listed_words(path))


@lru_cache(maxsize=8)
def _persons_in(path: Path, stamp: int) -> PersonWords:
    """The persons of a file that has this stamp."""
    rows = read(path, columns=("word", "group"))
    return _grouped(str(path), [(str(row["word"]), str(row["group"])) for row in rows])


def _grouped(place: str, pairs: Sequence[tuple[str, str]]) -> PersonWords:
    """Words and their groups as one object."""
    groups = tuple(dict.fromkeys(group for _, group in pairs))
    if len(groups) < 2:
        raise UserError(f"{place}: persons need two groups or more, got {', '.join(groups)}")
    group_of: dict[str, int] = {}
    for raw, group in pairs:
        word, number = " ".join(words(raw)), groups.index(group)
        if group_of.setdefault(word, number) != number:
            raise UserError(f"{place}: {raw!r} stands in two groups; keep it in one")
    return PersonWords(groups, group_of)


def _lines(path: Path) -> list[str]:
    """The lines of a text file."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error
