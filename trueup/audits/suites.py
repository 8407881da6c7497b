"""Suites: the audits of one subject that a model and a folder of data allow, and why not others."""

import functools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from trueup.audits.protocol import Model, is_masked
from trueup.errors import UserError, unknown_name
from trueup.models.static_vectors import StaticVectors


@dataclass(frozen=True)
class Suite:
    """What a suite runs.

    Fields: data holds the files of each audit, None where the audit brings its own; skipped says
            of every other audit in a few words why it does not run.
    """

    data: dict[str, list[Path] | None] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def suite_names() -> list[str]:
    """The names that `--suite` takes."""
    return [*_known()["suites"], "all"]


def suite(name: str, model: Model, folder: str | Path | None, given: Iterable[str] = ()) -> Suite:
    """The audits of a suite that fit the model and whose data lie in the folder.

    Fields: given are the names of the settings that the user gives.
    Raises: UserError where the name is unknown, the folder is none, or nothing can run.
    """
    place = None if folder is None else Path(folder)
    if place is not None and not place.is_dir():
        raise UserError(f"{place}: is no folder; a suite's --data holds a file for each audit")
    result = Suite()
    own = kinds_of(model)
    for audit in members(name):
        wanted = _known()["audits"].get(audit, {"kinds": (), "files": ()})
        found = _found(place, wanted["files"])
        lacking = [each for each in wanted.get("settings", ()) if each not in given]
        if not own & set(wanted["kinds"]):
            result.skipped[audit] = f"needs {_either(wanted['kinds'])}"
        elif found and lacking:
            result.skipped[audit] = f"needs --set {lacking[0]}=..."
        elif found:
            result.data[audit] = found
        elif _has_builtin(audit):
            result.data[audit] = None
        else:
            result.skipped[audit] = f"no file {wanted['files'][0]}"
    if not result.data:
        why = "; ".join(f"{audit} {reason}" for audit, reason in result.skipped.items())
        raise UserError(f"suite {name!r} can run none of its audits here: {why}")
    return result


def members(name: str) -> list[str]:
    """The audits of a suite that are registered here."""
    from trueup.audits import AUDITS

    suites: Mapping[str, list[str]] = _known()["suites"]
    if name != "all" and name not in suites:
        raise unknown_name("suite", name, suite_names())
    several = suites.values() if name == "all" else [suites[name]]
    return [audit for names in several for audit in names if audit in AUDITS]


def kinds_of(model: Model) -> set[str]:
    """What the model can be asked, in the words of suites.toml."""
    kinds = {"none"}
    if is_masked(model):
        kinds.add("masked")
    if hasattr(model, "score_groups"):
        kinds.add("causal")
    if hasattr(model, "sample"):
        kinds.add("writer")
    if hasattr(model, "text_vectors"):
        kinds.add("static" if isinstance(model, StaticVectors) else "encoder")
    return kinds


def _has_builtin(audit: str) -> bool:
    """Whether the audit brings data of its own."""
    from trueup.audits import AUDITS

    return hasattr(AUDITS[audit], "builtin")


def _found(folder: Path | None, patterns: list[str]) -> list[Path]:
    """The files of the first pattern that any file has."""
    if folder is None:
        return []
    tries = (sorted(path for path in folder.glob(one) if path.is_file()) for one in patterns)
    return next((paths for paths in tries if paths), [])


def _either(kinds: list[str]) -> str:
    """The kinds of model in words."""
    words = {
        "causal": "a causal model",
        "masked": "a masked model",
        "encoder": "an encoder",
        "static": "word vectors",
        "writer": "a model that writes",
    }
    return " or ".join(words[kind] for kind in kinds if kind in words)


@functools.cache
def _known() -> dict[str, Any]:
    """The tables of suites.toml."""
    text = files("trueup.audits").joinpath("suites.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
