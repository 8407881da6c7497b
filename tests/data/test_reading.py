"""Every kind of source becomes the same table, and real files are read whole."""

import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from trueup.data import CONTRACTS, Table, read
from trueup.errors import UserError

PAIRS = [
    {"prompt": "Was?", "chosen": 'Ein "Zitat", ja', "rejected": "No\nwhy"},
    {"prompt": "", "chosen": "ja", "rejected": " "},
    {"prompt": "日本\u2028", "chosen": "a\tb", "rejected": "a,b\r\nc"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    frame = pd.DataFrame(rows)
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        case ".csv":
            frame.to_csv(path, index=False, lineterminator="\n")
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t", lineterminator="\n")
        case ".parquet":
            frame.to_parquet(path, index=False)
        case _:
            datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ""])
def test_every_format_gives_the_same_table(tmp_path: Path, ending: str) -> None:
    table = read(write(tmp_path / f"prefs{ending}", PAIRS), contract="pairs")

    assert table.rows == PAIRS
    assert table.hash == read(PAIRS, contract="pairs").hash
    assert table.columns == ["prompt", "chosen", "rejected"]


def test_datasets_objects_are_read_like_lists() -> None:
    data = datasets.Dataset.from_list(PAIRS)

    assert read(data, contract="pairs").rows == PAIRS
    assert read(datasets.DatasetDict(train=data, test=data), contract="pairs").rows == PAIRS


def test_a_table_can_be_read_again_under_another_contract(tmp_path: Path) -> None:
    table = read(write(tmp_path / "prefs.jsonl", PAIRS), contract="pairs")

    again = read(table, contract="completions")

    assert [row["completion"] for row in again] == [row["chosen"] for row in PAIRS]
    assert again.place(1) == table.place(1)


def test_the_train_split_of_a_folder_is_taken_and_no_other_guessed(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(PAIRS)
    datasets.DatasetDict(train=data.select([0]), test=data).save_to_disk(tmp_path / "both")
    datasets.DatasetDict(a=data, b=data).save_to_disk(tmp_path / "neither")

    assert len(read(tmp_path / "both", contract="pairs")) == 1
    with pytest.raises(UserError, match=r"none is named train; choose one: a, b$"):
        read(tmp_path / "neither", contract="pairs")
    assert len(read(tmp_path / "neither" / "a", contract="pairs")) == 3


def test_a_hub_id_without_a_network_is_one_line() -> None:
    with pytest.raises(UserError) as caught:
        read("some-org/some-data:test", contract="pairs")

    assert str(caught.value).startswith("some-org/some-data:test: no such file or folder, and not")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "asked"), [("org/data", ("org/data", None)), ("org/data:test", ("org/data", "test"))]
)
def test_a_hub_id_may_name_its_split(
    monkeypatch: pytest.MonkeyPatch, name: str, asked: tuple[str, str | None]
) -> None:
    """The hub stands in for itself here: only what it is asked for is tested."""
    calls = []

    def load_dataset(identifier: str, *, split: str | None) -> Any:
        calls.append((identifier, split))
        data = datasets.Dataset.from_list(PAIRS)
        return data if split else datasets.DatasetDict(validation=data)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    assert read(name, contract="pairs").rows == PAIRS
    assert calls == [asked]


def test_a_stream_without_an_end_is_refused() -> None:
    stream = datasets.Dataset.from_list(PAIRS).to_iterable_dataset()

    with pytest.raises(UserError, match="a IterableDataset has no end that could be validated"):
        read(stream, contract="pairs")


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_byte_order_mark_carriage_returns_and_blank_lines_change_nothing(
    tmp_path: Path, ending: str
) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    plain = write(tmp_path / f"plain{ending}", rows)
    marked = tmp_path / f"marked{ending}"
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n\r\n"))

    assert read(marked, contract="completions").rows == rows


def test_places_are_lines_of_the_file_and_not_row_numbers(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text('prompt,n\n"two\nlines",1\n\nnext,2\n', encoding="utf-8")

    table = read(path, contract="prompts")

    assert [table.place(0), table.place(1)] == [f"{path}:2", f"{path}:5"]


def test_places_of_sources_without_lines_are_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "prefs.parquet", PAIRS)

    assert read(path).place(2) == f"{path} row 3"
    assert read(PAIRS).place(0) == "the data row 1"


def test_columns_that_nobody_asked_for_are_kept() -> None:
    assert read([{"prompt": "a", "source": 3}], contract="prompts").rows[0]["source"] == 3


def test_absent_optional_columns_become_none(tmp_path: Path) -> None:
    path = tmp_path / "probes.csv"
    path.write_text("id,group\n1,\n2,x\n", encoding="utf-8")

    table = read(path, columns=("id",), optional=("group", "cluster"))

    assert table.rows == [
        {"id": "1", "group": None, "cluster": None},
        {"id": "2", "group": "x", "cluster": None},
    ]


def test_long_csv_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(f"prompt\n{'x' * 200_000}\n", encoding="utf-8")

    assert len(read(path, contract="prompts").rows[0]["prompt"]) == 200_000


def test_json_lines_under_a_json_ending_are_read(tmp_path: Path) -> None:
    path = tmp_path / "prefs.json"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n', encoding="utf-8")

    assert len(read(path, contract="prompts")) == 2


def test_reading_changes_none_of_the_rows_given() -> None:
    given = [{"prompt": "a", "completion": "b", "label": "1"}]

    read(given, contract="labelled", optional=("other",))

    assert given == [{"prompt": "a", "completion": "b", "label": "1"}]


def test_contracts_are_the_ecosystems_columns() -> None:
    assert CONTRACTS == {
        "pairs": ("prompt", "chosen", "rejected"),
        "routed": ("prompt", "chosen", "rejected", "objective"),
        "anchored": ("prompt", "chosen", "rejected", "baseline"),
        "traces": ("prompt", "chosen", "rejected", "chosen_no_think", "rejected_no_think"),
        "dispreferred": ("prompt", "rejected"),
        "labelled": ("prompt", "completion", "label"),
        "rewarded": ("prompt", "completion", "reward"),
        "scored": ("prompt", "completion", "mean_ref_logp"),
        "completions": ("prompt", "completion"),
        "questions": ("question", "answers"),
        "demonstrations": ("demonstrations", "query", "target"),
        "prompts": ("prompt",),
        "documents": ("docs", "suffix"),
        "messages": ("messages",),
    }


@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [
        (
            "crows_pairs.csv",
            ("id", "sent_more", "sent_less", "stereo_antistereo", "bias_type"),
            1000,
        ),
        (
            "bbq_age.jsonl",
            ("example_id", "context", "question", "ans0", "ans1", "ans2", "label"),
            800,
        ),
        ("winogender_sentences.tsv", ("sentid", "sentence"), 720),
        ("bec_pro_en.tsv", ("Sentence", "Gender"), 800),
    ],
)
def test_real_audit_files_are_read_whole(
    shared_data: Path, name: str, columns: tuple[str, ...], rows: int
) -> None:
    assert len(read(shared_data / name, columns=columns)) == rows


def test_real_preference_pairs_are_read_whole_and_split(shared_data: Path) -> None:
    table = read(shared_data / "hh_harmless_pairs.jsonl", contract="pairs")

    train, held_out = table.split(200, seed=0)

    assert len(table) == 1000
    assert isinstance(train, Table)
    assert (len(train), len(held_out)) == (800, 200)
    assert table.place(16).endswith("hh_harmless_pairs.jsonl:17")


def test_whole_dialogues_split_into_the_real_prompts(shared_data: Path) -> None:
    table = read(shared_data / "hh_harmless_pairs.jsonl", contract="pairs")
    dialogues = [
        {side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in table
    ]

    # A chosen or rejected text that holds a further assistant turn is split there: none does.
    assert read(dialogues, contract="pairs").hash == table.hash
