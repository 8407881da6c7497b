"""Which reader a source needs: by its ending, its kind or the shape of its name."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trueup.data.arrow_readers import read_dataset, read_folder, read_hub, read_parquet
from trueup.data.canonical import escaped, one_line, shown
from trueup.data.raw_rows import Problem, RawRows
from trueup.data.table import Table
from trueup.data.text_readers import read_csv, read_json, read_jsonl
from trueup.errors import UserError

ENDINGS = (".csv", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv")
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::([\w.-]+))?", re.ASCII)


def raw_rows(source: Any) -> RawRows:
    """The rows of any source that `trueup.data.read` takes, before any contract.

    Raises: UserError where the source is not there or of no known kind.
    """
    if isinstance(source, Table):
        return _table_rows(source)
    if isinstance(source, str | Path):
        return _named_rows(source)
    if type(source).__module__.partition(".")[0] == "datasets":
        return read_dataset("the data set", source)
    if isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):
        return _given_rows(source)
    raise UserError(
        f"cannot read data from a {type(source).__name__}, got {shown(source)}; "
        "give a path, a hub id, a list of dicts or a datasets.Dataset"
    )


def _named_rows(name: str | Path) -> RawRows:
    """The rows of a file, a folder or a hub id."""
    if not str(name).strip():
        raise UserError("the data has no name; give a path or a hub id")
    source = escaped(str(name))
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return read_folder(source, path)
        if path.is_file():
            return _file_rows(source, path)
        exists = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no home for `~name`
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{source}: cannot be read ({one_line(str(reason))})") from error
    if exists:
        raise UserError(f"{source}: neither a file nor a folder")
    hub = _HUB_ID.fullmatch(name) if isinstance(name, str) else None
    if hub is None or path.suffix.lower() in ENDINGS:
        raise UserError(f"{source}: no such file")
    return read_hub(source, hub[1], hub[2])


def _file_rows(source: str, path: Path) -> RawRows:
    ending = path.suffix.lower()
    if ending == ".parquet":
        return read_parquet(source, path)
    if ending in (".jsonl", ".ndjson"):
        return read_jsonl(source, path.read_bytes())
    if ending == ".json":
        return read_json(source, path.read_bytes())
    if ending in (".csv", ".tsv"):
        return read_csv(source, path.read_bytes(), "," if ending == ".csv" else "\t")
    raise UserError(
        f"{source}: unknown ending, got {escaped(path.suffix)!r}; known: {', '.join(ENDINGS)}"
    )


def _table_rows(table: Table) -> RawRows:
    """A table that was read before, with its places, for another contract."""
    return RawRows(
        source=table.source,
        unit=table.unit,
        rows=table.rows,
        numbers=table.numbers,
        columns=table.columns,
    )


def _given_rows(rows: Iterable[Any]) -> RawRows:
    """Rows from memory, each a mapping with text as names."""
    raw = RawRows(source="the data", unit="row")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raw.problems.append(Problem(number, f"must be a dict, got {shown(row)}"))
        elif any(not isinstance(name, str) for name in row):
            name = next(name for name in row if not isinstance(name, str))
            raw.problems.append(Problem(number, f"column names must be text, got {shown(name)}"))
        else:
            raw.rows.append(dict(row))
            raw.numbers.append(number)
    return raw
