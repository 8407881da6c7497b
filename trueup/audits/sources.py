"""From what the user brings to an audit's probes: read, validate, and say what is missing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from trueup.audits.protocol import Audit, Probe
from trueup.data import Table, read
from trueup.errors import UserError

Source = str | Path | Iterable[Mapping[str, Any]]


def read_data(audit: Audit, source: Source | Sequence[Path] | None) -> Table:
    """The audit's data as a validated table.

    Edges:  an audit of plain texts also reads a .txt file, a text per line that is not blank. An
            audit with `read_own(path) -> rows or None` reads the form in which its data were
            published; one with `builtin() -> rows` needs no source. The rows of several files
            stand one after the other; the file's name is put before the ids of all but the first.
    Raises: UserError where there is no source (the line says which file is wanted, and its
            columns), or the source lacks a column.
    """
    if source is None:
        builtin = getattr(audit, "builtin", None)
        if builtin is None:
            raise UserError(f"{audit.name} needs data: {wanted(audit)}; give it with --data FILE")
        rows = read(builtin(), columns=audit.columns, optional=audit.optional)
        return replace(rows, source=f"{audit.name}'s own data")
    if isinstance(source, list) and source and all(isinstance(one, Path) for one in source):
        return _joined([_read(audit, path) for path in source])
    return _read(audit, cast(Source, source))


def _read(audit: Audit, source: Source) -> Table:
    """The data of one source."""
    if isinstance(source, str | Path):
        own_form = getattr(audit, "read_own", None)
        rows: list[dict[str, Any]] | None = None if own_form is None else own_form(Path(source))
        if rows is not None:
            table = read(rows, columns=audit.columns, optional=audit.optional)
            return replace(table, source=str(source))
        if audit.columns == ("text",) and Path(source).suffix.lower() == ".txt":
            return _lines(Path(source))
    return read(source, columns=audit.columns, optional=audit.optional)


def _joined(tables: Sequence[Table]) -> Table:
    """Several tables as one."""
    if len(tables) == 1:
        return tables[0]
    rows: list[dict[str, Any]] = []
    for number, table in enumerate(tables):
        name = Path(table.source).stem
        for index, row in enumerate(table.rows, start=1):
            own = row.get("id", index)
            rows.append(row if number == 0 else {**row, "id": f"{name}/{own}"})
    return Table(
        rows=rows,
        source=", ".join(table.source for table in tables),
        numbers=list(range(1, len(rows) + 1)),
        unit="row",
    )


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
