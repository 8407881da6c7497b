"""Any bytes at all give a table or one line, and what is written is what is read."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trueup.data import CONTRACTS, read
from trueup.errors import UserError

fuzz = settings(
    max_examples=6000,
    deadline=None,
    derandomize=False,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ENDINGS = [".jsonl", ".json", ".csv", ".tsv", ".parquet"]
GRAMMAR = [
    *(bytes([byte]) for byte in b'{}[]",:\n\r\t\\\0\xff'),
    *(b"\xef\xbb\xbf", b"\\ud800", b"null", b"true", b"NaN", b"1e999", "\u2028é".encode()),
    *(b'"prompt"', b'"chosen"', b'"rejected"', b'"messages"'),
    b'{"prompt": "a", "chosen": "b", "rejected": "c"}',
    b'[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]',
    b"prompt,chosen,rejected\n",
    b"a,b,c\n",
]
any_bytes = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from(GRAMMAR), max_size=30).map(b"".join),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
)
any_contract = st.sampled_from([None, *CONTRACTS])
plain_text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "x"]), "content": st.text(max_size=5)}
)
column = st.sampled_from(
    ["prompt", "chosen", "rejected", "completion", "label", "reward", "messages"]
)
any_row = st.dictionaries(column, json_value | st.lists(message, max_size=3), max_size=7)


def table_or_one_line(source: Any, contract: str | None) -> None:
    """The claim: nothing but a Table with a hash, or a UserError of one printable line."""
    said = ""
    try:
        table = read(source, contract=contract)
        assert len(table) > 0
        assert len(table.hash) == 64
    except UserError as error:
        said = str(error) or "\n"
    assert said.isprintable()


@pytest.mark.parametrize("ending", ENDINGS)
@fuzz
@given(data=any_bytes, contract=any_contract)
def test_any_bytes_give_a_table_or_one_line(
    tmp_path: Path, ending: str, data: bytes, contract: str | None
) -> None:
    path = tmp_path / f"any{ending}"
    path.write_bytes(data)

    table_or_one_line(path, contract)


@fuzz
@given(rows=st.lists(any_row, max_size=4), contract=any_contract)
def test_any_json_rows_give_a_table_or_one_line(
    tmp_path: Path, rows: list[dict[str, Any]], contract: str | None
) -> None:
    path = tmp_path / "any.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")

    table_or_one_line(path, contract)
    table_or_one_line(rows, contract)


@fuzz
@given(position=st.integers(0, 10_000), change=st.binary(min_size=1, max_size=4))
def test_damaged_parquet_gives_a_table_or_one_line(
    tmp_path: Path, position: int, change: bytes
) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a", "b"], "n": [1, 2]}), sink)
    data = sink.getvalue()
    at = position % len(data)
    path = tmp_path / "damaged.parquet"
    path.write_bytes(data[:at] + change + data[at + len(change) :])

    table_or_one_line(path, "prompts")


@settings(fuzz, max_examples=500)
@given(
    name=st.sampled_from(["state.json", "dataset_info.json", "data-00000-of-00001.arrow"]),
    position=st.integers(0, 10_000),
    change=st.binary(min_size=1, max_size=4),
)
def test_damaged_data_set_folders_give_a_table_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, name: str, position: int, change: bytes
) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "data"
    datasets.Dataset.from_dict({"prompt": ["a", "b"]}).save_to_disk(folder)
    data = (folder / name).read_bytes()
    at = position % len(data)
    (folder / name).write_bytes(data[:at] + change + data[at + len(change) :])

    table_or_one_line(folder, "prompts")


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@fuzz
@given(rows=st.lists(st.tuples(plain_text, plain_text), min_size=1, max_size=4))
def test_what_is_written_is_what_is_read(
    tmp_path: Path, ending: str, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path / f"some{ending}"
    given_rows = [{"prompt": prompt, "completion": completion} for prompt, completion in rows]
    write(path, given_rows)

    table = read(path, contract="completions")

    assert table.rows == given_rows
    assert table.hash == read(given_rows, contract="completions").hash


def write(path: Path, rows: list[dict[str, str]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    elif path.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(
                file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t"
            )
            writer.writeheader()
            writer.writerows(rows)
