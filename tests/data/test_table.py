"""Tables keep places, hash content, and split without overlap."""

import datetime
import decimal

import numpy as np
import pytest

from trueup.data import Table, read
from trueup.errors import UserError

ROWS = [{"prompt": f"p{n}", "n": n} for n in range(10)]


@pytest.fixture
def table() -> Table:
    return read(ROWS, contract="prompts")


def test_the_hash_knows_content_and_order_and_nothing_else(table: Table) -> None:
    turned = [{"n": row["n"], "prompt": row["prompt"]} for row in ROWS]
    changed = [*ROWS[:-1], {**ROWS[-1], "n": 99}]

    assert read(turned).hash == table.hash
    assert read(changed).hash != table.hash
    assert read(ROWS[::-1]).hash != table.hash


def test_values_that_json_has_no_word_for_are_hashed_by_content() -> None:
    def row(day: int, number: str) -> dict[str, object]:
        return {
            "day": datetime.date(2024, 1, day),
            "exact": decimal.Decimal(number),
            "bytes": b"\xff",
            "array": np.arange(3),
        }

    assert read([row(1, "0.1")]).hash == read([row(1, "0.1")]).hash
    assert read([row(1, "0.1")]).hash != read([row(2, "0.1")]).hash
    assert read([row(1, "0.1")]).hash != read([row(1, "0.2")]).hash


def test_select_keeps_order_and_places(table: Table) -> None:
    some = table.select([7, 2])

    assert [row["n"] for row in some] == [7, 2]
    assert some.place(0) == "the data row 8"


@pytest.mark.parametrize(
    ("size", "count"), [(0.3, 3), (0.01, 1), (0.99, 9), (1, 1), (9, 9), (4.0, 4)]
)
def test_split_holds_out_the_share_or_the_count(table: Table, size: float, count: int) -> None:
    rest, held_out = table.split(size, seed=3)

    numbers = [row["n"] for row in rest] + [row["n"] for row in held_out]
    assert len(held_out) == count
    assert sorted(numbers) == list(range(10))
    assert [row["n"] for row in rest] == sorted(row["n"] for row in rest)


def test_split_depends_on_the_seed_alone(table: Table) -> None:
    assert table.split(0.5, seed=1)[1].hash == table.split(0.5, seed=1)[1].hash
    assert table.split(0.5, seed=1)[1].hash != table.split(0.5, seed=2)[1].hash


@pytest.mark.parametrize("size", [0, -1, 10, 11, 2.5, float("nan"), float("inf")])
def test_a_split_that_leaves_one_side_empty_is_refused(table: Table, size: float) -> None:
    with pytest.raises(UserError, match=r"^the data: cannot hold out .* of 10 rows; give a share"):
        table.split(size, seed=0)


def test_one_row_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"cannot hold out 1 of 1 rows"):
        read(ROWS[:1]).split(1, seed=0)
