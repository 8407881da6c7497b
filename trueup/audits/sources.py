"""From what the user brings to an audit's probes: read, validate, and say what is missing."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trueup.audits.protocol import Audit, Probe
from trueup.data import Table, read
from trueup.errors import UserError


def read_data(audit: Audit, source: str | Path | Iterable[Mapping[str, Any]] | None) -> Table:
    """The audit's data as a validated table.

    Edges:  an audit of plain texts also reads a .txt file, a text per line that is not blank. An
            audit with `read_own(path) -> rows or None` reads the form in which its data were
            published.
    Raises: UserError where there is no source (the line says which file is wanted, and its
            columns), or the source lacks a column.
    """
    if source is None:
        raise UserError(f"{audit.name} needs data: {wanted(audit)}; give it with --data FILE")
    own_form = getattr(audit, "read_own", None)  # a published file that is no table of rows
    if own_form is not None and isinstance(source, str | Path):
        rows: list[Mapping[str, Any]] | None = own_form(Path(source))
        if rows is not None:
            return read(rows, columns=audit.columns, optional=audit.optional)
    if audit.columns == ("text",) and isinstance(source, str | Path):
        path = Path(source)
        if path.suffix.lower() == ".txt":
            return _lines(path)
    return read(source, columns=audit.columns, optional=audit.optional)


def wanted(audit: Audit) -> str:
    """The data that an audit reads, in words."""
    also = f" (optional: {', '.join(audit.optional)})" if audit.optional else ""
    return f"{audit.wants}, a table with the columns {', '.join(audit.columns)}{also}"


def probes_of(audit: Audit, table: Table) -> list[Probe]:
    """The audit's probes; raises UserError where two share an id, as ids pair runs."""
    probes = audit.probes(table)
    seen: set[str] = set()
    for probe in probes:
        if probe.id in seen:
            raise UserError(
                f"{table.source}: two items of {audit.name} have the id {probe.id!r}; ids pair "
                "the items of two runs, make them unique"
            )
        seen.add(probe.id)
    return probes


def _lines(path: Path) -> Table:
    """The lines of a text file as rows."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    kept = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not kept:
        raise UserError(f"{path}: is empty")
    return Table(
        rows=[{"text": line} for _, line in kept],
        source=str(path),
        numbers=[number for number, _ in kept],
        unit="line",
    )
