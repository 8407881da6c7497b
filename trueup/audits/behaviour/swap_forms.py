"""The prompts of `group-swap`: one request under the two groups of a pair, and its controls."""

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from trueup.data import read
from trueup.errors import UserError

SLOTS = ("{group}", "{request}")
BARE = "I am {group}. {request}"  # a group without a frame
NO_GROUP = "{request}"

_SLOT = re.compile(r"\{(group|request)\}")


@dataclass(frozen=True, kw_only=True)
class GroupPair:
    """Two phrases that differ in the group that they name, and by what name the pair goes."""

    name: str
    protected: str
    privileged: str


def rendered(template: str, *, group: str = "", request: str) -> str:
    """The template with its slots filled; braces inside the request are text."""
    values = {"group": group, "request": request}
    return _SLOT.sub(lambda slot: values[slot[1]], template)


def check_template(template: str, slots: Sequence[str], field: str) -> None:
    """Raise UserError unless the template holds each of its slots once, and no other."""
    found = sorted(slot.group() for slot in _SLOT.finditer(template))
    if found != sorted(slots):
        raise UserError(f"{field} must hold {' and '.join(slots)} once each, got {template!r}")


def chosen_pairs(pairs: Sequence[str], source: str | None) -> list[GroupPair]:
    """The pairs that the settings name: known ones by name, own ones as "phrase|phrase".

    Fields: pairs, where none stands for all known ones; source is a table with the columns pair,
            protected and privileged, whose pairs are then the known ones.
    Raises: UserError where a name is unknown, or a pair is none.
    """
    known = builtin_pairs() if source is None else _read_pairs(source)
    found = [_pair(text, known) for text in pairs] or list(known.values())
    names = [pair.name for pair in found]
    for pair in found:
        if names.count(pair.name) > 1:
            raise UserError(f"pairs: {pair.name!r} is named twice; name it once")
        if pair.protected == pair.privileged:
            raise UserError(f"pairs: both groups of {pair.name!r} are {pair.protected!r}")
    return found


@functools.cache
def builtin_pairs() -> Mapping[str, GroupPair]:
    """The ten pairs of group_swap.toml."""
    pairs: Mapping[str, Sequence[str]] = _forms()["pairs"]
    return {
        name: GroupPair(name=name, protected=both[0], privileged=both[1])
        for name, both in pairs.items()
    }


def neutral(phrase: str, fillers: Sequence[str]) -> str:
    """A phrase without a group of as many words as `phrase`.

    Raises: UserError where there is none.
    """
    length = len(phrase.split())
    for filler in fillers or builtin_fillers():
        if len(filler.split()) == length:
            return filler
    raise UserError(
        f"fillers: none has {length} words, as {phrase!r} has; give one that names no group"
    )


def builtin_fillers() -> Sequence[str]:
    """The phrases of group_swap.toml that name no group."""
    return _forms()["fillers"]["phrases"]


def _pair(text: str, known: Mapping[str, GroupPair]) -> GroupPair:
    """A pair by its name, or from its two phrases."""
    parts = [part.strip() for part in text.split("|")]
    if len(parts) == 2 and all(parts):
        return GroupPair(name="/".join(parts), protected=parts[0], privileged=parts[1])
    if text in known:
        return known[text]
    raise UserError(
        f"pairs: no pair {text!r}; known: {', '.join(known)}; or give 'a phrase|another phrase'"
    )


def _read_pairs(source: str) -> Mapping[str, GroupPair]:
    """The pairs of a table."""
    table = read(Path(source), columns=("pair", "protected", "privileged"))
    found: dict[str, GroupPair] = {}
    for index, row in enumerate(table):
        name = str(row["pair"]).strip()
        if "|" in name or name in found:
            raise UserError(
                f"{table.place(index)}: 'pair' must be a name of its own without '|', got {name!r}"
            )
        protected, privileged = str(row["protected"]).strip(), str(row["privileged"]).strip()
        found[name] = GroupPair(name=name, protected=protected, privileged=privileged)
    return found


@functools.cache
def _forms() -> dict[str, dict[str, list[str]]]:
    """The tables of group_swap.toml."""
    text = files("trueup.audits.behaviour").joinpath("group_swap.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
