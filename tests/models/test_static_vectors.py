from pathlib import Path

import numpy as np
import pytest

from trueup.errors import UserError
from trueup.models.static_vectors import StaticVectors, load_static

WORDS = ["rose", "Eve", "New_York"]
TABLE = np.array([[1.0, 2.0], [3.0, -4.0], [0.5, 0.25]])


@pytest.fixture
def vectors() -> StaticVectors:
    return StaticVectors(WORDS, TABLE, name="three")


def test_a_word_is_looked_up_as_it_stands_then_in_lower_case(vectors: StaticVectors):
    np.testing.assert_array_equal(vectors.text_vectors(["Eve", "Rose", "eve"])[:2], TABLE[[1, 0]])
    assert np.isnan(vectors.text_vectors(["eve"])).all()


def test_a_text_is_the_mean_of_its_known_words(vectors: StaticVectors):
    found = vectors.text_vectors(["This is Eve, a rose.", "nothing known"])
    np.testing.assert_array_equal(found[0], TABLE[:2].mean(axis=0))
    assert np.isnan(found[1]).all()


def test_a_phrase_is_looked_up_whole(vectors: StaticVectors):
    np.testing.assert_array_equal(vectors.text_vectors(["New York"])[0], TABLE[2])


def test_a_span_has_its_words_vector_whatever_stands_around(vectors: StaticVectors):
    np.testing.assert_array_equal(vectors.span_vectors([("A rose is Eve.", 2, 6)])[0], TABLE[0])
    assert vectors.pieces([("A rose is", 2, 6)]) == [1]


def test_the_fingerprint_is_that_of_words_and_vectors(vectors: StaticVectors):
    assert vectors.fingerprint == StaticVectors(WORDS, TABLE, name="other").fingerprint
    assert vectors.fingerprint != StaticVectors(WORDS, TABLE + 1, name="three").fingerprint
    assert vectors.work.as_dict()["trunk_tokens"] == 0


@pytest.mark.parametrize("header", ["", "3 2\n"])
@pytest.mark.parametrize("name", ["glove.txt", "w2v.vec"])
def test_text_files_are_read(tmp_path: Path, header: str, name: str):
    lines = [f"{word} {' '.join(map(str, row))}\n" for word, row in zip(WORDS, TABLE, strict=True)]
    (tmp_path / name).write_text(header + "".join(lines), encoding="utf-8")
    found = load_static(tmp_path / name)
    np.testing.assert_array_equal(found.table, TABLE)
    assert list(found.rows) == list(reversed(WORDS))


def test_a_word_with_blanks_keeps_them(tmp_path: Path):
    (tmp_path / "a.txt").write_text("rose 1 2\n. . . 3 4\n")
    assert load_static(tmp_path / "a.txt").rows[". . ."] == 1


def test_an_npz_is_read(tmp_path: Path):
    np.savez(tmp_path / "a.npz", words=np.array(WORDS), vectors=TABLE)
    np.testing.assert_array_equal(load_static(tmp_path / "a.npz").table, TABLE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rose 1 2\nEve 1 x\n", r"a.txt:2: 2 numbers must follow a word"),
        ("rose 1 2\nEve 1\n", r"a.txt:2: "),
        ("rose\n", r"a.txt:1: "),
        ("", r"a.txt"),
    ],
)
def test_a_bad_text_file_is_refused_with_its_line(tmp_path: Path, content: str, message: str):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        load_static(tmp_path / "a.txt")


def test_a_bad_npz_is_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", words=np.array(WORDS))
    with pytest.raises(UserError, match="must hold the arrays words and vectors"):
        load_static(tmp_path / "a.npz")


def test_one_vector_per_word_is_needed():
    with pytest.raises(UserError, match="a row per word, got 3 words and the shape"):
        StaticVectors(WORDS, TABLE[:2], name="two")
