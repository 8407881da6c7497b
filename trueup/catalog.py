"""The catalogue of methods: which papers trueup knows, and which of them are proven."""

import functools
import pkgutil
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

Kind = Literal["method", "audit", "benchmark", "survey", "study"]
Stage = Literal["data", "training", "decoding", "prompt/output", "audit", "red-team"]
Modality = Literal["text", "vision-language", "image", "tabular", "graph", "recommendation"]
Status = Literal["planned", "proven"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the catalogue: a paper, or a base method that has no number.

    Fields: names - the registered names first, then others it is known by; year - of the first
            arXiv version, None where there is no paper; number - None for base methods;
            entry_point - "module:name", empty while planned; proof - paths from the repository.
    """

    number: int | None
    names: tuple[str, ...]
    title: str
    arxiv: str
    year: int | None
    kind: Kind
    stage: Stage
    modality: Modality
    status: Status
    entry_point: str
    proof: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name that the registry, the file, the proof and the page share."""
        return self.names[0]

    def as_dict(self) -> dict[str, Any]:
        """The ten keys that `trueup methods --json` prints for every entry."""
        return {
            "number": self.number,
            "title": self.title,
            "arxiv": self.arxiv,
            "year": self.year,
            "kind": self.kind,
            "stage": self.stage,
            "modality": self.modality,
            "status": self.status,
            "entry_point": self.entry_point,
            "proof": list(self.proof),
        }

    def resolve(self) -> Any:
        """Import what the entry point names."""
        return pkgutil.resolve_name(self.entry_point)


def load(*, base: bool = False) -> list[Entry]:
    """The numbered papers in their order; with `base` also the methods that have no number."""
    return [entry for entry in _entries() if base or entry.number is not None]


def search(query: str, *, base: bool = True) -> list[Entry]:
    """The entries in which every word of the query begins a word, exact names first.

    Edges:  an empty query finds all; case does not count; `arXiv:2405.16436` and `38` are found.
    """
    words = query.lower().replace("arxiv:", "").split()
    patterns = [re.compile(rf"(?<!\w){re.escape(word)}") for word in words]
    hits = [e for e in load(base=base) if all(p.search(_searched_text(e)) for p in patterns)]
    wanted = " ".join(words)
    return sorted(hits, key=lambda entry: wanted not in (*entry.names, str(entry.number)))


def _searched_text(entry: Entry) -> str:
    """Everything a person may look for, in lower case."""
    known = (entry.number, entry.year, entry.arxiv, entry.kind, entry.stage, entry.modality)
    parts = (*entry.names, entry.title, entry.status, *known)
    return "\n".join(str(part) for part in parts if part is not None).lower()


@functools.cache
def _entries() -> tuple[Entry, ...]:
    """The papers, then the base methods, as `catalog.toml` holds them."""
    text = files("trueup").joinpath("catalog.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    return tuple(_entry(row) for row in (*tables["paper"], *tables["base"]))


def _entry(row: Mapping[str, Any]) -> Entry:
    """One table of the file; a base method names no number, a method without paper no year."""
    lists = {"names": tuple(row["names"]), "proof": tuple(row["proof"])}
    return Entry(**{"number": None, "year": None, **row, **lists})
