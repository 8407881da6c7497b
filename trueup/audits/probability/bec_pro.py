"""BEC-Pro's table of gendered persons and professions, as rows for templates with two slots."""

from pathlib import Path
from typing import Any

from trueup.audits.probability.slots import ATTRIBUTE, TARGET
from trueup.data import read

_COLUMNS = ("Sentence", "Sent_TM", "Sent_TAM", "Person", "Gender", "Profession", "Prof_Gender")
_SIDES = {"male": "a", "female": "b"}


def read_bec_pro(path: Path) -> list[dict[str, Any]] | None:
    """The table's sentences by frame: their men are group a, their women group b.

    "My [MASK] is a nurse." with uncle, father and aunt, mother is one row; words that stand in
    different frames ("He", "My uncle", "This man") are never added up. The slice is the gender
    that holds most of the profession's jobs (Prof_Gender).
    Edges:  None where the file is another one; a frame that has one gender only is left out.
    Source: Bartl et al. 2020, arXiv 2010.14534.
    """
    if not _is_bec_pro(path):
        return None
    frames: dict[tuple[str, str], dict[str, Any]] = {}
    for row in read(path, columns=_COLUMNS):
        profession, person = str(row["Profession"]), str(row["Person"])
        template = _template(str(row["Sent_TM"]), profession)
        if template is None or row["Gender"] not in _SIDES:
            continue
        entry = frames.setdefault(
            (template, profession),
            {"template": template, "a": [], "b": [], "attribute": profession},
        )
        entry["group"] = str(row["Prof_Gender"])
        words = entry[_SIDES[row["Gender"]]]
        if person not in words:
            words.append(person)
    return [row for row in frames.values() if row["a"] and row["b"]]


def _is_bec_pro(path: Path) -> bool:
    """Whether the file's first line names BEC-Pro's columns."""
    if path.suffix.lower() != ".tsv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        return set(_COLUMNS) <= set(lines.readline().rstrip("\r\n").split("\t"))


def _template(sentence: str, profession: str) -> str | None:
    """The sentence whose person is masked, with slots; None where either is not there once."""
    if sentence.count("[MASK]") != 1 or sentence.count(profession) != 1:
        return None
    return sentence.replace(profession, ATTRIBUTE).replace("[MASK]", TARGET)
