"""BEAD's files: which one a task reads, what its columns are called, and what its labels mean."""

import functools
import json
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from trueup.data import read
from trueup.errors import UserError, check_choice

Task = Literal["classification", "spans", "demographics", "debias"]
Subject = Literal["bias", "toxicity", "sentiment"]
TASKS: tuple[Task, ...] = ("classification", "spans", "demographics", "debias")
SUBJECTS: tuple[Subject, ...] = ("bias", "toxicity", "sentiment")


@functools.cache
def own_words() -> dict[str, Any]:
    """The tables of `bead.toml`."""
    text = files("trueup.audits.behaviour").joinpath("bead.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def load_bead(
    path: str | Path, task: Task = "classification", subject: Subject = "bias"
) -> list[dict[str, Any]]:
    """The rows that a task reads, with the columns text, label and group as far as they are there.

    path is a table, or a folder of BEAD's layout, of which the task's file is taken: the valid
    split before the train split.
    Raises: UserError where there is no such file, or it has no text.
    Source: Raza et al. 2024, arXiv 2406.04220; the data are CC BY-NC 4.0, and stay with the user.
    """
    check_choice(TASKS, task=task)
    check_choice(SUBJECTS, subject=subject)
    kind = subject if task == "classification" else task
    place = _file_of(Path(path), kind) if Path(path).is_dir() else Path(path)
    table = read(place)
    names = own_words()["columns"]
    text = _first(names["text"], table.columns)
    if text is None:
        known = ", ".join(table.columns)
        raise UserError(f"{place}: 'text' is missing; columns: {known}")
    label, group = (_first(names[name], table.columns) for name in (kind, "group"))
    renamed = {text: "text", label: "label", group: "group"}
    return [
        {renamed.get(name, name): value for name, value in row.items() if value not in (None, "")}
        for row in table
    ]


def label_of(given: object, subject: Subject) -> str | None:
    """The label that a text means: one of the subject's, else None.

    Of the ternary bias labels neutral is non-biased, slightly and highly biased are biased.
    """
    text = " ".join(str(given).strip().lower().replace("_", " ").split()).removesuffix(".0")
    own = own_words()["subjects"][subject]
    if text in own["labels"]:
        return text
    found: str | None = own["also"].get(text)
    return found


def label_in_row(row: Mapping[str, Any], subject: Subject, place: str) -> str:
    """The row's gold label; UserError where it has none that is known."""
    label = label_of(row.get("label"), subject)
    if label is None:
        known = ", ".join(own_words()["subjects"][subject]["labels"])
        raise UserError(f"{place}: 'label' must be one of {known}, got {row.get('label')!r}")
    return label


def question(task: Task, text: str, subject: Subject) -> str:
    """What a model is asked about a text."""
    own = own_words()["subjects"][subject]
    quoted = json.dumps(text, ensure_ascii=False)
    form: str = own_words()["ask"][task]
    listed = ", ".join(own["words"][:-1]) + f" or {own['words'][-1]}"
    return form.format(text=quoted, ask=own["ask"], words=listed)


def _file_of(folder: Path, kind: str) -> Path:
    """The file of a folder that a task reads."""
    starts = own_words()["files"][kind]
    known = sorted(path for path in folder.rglob("*") if path.is_file())
    for start in starts:
        for path in known:
            if path.stem.lower().replace("_", "-").replace(" ", "-").startswith(start):
                return path
    raise UserError(f"{folder}: holds no file {' or '.join(starts)} for {kind}")


def _first(names: list[str], columns: list[str]) -> str | None:
    """The column that has the first of these names."""
    lowered = {column.strip().lower(): column for column in columns}
    return next((lowered[name] for name in names if name in lowered), None)
