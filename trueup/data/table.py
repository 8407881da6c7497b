"""A validated table: rows, where each one stood in its source, and a hash of their content."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from trueup.data.canonical import canonical
from trueup.errors import UserError

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Rows that satisfy their contract, in the order of the source.

    Fields: `numbers` are the rows' places in the source, counted from 1, as `unit` says: lines of
            a text file or rows of anything else. Two rows may share one place.
    """

    rows: list[Row]
    source: str
    numbers: list[int]
    unit: Literal["line", "row"]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @cached_property
    def columns(self) -> list[str]:
        """The names of all columns, in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the rows' content and order; the format that held them does not matter."""
        digest = hashlib.sha256()
        try:
            for row in self.rows:
                digest.update(canonical(row) + b"\n")
        except RecursionError as error:
            raise UserError(f"{self.source}: a row is nested too deeply") from error
        return digest.hexdigest()

    def place(self, index: int) -> str:
        """Where row `index` stood: `prefs.jsonl:17`, or `prefs.parquet row 17`."""
        return place(self.source, self.unit, self.numbers[index])

    def select(self, indices: Sequence[int]) -> "Table":
        """The rows at `indices`, in that order, with their places."""
        return Table(
            rows=[self.rows[index] for index in indices],
            source=self.source,
            numbers=[self.numbers[index] for index in indices],
            unit=self.unit,
        )

    def split(self, size: float, seed: int) -> "tuple[Table, Table]":
        """Hold rows out by chance: the rest and the held-out table, both in the source's order.

        Fields: `size` is a share of the rows below 1, or a count from 1 up.
        Edges:  each side keeps at least one row.
        Raises: UserError where `size` leaves one side empty.
        """
        total = len(self)
        if not (0 < size < total and (size < 1 or size == int(size))):
            raise UserError(
                f"{self.source}: cannot hold out {size} of {total} rows; "
                f"give a share between 0 and 1 or a whole number below {total}"
            )
        count = int(size) if size >= 1 else min(max(1, round(size * total)), total - 1)
        chosen = np.random.default_rng(seed).permutation(total)[:count].tolist()
        held_out = set(chosen)
        rest = [index for index in range(total) if index not in held_out]
        return self.select(rest), self.select(sorted(held_out))


def place(source: str, unit: Literal["line", "row"], number: int) -> str:
    """The place of one row, as errors name it."""
    return f"{source}:{number}" if unit == "line" else f"{source} row {number}"
