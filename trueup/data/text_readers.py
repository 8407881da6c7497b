"""Readers of JSONL, JSON, CSV and TSV, which know the line of everything that is wrong."""

import contextlib
import csv
import io
import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

from trueup.data.canonical import escaped, one_line, shown
from trueup.data.raw_rows import Problem, RawRows
from trueup.data.table import place
from trueup.errors import UserError

_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
_CSV_LIMIT = threading.Lock()


def read_jsonl(source: str, data: bytes) -> RawRows:
    """One JSON object per line; blank lines count as lines and hold no row."""
    raw = RawRows(source=source, unit="line", nothing="the file is empty")
    for number, line in enumerate(_unmarked(source, data).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _json(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raw.problems.append(Problem(number, _not_utf8(error)))
            continue
        except (ValueError, RecursionError) as error:
            raw.problems.append(Problem(number, _not_json(error)))
            continue
        _keep(raw, number, row)
    return raw


def read_json(source: str, data: bytes) -> RawRows:
    """A JSON list of objects, placed by row; without a list it is JSONL under another ending."""
    data = _unmarked(source, data)
    if not data.lstrip().startswith(b"["):
        return read_jsonl(source, data)
    raw = RawRows(source=source, unit="row", nothing="the list is empty")
    try:
        rows = _json(_decoded(source, data))
    except json.JSONDecodeError as error:
        raise UserError(f"{place(source, 'line', error.lineno)}: {_not_json(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: {_not_json(error)}") from error
    for number, row in enumerate(rows, start=1):
        _keep(raw, number, row)
    return raw


def read_csv(source: str, data: bytes, delimiter: str) -> RawRows:
    """Comma- or tab-separated text whose first line names the columns.

    Edges:  a row that is too short or too long is noted and the rest is read; after a broken quote
            nothing can be trusted and reading stops.
    Raises: UserError where the header names nothing, or a name twice.
    """
    text = _decoded(source, _unmarked(source, data))
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{place(source, 'line', line)}: holds a NUL byte, which no text does")
    rows, broken = _csv_rows(text, delimiter)
    problems = [broken] if broken else []
    if not rows:
        return RawRows(source=source, unit="line", problems=problems, nothing="the file is empty")
    first, header = rows[0]
    _check_header(place(source, "line", first), header)
    raw = RawRows(
        source=source,
        unit="line",
        columns=header,
        header_number=first,
        is_text=True,
        nothing="no rows below the header",
        problems=problems,
    )
    for number, cells in rows[1:]:
        if len(cells) == len(header):
            raw.rows.append(dict(zip(header, cells, strict=True)))
            raw.numbers.append(number)
        else:
            what = f"has {len(cells)} fields, but the header names {len(header)}"
            raw.problems.append(Problem(number, what))
    return raw


def _unmarked(source: str, data: bytes) -> bytes:
    """The bytes without a byte-order mark; UTF-16 is told apart from broken UTF-8."""
    if data.startswith(_WIDE_BOMS):
        raise UserError(f"{source}: is UTF-16; save it as UTF-8")
    return data.removeprefix(_BOM)


def _decoded(source: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{place(source, 'line', number)}: {_not_utf8(error)}") from error


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not valid UTF-8, got byte 0x{error.object[error.start]:02x}; save the file as UTF-8"


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no name may stand twice: one of the values would be lost."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown(twice)} stands twice")
    return made


def _not_json(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "not valid JSON (nested too deeply)"
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error.msg} at column {error.colno})"
    return f"not valid JSON ({one_line(str(error), limit=80)})"


def _keep(raw: RawRows, number: int, row: Any) -> None:
    """Note a parsed value as a row, or as a problem where it is no object."""
    if isinstance(row, dict):
        raw.rows.append(row)
        raw.numbers.append(number)
    else:
        raw.problems.append(Problem(number, f"must be a JSON object, got {shown(row)}"))


def _csv_rows(text: str, delimiter: str) -> tuple[list[tuple[int, list[str]]], Problem | None]:
    """Every row that is not blank with the line on which it begins, and where the quotes break."""
    rows: list[tuple[int, list[str]]] = []
    begins = 1
    with _csv_fields_of_any_length():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                if cells:
                    rows.append((begins, cells))
                begins = reader.line_num + 1
        except csv.Error as error:
            is_open = "unexpected end" in str(error)
            what = "a quoted field is never closed" if is_open else one_line(str(error), limit=80)
            return rows, Problem(begins, f"not valid CSV ({what})")
    return rows, None


@contextlib.contextmanager
def _csv_fields_of_any_length() -> Iterator[None]:
    """Lift the module's limit of 131,072 characters, too few for dialogues, which is global."""
    with _CSV_LIMIT:
        limit = csv.field_size_limit(sys.maxsize)
        try:
            yield
        finally:
            csv.field_size_limit(limit)


def _check_header(where: str, header: list[str]) -> None:
    if not any(name.strip() for name in header):
        raise UserError(f"{where}: the header names no column")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: column {escaped(twice)!r} stands twice in the header")
