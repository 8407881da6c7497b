"""The errors that trueup raises on purpose, and the checks that raise them.

TrueupError            anything that trueup itself refuses or stops        exit code 1
├── UserError          the user's input is wrong; one line says how       exit code 2
└── InterruptedRun     stopped half-way; `--resume` goes on                exit code 130
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

Built = TypeVar("Built")


class TrueupError(Exception):
    """The base of every error that trueup raises on purpose; its text is one line for a person."""

    exit_code: ClassVar[int] = 1


class UserError(TrueupError):
    """Something that the user gave is wrong: `PLACE: WHAT, got VALUE; HOW TO MEND`."""

    exit_code: ClassVar[int] = 2


class InterruptedRun(TrueupError):
    """A long verb was stopped by Ctrl-C or a signal; what was done is kept and can be resumed."""

    exit_code: ClassVar[int] = 130


def check_positive(**values: float) -> None:
    """Raise UserError unless every named value is a finite number above 0."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} must be above 0, got {value}")


def check_at_least(bound: float, **values: float) -> None:
    """Raise UserError unless every named value is a finite number of at least `bound`."""
    for name, value in values.items():
        if not (value >= bound and math.isfinite(value)):
            raise UserError(f"{name} must be at least {bound}, got {value}")


def check_between(low: float, high: float, **values: float) -> None:
    """Raise UserError unless every named value lies in [low, high], ends included."""
    for name, value in values.items():
        if not low <= value <= high:
            raise UserError(f"{name} must lie between {low} and {high}, got {value}")


def check_choice(allowed: Iterable[str], **values: str) -> None:
    """Raise UserError unless every named value is one of `allowed`."""
    known = list(allowed)
    for name, value in values.items():
        if value not in known:
            raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is registered nowhere, with the nearest known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"no {kind} {name!r}; {hint}known: {', '.join(names)}")


def build(kind: str, cls: type[Built], settings: Mapping[str, Any]) -> Built:
    """Make the frozen dataclass `cls` from settings, whose strings are read as the fields' types.

    Raises: UserError where a setting names no field, or its text does not fit the field's type.
    """
    hints = typing.get_type_hints(cls)
    fields = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    for name in settings:
        if name not in fields:
            known = ", ".join(fields) or "none"
            raise UserError(f"{kind} has no field {name!r}; known: {known}")
    values = {name: _parsed(kind, name, value, hints[name]) for name, value in settings.items()}
    return cls(**values)


def _parsed(kind: str, name: str, value: Any, hint: Any) -> Any:
    """The value as the type that the field declares; only strings are converted."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    choices = typing.get_args(hint) if is_union else (hint,)
    if not isinstance(value, str):
        return _number(value, choices)
    for choice in choices:
        try:
            return _read(value, choice)
        except ValueError:
            continue
    raise UserError(f"{kind}.{name} must be {_spelled(choices)}, got {value!r}")


def _number(value: Any, choices: tuple[Any, ...]) -> Any:
    """A whole number given for a float field is that float; all else stays as it is."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and float in choices and int not in choices else value


def _read(text: str, hint: Any) -> Any:
    """The text as one type; ValueError where it does not fit."""
    if hint is type(None):
        if text.lower() in ("none", "null", ""):
            return None
        raise ValueError
    if hint is bool:
        if text.lower() in ("true", "yes", "1"):
            return True
        if text.lower() in ("false", "no", "0"):
            return False
        raise ValueError
    if hint in (int, float, str):
        return hint(text)
    if typing.get_origin(hint) is typing.Literal:
        for choice in typing.get_args(hint):
            if text == str(choice):
                return choice
        raise ValueError
    if typing.get_origin(hint) in (tuple, list):
        inner = typing.get_args(hint)[0]
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return typing.get_origin(hint)(_read(part, inner) for part in parts)
    raise ValueError


def _spelled(choices: tuple[Any, ...]) -> str:
    """The types in words, for an error."""
    names: list[str] = []
    for choice in choices:
        if typing.get_origin(choice) is typing.Literal:
            names.append("one of " + ", ".join(str(value) for value in typing.get_args(choice)))
        else:
            words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
            names.append("none" if choice is type(None) else words.get(choice, str(choice)))
    return " or ".join(names)
