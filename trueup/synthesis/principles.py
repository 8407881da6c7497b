"""Principles: the named ways in which an instruction may be rewritten, and which suit which."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from trueup.errors import UserError, unknown_name

OWN = "principles.toml"


@dataclass(frozen=True, kw_only=True)
class Principle:
    """One way to rewrite an instruction.

    Fields: phrase goes on from "Improve the request by"; domains are the kinds of instructions
            that it suits, none being all.
    """

    name: str
    phrase: str
    domains: tuple[str, ...] = ()


def read_principles(path: str | Path | None = None) -> list[Principle]:
    """The principles of a TOML file, by default ours: [[principle]] of name, phrase and domains.

    Raises: UserError where the file cannot be read, holds none, or two of one name.
    """
    known = read_toml(path, OWN)
    tables = known.get("principle")
    if not isinstance(tables, list) or not tables:
        raise UserError(f"{path}: has no [[principle]]; give at least one, with name and phrase")
    found = [_principle(table, f"{path}: principle {n}") for n, table in enumerate(tables, start=1)]
    names = [principle.name for principle in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: two principles are called {twice[0]!r}; names must differ")
    return found


def pool_of(principles: Sequence[Principle], domains: Sequence[str] = ()) -> list[Principle]:
    """The principles that suit an instruction of these domains, in the order of the file.

    Raises: UserError where no principle is left, or none has a domain of that name.
    """
    known = {domain for principle in principles for domain in principle.domains}
    for domain in domains:
        if domain not in known:
            raise unknown_name("domain of principles", domain, known)
    pool = [p for p in principles if not p.domains or set(p.domains) & set(domains)]
    if not pool:
        raise UserError(
            f"no principle suits an instruction of the domains {list(domains)}; known domains: "
            f"{', '.join(sorted(known))}"
        )
    return pool


def named(principles: Sequence[Principle], name: str) -> Principle:
    """The principle of that name.

    Raises: UserError where there is none.
    """
    known = {principle.name: principle for principle in principles}
    if name not in known:
        raise unknown_name("principle", name, known)
    return known[name]


def read_toml(path: str | Path | None, own: str) -> dict[str, Any]:
    """The user's TOML file, or ours of that name beside this module.

    Raises: UserError where it cannot be read.
    """
    try:
        if path:
            return tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return tomllib.loads(files(__package__).joinpath(own).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as TOML ({error})") from error


def _principle(table: Any, place: str) -> Principle:
    """One table as a principle."""
    if not isinstance(table, dict):
        raise UserError(f"{place} must be a table, got {table!r}")
    for key in ("name", "phrase"):
        if not isinstance(table.get(key), str) or not table[key].strip():
            raise UserError(f"{place} must have a {key!r} that is text, got {table.get(key)!r}")
    domains = table.get("domains", [])
    if not isinstance(domains, list) or not all(isinstance(each, str) for each in domains):
        raise UserError(f"{place} must have 'domains' that are a list of names, got {domains!r}")
    return Principle(name=table["name"], phrase=table["phrase"].strip(), domains=tuple(domains))
