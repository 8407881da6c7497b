"""Judged pairs as a table: checked, told from one side, and both orders of a pair made one item."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.errors import UserError

OUTCOMES = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5}
ORDERS = ("ab", "ba")
REQUIRED = ("model_a", "model_b", "winner")
LENGTHS = ("length_a", "length_b")
OPTIONAL = ("prompt_id", "order", "judge", *LENGTHS)
_TOLD = {"won": "mean", "least": "min", "most": "max"}
ITEM = ["prompt", "one", "other", "judge"]  # what makes two rows one pair in two orders


def checked(table: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """The comparisons told for the model whose name comes first in the alphabet, row by row.

    Columns: prompt, one, other, judge, and won, the outcome for `one`; first_won and is_first where
             orders are told; longer_by, how much longer the answer of `one` is, where lengths are.
    Raises: UserError where a column is missing or a cell holds what it cannot.
    """
    _check_columns(table, baseline)
    _check_cells(table)
    named = [name for name in ("model_a", "model_b", "prompt_id", "judge") if name in table]
    table = table.assign(**{name: table[name].map(str) for name in named})
    is_turned = (table["model_a"] > table["model_b"]).to_numpy()
    won = table["winner"].map(OUTCOMES).to_numpy(dtype=np.float64)
    result = pd.DataFrame(
        {
            "one": np.where(is_turned, table["model_b"], table["model_a"]),
            "other": np.where(is_turned, table["model_a"], table["model_b"]),
            "won": np.where(is_turned, 1 - won, won),
            "judge": table["judge"].to_numpy() if "judge" in table else "",
            "prompt": table["prompt_id"].to_numpy() if "prompt_id" in table else range(len(table)),
        }
    )
    if "order" in table:
        result["is_first"] = (table["order"] == "ab").to_numpy() != is_turned
        result["first_won"] = np.where(result["is_first"], result["won"], 1 - result["won"])
    if set(LENGTHS) <= {*table}:
        a, b = (table[column].to_numpy(dtype=np.float64) for column in LENGTHS)
        result["longer_by"] = np.where(is_turned, b - a, a - b)
    return result


def items_of(table: pd.DataFrame) -> pd.DataFrame:
    """One row per prompt, pair of models and judge: the mean over its rows, least and most."""
    told: dict[str, Any] = {name: ("won", how) for name, how in _TOLD.items()}
    if "longer_by" in table:
        told["longer_by"] = ("longer_by", "mean")
    if "is_first" in table:
        told["orders"] = ("is_first", "nunique")
    items: pd.DataFrame = table.groupby(ITEM).agg(**told).reset_index()
    return items


def clusters_of(items: pd.DataFrame) -> NDArray[np.int64] | None:
    """The prompt of every item as a number; None where each item, or none, has one of its own."""
    codes, names = pd.factorize(items["prompt"])
    return codes.astype(np.int64) if 1 < len(names) < len(items) else None


def _check_columns(table: pd.DataFrame, baseline: str | None) -> None:
    """Raise UserError unless the table has rows and the columns that are needed."""
    known = ", ".join(map(str, table.columns)) or "none"
    needed = [*REQUIRED, *(LENGTHS if baseline is not None else ())]
    for column in needed:
        if column not in table:
            raise UserError(f"comparisons: the column {column!r} is missing; known: {known}")
    if table.empty:
        raise UserError("comparisons: there are none; give at least one row")
    models = sorted({*map(str, table["model_a"]), *map(str, table["model_b"])})
    if baseline is not None and baseline not in models:
        raise UserError(f"no model {baseline!r} to be the baseline; known: {', '.join(models)}")


def _check_cells(table: pd.DataFrame) -> None:
    """Raise UserError where a cell is empty or holds what it cannot."""
    for column in (name for name in (*REQUIRED, *OPTIONAL) if name in table):
        for number in np.flatnonzero(table[column].isna())[:1]:
            raise UserError(f"comparisons row {number + 1}: {column!r} is empty")
    _check_among(table, "winner", tuple(OUTCOMES))
    if "order" in table:
        _check_among(table, "order", ORDERS)
    for column in (name for name in LENGTHS if name in table):
        numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
        for number in np.flatnonzero(~(numbers >= 0))[:1]:
            raise UserError(
                f"comparisons row {number + 1}: {column!r} must be a number of at least 0, "
                f"got {table[column].iloc[number]!r}"
            )
    same = (table["model_a"] == table["model_b"]).to_numpy()
    for number in np.flatnonzero(same)[:1]:
        raise UserError(
            f"comparisons row {number + 1}: a model is compared with itself, "
            f"got {table['model_a'].iloc[number]!r} twice"
        )


def _check_among(table: pd.DataFrame, column: str, allowed: Sequence[str]) -> None:
    """Raise UserError unless every cell of the column is one of the allowed."""
    for number in np.flatnonzero(~table[column].isin(allowed))[:1]:
        raise UserError(
            f"comparisons row {number + 1}: {column!r} must be one of {', '.join(allowed)}, "
            f"got {table[column].iloc[number]!r}"
        )
