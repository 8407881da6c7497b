"""The one door for data: read the whole source, validate it, and only then hand it over."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueup.data.readers import raw_rows
from trueup.data.table import Table
from trueup.data.validation import validated

if TYPE_CHECKING:
    from datasets import Dataset


def read(
    source: "str | Path | Iterable[Mapping[str, Any]] | Dataset | Table",
    contract: str | None = None,
    *,
    columns: Iterable[str] = (),
    optional: Iterable[str] = (),
) -> Table:
    """Read and validate everything in `source`.

    Source: a JSONL, JSON (list), CSV, TSV or Parquet file; a folder that `datasets` saved; a hub id
            (`org/name`, `org/name:split`; the split is `train` unless named); a list of mappings;
            a `datasets.Dataset`; a Table.
    Fields: `contract` is one of CONTRACTS and fixes what its columns hold; `columns` must be there
            and hold something, of any type; `optional` ones that are absent become None. Columns
            that nobody asked for are kept.
    Edges:  neighbouring shapes are read as the contract wants them: `pairs` whose prompt stands
            inside chosen and rejected, `completions` from `messages` or from the chosen side of
            pairs, `labelled` from both sides of pairs, `prompts` from any of these.
    Raises: UserError `prefs.jsonl:17: 'rejected' is missing (and 3 more)`, before any work starts.
    """
    return validated(raw_rows(source), contract, tuple(columns), tuple(optional))
