"""Readers of Parquet and of everything that `datasets` knows: folders, hub ids, its objects."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueup.data.canonical import escaped, one_line
from trueup.data.raw_rows import RawRows
from trueup.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def read_parquet(source: str, path: Path) -> RawRows:
    """A Parquet file, row by row; folder names in its path are no columns.

    Raises: UserError where the file is no Parquet, or a column's name stands twice.
    """
    import pyarrow.parquet as pq

    if path.stat().st_size == 0:
        return RawRows(source=source, unit="row", nothing="the file is empty")
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        table.validate(full=True)
        names, rows = table.column_names, table.to_pylist()
    except Exception as error:  # a stranger's bytes may break the parser anywhere
        raise UserError(f"{source}: cannot be read as Parquet ({one_line(str(error))})") from error
    return _placed(source, names, rows)


def read_folder(source: str, path: Path) -> RawRows:
    """A folder written by `save_to_disk`; of several splits the one named `train`.

    Raises: UserError where the folder holds no data set, or it cannot be told which split is meant.
    """
    import datasets

    if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise UserError(
            f"{source}: a folder that holds no data set; give a file, or a folder that "
            "datasets' save_to_disk wrote"
        )
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # a stranger's bytes may break the parser anywhere
        raise UserError(f"{source}: cannot be read as a data set ({_reason(error)})") from error
    return read_dataset(source, loaded)


def read_hub(source: str, identifier: str, split: str | None) -> RawRows:
    """A data set on the Hugging Face hub, or its copy in the local cache.

    Raises: UserError where it cannot be had, without a network for example.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(identifier, split=split)
    except Exception as error:  # network, rights, formats: the library raises dozens of classes
        raise UserError(
            f"{source}: no such file or folder, and not to be had from the hub ({_reason(error)})"
        ) from error
    return read_dataset(source, loaded)


def read_dataset(source: str, data: "Dataset | DatasetDict") -> RawRows:
    """The rows of a loaded data set; pictures and sounds stay encoded.

    Raises: UserError where there are several splits and none is named `train`, or the rows cannot
            be decoded.
    """
    import datasets

    if isinstance(data, dict):
        data = _one_split(source, data)
    if not isinstance(data, datasets.Dataset):
        raise UserError(
            f"{source}: a {type(data).__name__} has no end that could be validated; "
            "take a number of rows from it first"
        )
    try:
        data.data.validate(full=True)  # without it, damaged offsets read memory that is not theirs
        names, rows = data.column_names, data.with_format(None).to_list()
    except Exception as error:  # a stranger's bytes may break the parser anywhere
        raise UserError(f"{source}: cannot be read as a data set ({_reason(error)})") from error
    return _placed(source, names, rows)


def _one_split(source: str, splits: "DatasetDict") -> "Dataset":
    if "train" in splits:
        return splits["train"]
    if len(splits) == 1:
        return next(iter(splits.values()))
    names = ", ".join(map(escaped, splits)) or "none"
    raise UserError(f"{source}: holds several splits and none is named train; choose one: {names}")


def _placed(source: str, names: list[str], rows: list[dict[str, Any]]) -> RawRows:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{source}: column {escaped(twice)!r} stands twice")
    numbers = list(range(1, len(rows) + 1))
    return RawRows(source=source, unit="row", rows=rows, numbers=numbers, columns=names)


def _reason(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}")
