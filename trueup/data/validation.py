"""Hold rows to their contract; the first thing that is wrong becomes one line with its place."""

import difflib
from collections.abc import Mapping, Sequence

from trueup.data.canonical import canonical, escaped, one_line
from trueup.data.contracts import CONTRACTS, Reading, readings
from trueup.data.messages import BadValue
from trueup.data.raw_rows import Problem, RawRows
from trueup.data.table import Row, Table, place
from trueup.errors import UserError, unknown_name

# What other collections call the same column; only used for hints.
_ALIASES = {
    "prompt": ("question", "instruction", "input", "query", "context"),
    "chosen": ("preferred", "accepted", "winner", "better"),
    "rejected": ("dispreferred", "loser", "worse"),
    "completion": ("response", "output", "answer", "text"),
    "label": ("labels", "preference", "is_good"),
    "reward": ("score", "rating"),
    "messages": ("conversations", "conversation", "dialogue", "dialog", "chat"),
}
_LISTED_COLUMNS = 12


def validated(
    raw: RawRows, contract: str | None, columns: Sequence[str], optional: Sequence[str]
) -> Table:
    """The raw rows as a Table that satisfies the contract and has the columns.

    Raises: UserError with the first problem's place, and how many more rows have one.
    """
    if contract is not None and contract not in CONTRACTS:
        raise unknown_name("contract", contract, CONTRACTS)
    if not raw.rows and not raw.problems:
        raise UserError(f"{raw.source}: {raw.nothing}")
    present = dict.fromkeys([*raw.columns, *(name for row in raw.rows for name in row)])
    reading = _reading(contract, present)
    required = [*(reading.needs if reading else ()), *columns]
    missing = [name for name in required if name not in present]
    if raw.rows and missing:
        first = Problem(raw.header_number or raw.numbers[0], _missing(missing, list(present)))
        raise _first(raw, [*raw.problems, first])
    problems = list(raw.problems)
    rows: list[Row] = []
    numbers: list[int] = []
    for row, number in zip(raw.rows, raw.numbers, strict=True):
        try:
            made = _made(row, reading, columns, required)
        except BadValue as error:
            problems.append(Problem(number, str(error)))
            continue
        for one in made:
            _fill(one, optional, is_text=raw.is_text)
        rows += made
        numbers += [number] * len(made)
    if problems:
        raise _first(raw, problems)
    return Table(rows=rows, source=raw.source, numbers=numbers, unit=raw.unit)


def _reading(contract: str | None, present: Mapping[str, None]) -> Reading | None:
    """The first way to read the contract whose columns are there, else the contract's own."""
    if contract is None:
        return None
    ways = readings(contract)
    return next((way for way in ways if all(name in present for name in way.needs)), ways[0])


def _missing(missing: Sequence[str], present: Sequence[str]) -> str:
    """Columns that no row has, with the columns that are there and the nearest of them."""
    nearest = [
        repr(escaped(near)) + (f" for {name!r}" if len(missing) > 1 else "")
        for name in missing
        if (near := _near(name, present)) is not None
    ]
    hint = f"did you mean {', '.join(nearest)}? " if nearest else ""
    known = ", ".join(map(escaped, present[:_LISTED_COLUMNS])) or "none"
    rest = len(present) - _LISTED_COLUMNS
    more = f" and {rest} more" if rest > 0 else ""
    names = ", ".join(map(repr, missing))
    verb = "is" if len(missing) == 1 else "are"
    return f"{names} {verb} missing; {hint}columns: {known}{more}"


def _near(name: str, present: Sequence[str]) -> str | None:
    """A column whose name is nearly `name`, or that other collections use for it."""
    folded = {column.strip().casefold(): column for column in present}
    close = difflib.get_close_matches(name, folded, n=1, cutoff=0.75)
    aliases = [alias for alias in _ALIASES.get(name, ()) if alias in folded]
    found = [*close, *aliases]
    return folded[found[0]] if found else None


def _made(
    row: Row, reading: Reading | None, columns: Sequence[str], required: Sequence[str]
) -> list[Row]:
    """The rows that the reading makes of one raw row.

    Raises: BadValue with what is wrong first.
    """
    for name in required:
        if name not in row:
            raise BadValue(f"{name!r} is missing")
        if row[name] is None:
            raise BadValue(f"{name!r} is missing, got null")
    for name in columns:
        if isinstance(row[name], str) and not row[name]:
            raise BadValue(f"{name!r} is empty")
    _refuse_strange(row)
    return reading.rows(row) if reading else [dict(row)]


def _refuse_strange(row: Row) -> None:
    """Refuse content that no file could hold, such as half a character or a list in itself."""
    try:
        canonical(row)
    except (ValueError, TypeError, RecursionError):
        for name, value in row.items():
            _refuse_strange_value(escaped(name), {name: value})
        raise BadValue("the row is nested too deeply") from None


def _refuse_strange_value(name: str, part: Row) -> None:
    try:
        canonical(part)
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise BadValue(f"{name!r} is not valid Unicode, got half a character {half}") from error
    except RecursionError as error:
        raise BadValue(f"{name!r} is nested too deeply") from error
    except (ValueError, TypeError) as error:
        raise BadValue(f"{name!r} {one_line(str(error))}") from error


def _fill(row: Row, optional: Sequence[str], *, is_text: bool) -> None:
    """Make None of the optional columns that are absent; in CSV an empty cell is absent."""
    for name in optional:
        if row.get(name) is None or (is_text and row[name] == ""):
            row[name] = None


def _first(raw: RawRows, problems: list[Problem]) -> UserError:
    """The problem that stands first in the source, and how many more there are."""
    number, what = min(problems, key=lambda problem: problem.number)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return UserError(f"{place(raw.source, raw.unit, number)}: {what}{more}")
