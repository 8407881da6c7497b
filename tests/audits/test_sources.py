from pathlib import Path

import pytest

from trueup.audits import AUDITS, audit, probes_of, read_data
from trueup.data import read
from trueup.errors import UserError

WITH_OWN_DATA = [name for name, kind in AUDITS.items() if hasattr(kind, "builtin")]


@pytest.mark.parametrize("name", sorted(set(AUDITS) - set(WITH_OWN_DATA)))
def test_missing_data_is_one_line_with_the_columns(name: str):
    made = audit(name)
    with pytest.raises(UserError, match="--data FILE") as caught:
        read_data(made, None)
    line = str(caught.value)
    assert "\n" not in line
    assert name in line
    assert all(column in line for column in made.columns)


@pytest.mark.parametrize("name", WITH_OWN_DATA)
def test_built_in_data_makes_probes(name: str):
    made = audit(name)
    table = read_data(made, None)
    assert table.source == f"{name}'s own data"
    assert probes_of(made, table)


def test_several_files_are_one_data_set_with_ids_of_their_own(tmp_path: Path):
    files = [tmp_path / "first.csv", tmp_path / "second.csv"]
    for file in files:
        file.write_text("id,sent_more,sent_less\n1,a,b\n")
    table = read_data(audit("crows-pairs"), files)
    assert [row["id"] for row in table] == ["1", "second/1"]
    assert table.source == f"{files[0]}, {files[1]}"


def test_winogender_says_which_file_it_wants():
    with pytest.raises(UserError, match="Winogender sentences, a table with the columns sentid"):
        read_data(audit("winogender"), None)


def test_a_missing_column_names_the_file(tmp_path: Path):
    file = tmp_path / "pairs.csv"
    file.write_text("id,sent_more\n1,a\n")
    with pytest.raises(UserError, match=r"pairs.csv:1: 'sent_less' is missing"):
        read_data(audit("crows-pairs"), file)


def test_two_items_of_one_id_are_refused():
    rows = [{"id": "7", "text": "a b"}, {"id": "7", "text": "c d"}]
    with pytest.raises(UserError, match="two items of perplexity have the id '7'"):
        probes_of(audit("perplexity"), read(rows, columns=("text",)))


def test_rows_without_an_id_are_numbered():
    table = read_data(audit("perplexity"), [{"text": "a"}, {"text": "b"}])
    assert [probe.id for probe in probes_of(audit("perplexity"), table)] == ["1", "2"]


def test_an_id_of_0_is_an_id():
    table = read_data(audit("perplexity"), [{"id": 0, "text": "a"}, {"id": 1, "text": "b"}])
    assert [probe.id for probe in probes_of(audit("perplexity"), table)] == ["0", "1"]


def test_a_text_file_is_read_by_lines(tmp_path: Path):
    file = tmp_path / "neutral.txt"
    file.write_text("The road is long.\n\n  \nIt rains.\n", encoding="utf-8")
    table = read_data(audit("perplexity"), file)
    assert [row["text"] for row in table] == ["The road is long.", "It rains."]
    assert table.place(1).endswith("neutral.txt:4")


@pytest.mark.parametrize(("content", "message"), [(b"\n \n", "is empty"), (b"\xff", "UTF-8")])
def test_a_bad_text_file_is_refused(tmp_path: Path, content: bytes, message: str):
    file = tmp_path / "neutral.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_data(audit("perplexity"), file)


def test_a_missing_text_file_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be read"):
        read_data(audit("perplexity"), tmp_path / "nothing.txt")
