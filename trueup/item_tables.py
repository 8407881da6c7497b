"""Tables of items: rows of several audits in one, whatever their columns, and the way back."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from trueup.errors import UserError
from trueup.files import replacing

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

COLUMNS = "audits"  # metadata of a table: which columns each audit has


def item_table(items: "pd.DataFrame") -> "pa.Table":
    """The frame as a table without its index."""
    import pyarrow as pa

    if "id" not in items.columns:
        raise ValueError(f"items need a column 'id', got {', '.join(map(str, items.columns))}")
    return pa.Table.from_pandas(items, preserve_index=False)


def merged(tables: list["pa.Table"]) -> "pa.Table":
    """One table, the same however the rows were cut into chunks; of equal ids the last stays."""
    import numpy as np
    import pyarrow as pa

    bare, own = _told_apart(tables)
    merged = pa.concat_tables(bare, promote_options="permissive").combine_chunks()
    if own:
        merged = merged.replace_schema_metadata({COLUMNS: json.dumps(own)})
    keys = merged.select([n for n in ("audit", "id") if n in merged.column_names]).to_pandas()
    last = ~keys.duplicated(keep="last").to_numpy()
    return merged if last.all() else merged.take(np.flatnonzero(last)).combine_chunks()


def read_parquet(file: Path, columns: list[str] | None = None) -> "pa.Table":
    """The table in the file, of these columns those that it has.

    Raises: UserError where it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        known = set(pq.read_schema(file).names)
        wanted = None if columns is None else [name for name in columns if name in known]
        return pq.ParquetFile(file).read(columns=wanted)
    except (pa.ArrowInvalid, OSError) as error:
        said = str(error).partition("\n")[0]
        raise UserError(f"{file}: not a readable Parquet file ({said})") from error


def rows_of_audit(table: "pa.Table", audit: str) -> "pa.Table":
    """The rows of one audit, its own columns only, by their own names."""
    import pyarrow.compute as pc

    if "audit" in table.column_names:
        table = table.filter(pc.equal(table["audit"], audit))
    own = columns_of(table).get(audit, table.column_names)
    table = table.select([name for name in table.column_names if name in own])
    return table.rename_columns([name.removeprefix(f"{audit}.") for name in table.column_names])


def write_parquet(path: Path, table: "pa.Table") -> None:
    """Write the table, atomically."""
    import pyarrow.parquet as pq

    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def _told_apart(tables: list["pa.Table"]) -> tuple[list["pa.Table"], dict[str, list[str]]]:
    """The tables without metadata, and which columns each audit has.

    A column that two audits fill with values of unlike types stands as `AUDIT.column`.
    """
    import pyarrow as pa

    own: dict[str, list[str]] = {}
    for table in tables:
        own.update(columns_of(table))
    clashing = _clashing([table.schema for table in tables])
    bare = []
    for table in tables:
        names = table.column_names
        if "audit" in names and not columns_of(table) and len(table):
            audit = table["audit"][0].as_py()
            names = [f"{audit}.{name}" if name in clashing else name for name in names]
            own[audit] = list(dict.fromkeys([*own.get(audit, ()), *names]))
        bare.append(pa.Table.from_arrays(table.columns, names=names))
    return bare, own


def _clashing(schemas: list["pa.Schema"]) -> set[str]:
    """The columns whose types in several tables cannot become one."""
    import pyarrow as pa

    clashing = set()
    known: dict[str, pa.Schema] = {}
    for field in (field for schema in schemas for field in schema):
        schema = pa.schema([field])
        try:
            both = [known.get(field.name, schema), schema]
            known[field.name] = pa.unify_schemas(both, promote_options="permissive")
        except pa.ArrowTypeError:
            clashing.add(field.name)
    return clashing


def columns_of(table: "pa.Table") -> dict[str, list[str]]:
    """The columns of each audit, as the table's metadata tell; none where they do not."""
    told = (table.schema.metadata or {}).get(COLUMNS.encode())
    found: dict[str, list[str]] = json.loads(told) if told else {}
    return found
