"""Association tests as rows: those that are built in, published files, and sentences for a word."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from trueup.audits.protocol import Rows, place_of, text_of
from trueup.data import Row
from trueup.errors import UserError, unknown_name

SETS = ("targ1", "targ2", "attr1", "attr2")


@dataclass(frozen=True)
class Word:
    """A word of a test with the sentences in which it is read."""

    word: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class WordTest:
    """Two sets of targets and two of attributes.

    Fields: categories name the four sets, words hold them, both in the order of `SETS`; group is
            what the test is about ("gender"), "" where nobody says.
    """

    name: str
    group: str
    categories: tuple[str, ...]
    words: tuple[tuple[Word, ...], ...]


@cache
def _table() -> dict[str, Any]:
    """The built-in tests, lists and sentences."""
    text = (files("trueup.audits.embedding") / "word_tests.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def builtin_rows() -> list[dict[str, Any]]:
    """All built-in tests, a row per word and set."""
    table = _table()
    rows = []
    for name, test in table["tests"].items():
        lists = [*test["targets"], *test["attributes"]]
        for side, listed in zip(SETS, lists, strict=True):
            kinds = {kind: table["lists"][listed].get(kind, ()) for kind in table["templates"]}
            rows += [
                {
                    "test": name,
                    "set": side,
                    "word": word,
                    "kind": kind,
                    "group": test["group"],
                    "category": listed.replace("_", " "),
                }
                for kind, words in kinds.items()
                for word in words
            ]
    return rows


def published_rows(path: Path) -> list[dict[str, Any]] | None:
    """The rows of a file with targ1, targ2, attr1 and attr2; None where it is no such file.

    Such a file holds one test, named after the file, or several by name.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError):
        return None  # a table, or a file that the reader of tables refuses with its reason
    if not isinstance(content, dict):
        return None
    tests = {path.stem: content} if set(SETS) <= content.keys() else content
    if not all(isinstance(test, dict) and set(SETS) <= test.keys() for test in tests.values()):
        return None
    return [
        {"test": name, "set": side, "word": word, "category": test[side].get("category")}
        for name, test in tests.items()
        for side in SETS
        for word in _examples(path, name, side, test[side])
    ]


def _examples(path: Path, name: str, side: str, part: Any) -> Sequence[str]:
    """The words or sentences of one set."""
    examples = part.get("examples") if isinstance(part, dict) else None
    if not isinstance(examples, list) or not all(isinstance(word, str) for word in examples):
        raise UserError(f"{path}: {side} of {name} must hold 'examples', a list of texts")
    return examples


def word_tests(data: Rows, chosen: str) -> list[WordTest]:
    """The tests that the rows hold, of which `chosen` names some: tests or groups, or "all".

    Raises: UserError where a row names no set, a test lacks one, or nothing has a chosen name.
    """
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    facts: dict[str, dict[str, str]] = {}
    for index, row in enumerate(data):
        name, side, word = (str(row[column]) for column in ("test", "set", "word"))
        if side not in SETS:
            raise UserError(
                f"{place_of(data, index)}: 'set' must be one of {', '.join(SETS)}, got {side!r}"
            )
        facts.setdefault(name, {"group": text_of(row, "group")}).setdefault(
            side, text_of(row, "category", side)
        )
        sides = found.setdefault(name, {each: {} for each in SETS})
        texts = sides[side].setdefault(word, [])
        texts += [text for text in _texts(row, word) if text not in texts]
    names = _chosen(chosen, facts)
    return [_made(name, found[name], facts[name]) for name in names]


def _texts(row: Row, word: str) -> Sequence[str]:
    """The row's own sentence, or the sentences for a word of its kind."""
    own = row.get("text")
    if own:
        return (str(own),)
    if word.endswith((".", "!", "?")):
        return (word,)  # published files of sentences
    kind = text_of(row, "kind", "name" if word[:1].isupper() else "bare")
    templates = _table()["templates"]
    if kind not in templates:
        raise unknown_name("kind of word", kind, templates)
    article = "an" if word[:1] in "aeiou" or word in _table()["articles"]["an"] else "a"
    return [template.format(word=word, a=article) for template in templates[kind]]


def _chosen(chosen: str, facts: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The names of the chosen tests, in the order of the data."""
    if chosen == "all":
        return list(facts)
    wanted = [part.strip() for part in chosen.split(",") if part.strip()]
    groups = {name: fact["group"] for name, fact in facts.items()}
    known = {*groups, *groups.values()} - {""}
    for part in wanted:
        if part not in known:
            raise unknown_name("test", part, [*known, "all"])
    return [name for name, group in groups.items() if name in wanted or group in wanted]


def _made(
    name: str, sides: Mapping[str, Mapping[str, Sequence[str]]], facts: Mapping[str, str]
) -> WordTest:
    """One test, all of whose sets hold words."""
    for side in SETS:
        if not sides[side]:
            raise UserError(f"test {name!r} has no words in {side}; it needs {', '.join(SETS)}")
    return WordTest(
        name=name,
        group=facts["group"],
        categories=tuple(facts[side] for side in SETS),
        words=tuple(
            tuple(Word(word, tuple(texts)) for word, texts in sides[side].items()) for side in SETS
        ),
    )
