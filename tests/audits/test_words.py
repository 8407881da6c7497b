"""Words and word lists: how a text is cut, what the lists hold, and which files are refused."""

from pathlib import Path

import pytest

from trueup.audits.text.words import (
    Vocabulary,
    listed_words,
    neutral_words,
    person_words,
    without_accents,
    words,
)
from trueup.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She's here; the girl\u2019s dog isn't.", ["she", "here", "the", "girl", "dog", "isn't"]),
        ("non-binary, well-known -- 42!", ["non-binary", "well-known", "42"]),
        ("'Hello' said HE_man", ["hello", "said", "he", "man"]),
        ("Ærø naïve", ["ærø", "naïve"]),
        ("  ", []),
    ],
)
def test_a_text_is_cut_into_words(text: str, expected: list[str]):
    assert words(text) == expected


def test_the_longest_listed_phrase_is_one_word():
    vocabulary = Vocabulary(["African American", "african", "African American woman"])
    found = vocabulary.cut("An African American woman met an African american and an African.")
    assert found[1:3] == ["african american woman", "met"]
    assert found[4:] == ["african american", "and", "an", "african"]


def test_accents_are_taken_off():
    assert without_accents("fén Çà") == "fen Ca"


def test_the_built_in_persons_are_two_lists_of_one_length():
    persons = person_words("gender")
    assert persons.groups == ("female", "male")
    assert persons.sizes.tolist() == [20, 20]
    assert persons.counts(words("She and her son; he.")).tolist() == [2, 2]


@pytest.mark.parametrize("name", ["occupations", "adjectives"])
def test_built_in_neutral_words_are_distinct_and_name_no_gender(name: str):
    found = neutral_words(name)
    assert len(set(found)) == len(found) > 50
    assert not set(found) & set(person_words("gender").group_of)


def test_a_list_is_read_again_when_its_file_changes(tmp_path: Path):
    path = tmp_path / "list.txt"
    path.write_text("# jobs\nNurse\n\nnurse\ncab driver\n", encoding="utf-8")
    assert neutral_words(str(path)) == ("nurse", "cab driver")
    path.write_text("pilot\n", encoding="utf-8")
    assert neutral_words(str(path)) == ("pilot",)


def test_a_table_has_a_column_of_words(tmp_path: Path):
    path = tmp_path / "list.csv"
    path.write_text("word,kind\nNurse,job\npilot,job\n", encoding="utf-8")
    assert listed_words(path) == ["nurse", "pilot"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("word,group\nshe,women\n", "persons need two groups or more, got women"),
        ("word,group\nshe,women\nShe,men\n", "'She' stands in two groups; keep it in one"),
        ("word,side\nshe,women\n", "'group' is missing"),
    ],
)
def test_persons_that_cannot_be_read_are_refused(tmp_path: Path, content: str, problem: str):
    path = tmp_path / "persons.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=problem):
        person_words(str(path))


def test_an_unknown_list_is_refused_with_those_that_are_known():
    with pytest.raises(UserError, match="no file or list of words 'occupation'; did you mean"):
        neutral_words("occupation")


def test_an_empty_list_is_refused(tmp_path: Path):
    path = tmp_path / "list.txt"
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(UserError, match="holds no words; write one a line"):
        listed_words(path)
