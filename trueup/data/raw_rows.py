"""What a reader found before any contract looks at it: rows, their places, unreadable places."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from trueup.data.table import Row


class Problem(NamedTuple):
    """Something wrong at one place of a source."""

    number: int
    what: str


@dataclass(frozen=True, kw_only=True)
class RawRows:
    """The rows of one source as they stand there.

    Fields: `numbers` are lines or rows as `unit` says, counted from 1; `header_number` is the
            place of the column names where they have one; `is_text` says that every cell is text,
            as in CSV; `nothing` says what to tell of a source without rows.
    """

    source: str
    unit: Literal["line", "row"]
    rows: list[Row] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    header_number: int | None = None
    is_text: bool = False
    nothing: str = "holds no rows"
