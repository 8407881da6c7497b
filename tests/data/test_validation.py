"""Whatever is wrong with the user's file comes back as one line with its place."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trueup.data import read
from trueup.errors import UserError

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}


def line_17(bad: str) -> bytes:
    """A JSONL file whose line 17 is `bad`."""
    return "".join(f"{bad if n == 17 else json.dumps(GOOD)}\n" for n in range(1, 21)).encode()


def message(path: Path, content: bytes, contract: str = "pairs") -> str:
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path, contract=contract)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 2
    return str(caught.value).removeprefix(f"{path.parent}/")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"prompt": "p", "chosen": "c"}', "'rejected' is missing"),
        ('{"prompt": "p", "chosen": "c", "rejected": null}', "'rejected' is missing, got null"),
        ('{"prompt": "p", "chosen": "c", "rejected": ""}', "'rejected' is empty"),
        (
            '{"prompt": 3, "chosen": "c", "rejected": "r"}',
            "'prompt' must be text or a list of messages, got 3",
        ),
        (
            '{"prompt": "p", "chosen": 1.5, "rejected": "r"}',
            "'chosen' must be text or a list of messages, got 1.5",
        ),
        (
            '{"prompt": "p", "chosen": "r", "rejected": "r"}',
            "'chosen' and 'rejected' are equal, got 'r'; a pair must prefer one",
        ),
        (
            '{"prompt": "p", ',
            "not valid JSON (Expecting property name enclosed in double quotes at column 17)",
        ),
        ('["p"]', "must be a JSON object, got ['p']"),
        ('{"prompt": "p", "prompt": "q"}', "not valid JSON ('prompt' stands twice)"),
        (
            '{"prompt": "\\ud800", "chosen": "c", "rejected": "r"}',
            "'prompt' is not valid Unicode, got half a character '\\ud800'",
        ),
        ("[" * 100_000, "not valid JSON (nested too deeply)"),
    ],
)
def test_a_bad_row_is_named_with_file_line_and_column(tmp_path: Path, bad: str, said: str) -> None:
    assert message(tmp_path / "prefs.jsonl", line_17(bad)) == f"prefs.jsonl:17: {said}"


def test_numbers_without_end_are_no_json(tmp_path: Path) -> None:
    said = message(tmp_path / "prefs.jsonl", line_17('{"prompt": ' + "1" * 5000 + "}"))

    assert said.startswith("prefs.jsonl:17: not valid JSON (Exceeds the limit")


def test_bytes_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    content = line_17("X").replace(b"X", b'{"prompt": "\xff"}')

    said = message(tmp_path / "prefs.jsonl", content)

    assert said == "prefs.jsonl:17: not valid UTF-8, got byte 0xff; save the file as UTF-8"


@pytest.mark.parametrize("ending", ["jsonl", "csv", "json"])
def test_utf16_is_told_apart(tmp_path: Path, ending: str) -> None:
    said = message(tmp_path / f"prefs.{ending}", "prompt,chosen".encode("utf-16"))

    assert said == f"prefs.{ending}: is UTF-16; save it as UTF-8"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "a.jsonl: the file is empty"),
        ("a.jsonl", b"\n \n", "a.jsonl: the file is empty"),
        ("a.json", b"", "a.json: the file is empty"),
        ("a.json", b"[]", "a.json: the list is empty"),
        ("a.csv", b"", "a.csv: the file is empty"),
        ("a.csv", b"prompt,chosen,rejected\n", "a.csv: no rows below the header"),
        ("a.parquet", b"", "a.parquet: the file is empty"),
        (
            "a.txt",
            b"text",
            "a.txt: unknown ending, got '.txt'; "
            "known: .csv, .json, .jsonl, .ndjson, .parquet, .tsv",
        ),
        (
            "a.csv",
            b"prompt,chosen,prompt\n1,2,3\n",
            "a.csv:1: column 'prompt' stands twice in the header",
        ),
        ("a.csv", b",,\n1,2,3\n", "a.csv:1: the header names no column"),
        (
            "a.csv",
            b"prompt,chosen,rejected\na,b\n",
            "a.csv:2: has 2 fields, but the header names 3",
        ),
        (
            "a.csv",
            b'prompt,chosen,rejected\na,b,c\n"a,b\n',
            "a.csv:3: not valid CSV (a quoted field is never closed)",
        ),
        (
            "a.csv",
            b'prompt,chosen,rejected\na,b\n"a,b\n',
            "a.csv:2: has 2 fields, but the header names 3 (and 1 more)",
        ),
        (
            "a.csv",
            b"prompt,chosen,rejected\na,b,c\0\n",
            "a.csv:2: holds a NUL byte, which no text does",
        ),
        (
            "a.csv",
            b"prompt,chosen,rejected\na,b,\xff\n",
            "a.csv:2: not valid UTF-8, got byte 0xff; save the file as UTF-8",
        ),
        (
            "a.csv",
            b"What is it?,this,that\nx,y,z\n",
            "a.csv:1: 'prompt', 'chosen', 'rejected' are missing; columns: What is it?, this, that",
        ),
        ("a.json", b'[{"prompt": 1},\n]', "a.json:2: not valid JSON (Expecting value at column 1)"),
        (
            "a.json",
            b'[{"prompt": "a", "prompt": "b"}]',
            "a.json: not valid JSON ('prompt' stands twice)",
        ),
        ("a.json", b"[1]", "a.json row 1: must be a JSON object, got 1"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    assert message(tmp_path / name, content) == said


@pytest.mark.parametrize(
    ("present", "said"),
    [
        ("reject", "'rejected' is missing; did you mean 'reject'? columns: prompt, chosen, reject"),
        (
            "Rejected",
            "'rejected' is missing; did you mean 'Rejected'? columns: prompt, chosen, Rejected",
        ),
        ("loser", "'rejected' is missing; did you mean 'loser'? columns: prompt, chosen, loser"),
        ("x\ny", "'rejected' is missing; columns: prompt, chosen, x\\ny"),
    ],
)
def test_a_missing_column_lists_those_that_are_there(
    tmp_path: Path, present: str, said: str
) -> None:
    rows = [{"prompt": "p", "chosen": "c", present: "r"}] * 3

    content = "".join(json.dumps(row) + "\n" for row in rows).encode()

    assert message(tmp_path / "prefs.jsonl", content) == f"prefs.jsonl:1: {said}"


def test_several_missing_columns_are_named_at_once() -> None:
    with pytest.raises(UserError, match=r"did you mean 'question' for 'prompt', 'answer' for 'com"):
        read([{"question": "q", "answer": "a"}], contract="completions")


def test_wide_files_do_not_flood_the_line() -> None:
    with pytest.raises(UserError, match=r"columns: c0, .*, c11 and 88 more$"):
        read([{f"c{n}": "" for n in range(100)}], contract="prompts")


def test_the_first_of_many_problems_is_told_with_their_number(tmp_path: Path) -> None:
    lines = [json.dumps(GOOD), '{"prompt": "p", "chosen": "c"}', "{", json.dumps(GOOD), "7"]

    said = message(tmp_path / "prefs.jsonl", "\n".join(lines).encode())

    assert said == "prefs.jsonl:2: 'rejected' is missing (and 2 more)"


@pytest.mark.parametrize("value", ["maybe", "yes", "", 2, -1, 0.5, [], {}, "nan"])
def test_a_label_that_is_neither_true_nor_false_is_refused(value: Any) -> None:
    with pytest.raises(UserError) as caught:
        read([{"prompt": "p", "completion": "c", "label": value}], contract="labelled")

    assert str(caught.value) == f"the data row 1: 'label' must be true or false, got {value!r}"


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (True, True), (1, True), (1.0, True), ("true", True), ("True", True), ("1", True),
        (False, False), (0, False), (0.0, False), ("FALSE", False), (" false ", False),
        ("0", False),
    ],
)  # fmt: skip
def test_labels_are_read_as_people_write_them(value: Any, label: bool) -> None:
    table = read([{"prompt": "p", "completion": "c", "label": value}], contract="labelled")

    assert table.rows[0]["label"] is label


@pytest.mark.parametrize(
    "value", ["nan", float("nan"), float("inf"), "-Infinity", 10**400, True, "x", []]
)
def test_a_reward_must_be_a_finite_number(value: Any) -> None:
    with pytest.raises(
        UserError, match=r"^the data row 1: 'reward' must be a (finite )?number, got"
    ):
        read([{"prompt": "p", "completion": "c", "reward": value}], contract="rewarded")


@pytest.mark.parametrize(("value", "reward"), [(1, 1.0), ("-0.5", -0.5), (2e3, 2000.0)])
def test_rewards_become_floats(value: Any, reward: float) -> None:
    table = read([{"prompt": "p", "completion": "c", "reward": value}], contract="rewarded")

    assert table.rows[0]["reward"] == reward


def test_json_infinity_is_refused_as_a_reward(tmp_path: Path) -> None:
    content = b'{"prompt": "p", "completion": "c", "reward": Infinity}'

    said = message(tmp_path / "r.jsonl", content, contract="rewarded")

    assert said == "r.jsonl:1: 'reward' must be a finite number, got inf"


@pytest.mark.parametrize(("value", "said"), [(None, "is missing, got null"), ("", "is empty")])
def test_required_columns_of_an_audit_must_hold_something(value: Any, said: str) -> None:
    with pytest.raises(UserError, match=rf"^the data row 2: 'id' {said}$"):
        read([{"id": "1"}, {"id": value}], columns=("id",))


def test_parquet_problems_are_placed_by_row(tmp_path: Path) -> None:
    path = tmp_path / "prefs.parquet"
    pq.write_table(
        pa.table({"prompt": ["a", "b"], "chosen": ["c", "d"], "rejected": ["e", "d"]}), path
    )

    with pytest.raises(UserError) as caught:
        read(path, contract="pairs")

    assert str(caught.value).startswith(f"{path} row 2: 'chosen' and 'rejected' are equal")


def test_parquet_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prefs.parquet"
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"]), path)

    with pytest.raises(UserError, match=r"column 'prompt' stands twice$"):
        read(path, contract="prompts")


def test_other_bytes_under_a_parquet_ending_are_one_line(tmp_path: Path) -> None:
    said = message(tmp_path / "a.parquet", b"prompt,chosen\n")

    assert said.startswith("a.parquet: cannot be read as Parquet (")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nope.jsonl", "nope.jsonl: no such file"),
        ("./data/nope.csv", "./data/nope.csv: no such file"),
        ("org/nope.parquet", "org/nope.parquet: no such file"),
        (Path("org/nope"), "org/nope: no such file"),
        (
            "~nobody-of-that-name/a.csv",
            "~nobody-of-that-name/a.csv: cannot be read (Could not determine home directory.)",
        ),
        ("/dev/null", "/dev/null: neither a file nor a folder"),
        ("two\nlines.jsonl", "two\\nlines.jsonl: no such file"),
        ("a\0b.jsonl", "a\\x00b.jsonl: no such file"),
        ("", "the data has no name; give a path or a hub id"),
        ([], "the data: holds no rows"),
        ([3], "the data row 1: must be a dict, got 3"),
        ([{1: "a"}], "the data row 1: column names must be text, got 1"),
        (
            7,
            "cannot read data from a int, got 7; "
            "give a path, a hub id, a list of dicts or a datasets.Dataset",
        ),
    ],
)
def test_a_source_that_is_none_is_one_line(source: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read(source, contract="prompts")

    assert str(caught.value) == said


def test_a_folder_that_is_no_data_set_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="a folder that holds no data set; give a file, or a folder"
    ):
        read(tmp_path, contract="prompts")


def test_a_broken_data_set_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{", encoding="utf-8")

    with pytest.raises(UserError) as caught:
        read(tmp_path, contract="prompts")

    assert "cannot be read as a data set (" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_offsets_that_point_outside_of_a_data_set_are_one_line(tmp_path: Path) -> None:
    """Arrow follows them into foreign memory and kills the process, unless it validates first."""
    datasets.Dataset.from_dict({"prompt": ["a", "b"]}).save_to_disk(tmp_path / "data")
    file = next((tmp_path / "data").glob("*.arrow"))
    offsets = np.array([0, 1, 2], dtype="<i4").tobytes()
    before, found, after = file.read_bytes().rpartition(offsets)
    assert found
    file.write_bytes(before + np.array([0, 1, 2**30], dtype="<i4").tobytes() + after)

    with pytest.raises(UserError, match=r"cannot be read as a data set \(ArrowInvalid"):
        read(tmp_path / "data", contract="prompts")


def test_an_unknown_contract_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"^no contract 'pair'; did you mean 'pairs'\? known: anch"):
        read([GOOD], contract="pair")


def test_content_that_no_file_could_hold_is_refused() -> None:
    itself: list[Any] = []
    itself.append(itself)
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]

    for value, said in [
        (itself, "'x' Circular reference detected"),
        (deep, "'x' is nested too deeply"),
        (object(), "'x' holds a object, which is no plain data"),
    ]:
        with pytest.raises(UserError, match=f"^the data row 1: {said}$"):
            read([{"x": value}])


def test_good_rows_raise_no_alarm(tmp_path: Path) -> None:
    path = tmp_path / "prefs.jsonl"
    path.write_bytes(line_17(json.dumps(GOOD)))

    assert len(read(path, contract="pairs")) == 20
