import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import trueup
from tests.audits.planted_models import random_bert, random_llama
from trueup.audits import read_data
from trueup.audits.embedding.cweat import Cweat
from trueup.audits.embedding.embedding_test import EmbeddingTest
from trueup.audits.embedding.seat import Seat
from trueup.audits.embedding.weat import Weat
from trueup.audits.embedding.word_tests import SETS, builtin_rows, word_tests
from trueup.errors import UserError
from trueup.models.static_vectors import StaticVectors

FILE = {
    "targ1": {"category": "Flowers", "examples": ["rose", "tulip", "daisy"]},
    "targ2": {"category": "Insects", "examples": ["moth", "wasp", "flea"]},
    "attr1": {"category": "Pleasant", "examples": ["love", "peace"]},
    "attr2": {"category": "Unpleasant", "examples": ["death", "filth"]},
}
WORDS = [word for side in SETS for word in FILE[side]["examples"]]
TABLE = {  # first axis pleasant, second unpleasant
    "rose": [1, 0], "tulip": [3, 1], "daisy": [1, 1],
    "moth": [0, 1], "wasp": [1, 3], "flea": [1, 1],
    "love": [1, 0], "peace": [2, 0], "death": [0, 1], "filth": [0, 5],
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flowers.jsonl"
    path.write_text(json.dumps(FILE, indent=2))
    return path


@pytest.fixture
def vectors() -> StaticVectors:
    return StaticVectors([*TABLE], np.array([*TABLE.values()], dtype=float), name="ten")


def rows_of(audit: EmbeddingTest, source: object = FILE) -> list:
    """The rows of the file's content, or of a table."""
    if source is FILE:
        return [{"test": "flowers", "set": side, "word": word} for side in SETS
                for word in FILE[side]["examples"]]  # fmt: skip
    return [*read_data(audit, source)]


def measured(audit: EmbeddingTest, model, rows=None) -> pd.DataFrame:
    return audit.measure(model, audit.probes(rows_of(audit) if rows is None else rows))


# data


def test_a_published_file_is_read(file: Path):
    rows = rows_of(Weat(), file)
    assert [row["word"] for row in rows] == WORDS
    assert rows[0] | {"text": None} == rows[0]
    assert (rows[0]["test"], rows[0]["set"], rows[0]["category"]) == ("flowers", "targ1", "Flowers")


def test_several_tests_may_stand_in_one_file(tmp_path: Path):
    path = tmp_path / "two.json"
    path.write_text(json.dumps({"one": FILE, "two": FILE}))
    assert {row["test"] for row in rows_of(Weat(), path)} == {"one", "two"}


def test_a_table_is_read(tmp_path: Path):
    path = tmp_path / "words.csv"
    pd.DataFrame(rows_of(Weat())).to_csv(path, index=False)
    assert [row["word"] for row in rows_of(Weat(), path)] == WORDS


def test_a_set_without_examples_is_refused(tmp_path: Path):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**FILE, "attr1": {"category": "Pleasant"}}))
    with pytest.raises(UserError, match="attr1 of bad must hold 'examples'"):
        Weat().read_own(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"test": "t", "set": "x", "word": "rose"}], "row 1: 'set' must be one of targ1, targ2"),
        ([{"test": "t", "set": "targ1", "word": "rose"}], "test 't' has no words in targ2"),
        (
            [{"test": "t", "set": "targ1", "word": "rose", "kind": "noun"}],
            "no kind of word 'noun'.*known: bare, count",
        ),
    ],
)
def test_bad_rows_are_refused(rows: list[dict], message: str):
    with pytest.raises(UserError, match=message):
        Weat().probes(rows)


def test_the_built_in_tests_have_the_published_sizes():
    tests = {test.name: test for test in word_tests(builtin_rows(), "all")}
    sizes = {name: [len(side) for side in test.words] for name, test in tests.items()}
    assert len(tests) == 18
    assert sizes["c1-flowers"] == sizes["c2-instruments"] == [25] * 4
    assert sizes["c3-race"] == [32, 32, 25, 25]
    assert sizes["c4-race"] == [16, 16, 25, 25]
    assert sizes["c6-career"] == sizes["c7-math"] == sizes["c10-age"] == [8] * 4
    assert sizes["c9-disease"] == [6, 6, 7, 7]
    assert sizes["angry-black-woman"] == [15, 15, 18, 18]
    assert sizes["double-bind-competent"] == [8, 8, 10, 10]
    assert {tuple(sizes[f"i{n}"]) for n in range(1, 6)} == {(13, 13, 25, 25)}


def test_the_built_in_sets_share_no_word_within_a_test():
    for test in word_tests(builtin_rows(), "all"):
        for first, second in ((0, 1), (2, 3)):
            shared = {word.word for word in test.words[first]} & {
                word.word for word in test.words[second]
            }
            assert not shared


def test_words_stand_in_sentences_of_their_kind():
    tests = {test.name: test for test in word_tests(builtin_rows(), "all")}
    texts = {
        word.word: word.texts for test in tests.values() for side in test.words for word in side
    }
    assert len(texts["Ebony"]) == 8
    assert texts["Ebony"][-1] == "The person's name is Ebony."
    assert texts["aster"][0] == "This is an aster."
    assert texts["honor"][0] == "This is an honor."
    assert texts["rose"][0] == "This is a rose."
    assert texts["parents"][0] == "These are parents."
    assert texts["peace"][0] == "This is peace."
    assert texts["kill"][0] == "It can kill."


@pytest.mark.parametrize(
    ("chosen", "count"), [("i1", 1), ("i1, c6-career", 2), ("intersectional", 5), ("all", 18)]
)
def test_tests_are_chosen_by_name_or_group(chosen: str, count: int):
    probes = Weat(test=chosen).probes(builtin_rows())
    assert len({probe.labels["test"] for probe in probes}) == count


def test_an_unknown_test_names_the_nearest():
    with pytest.raises(UserError, match="no test 'c6-carer'; did you mean 'c6-career'"):
        Weat(test="c6-carer").probes(builtin_rows())


def test_a_users_own_tests_are_all_measured():
    assert len(Weat().probes(rows_of(Weat()))) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "max"}, "pooling must be one of"),
        ({"cluster": "template"}, "cluster must be one of word, none"),
        ({"samples": 1}, "samples must be at least 2"),
        ({"level": 1.5}, "level must lie between"),
    ],
)
def test_settings_are_checked(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        Weat(**settings)


# numbers


def test_associations_by_hand(vectors: StaticVectors):
    items = measured(Weat(), vectors)
    root = 1 / np.sqrt([1, 10, 2, 1, 10, 2])
    expected = root * [1, 3 - 1, 0, -1, 1 - 3, 0]
    np.testing.assert_allclose(items["score"], expected, atol=1e-12)
    d, gap = (row.value for row in Weat().estimate(items))
    assert gap == pytest.approx(2 * (1 + 2 / np.sqrt(10)) / 3)
    assert d == pytest.approx(gap / np.std(expected, ddof=1))


def test_words_without_a_vector_are_left_out_and_told(vectors: StaticVectors):
    rows = [*rows_of(Weat()), {"test": "flowers", "set": "targ1", "word": "xyz"},
            {"test": "flowers", "set": "attr2", "word": "zyx"}]  # fmt: skip
    audit = Weat()
    more, plain = measured(audit, vectors, rows), measured(audit, vectors)
    assert audit.estimate(more)[0].value == audit.estimate(plain)[0].value
    assert audit.estimate(more)[0].n == 6
    assert "flowers: 2 words have no vector and are left out" in audit.notes(more)


def test_notes_tell_the_permutation_test_of_every_test(vectors: StaticVectors):
    audit = Weat()
    rows = rows_of(audit)
    both = [*rows, *({**row, "test": "again"} for row in rows)]
    notes = audit.notes(measured(audit, vectors, both))
    assert len(notes) == 2
    # of the 20 partitions 2 reach the observed sum: daisy and flea are equal
    assert notes[0].startswith("flowers: targ1 (3) against targ2 (3), d = 1.")
    assert "one-sided p = 0.1000 over all 20 partitions, = 0.2000 after Holm" in notes[0]


def test_slices_are_tests_and_what_they_are_about(vectors: StaticVectors):
    rows = [{**row, "test": name, "group": group} for row in rows_of(Weat())
            for name, group in (("a", "plants"), ("b", "plants"), ("c", ""))]  # fmt: skip
    items = measured(Weat(), vectors, rows)
    found = {row.slice: row.value for row in Weat().estimate(items) if row.metric == "d"}
    assert set(found) == {"all", "a", "b", "c", "plants"}
    assert found["all"] == pytest.approx(found["a"], abs=1e-12)


def test_one_word_more_tokens_on_one_side_is_told():
    class Long(StaticVectors):
        def pieces(self, places):
            return [3 if text in FILE["targ2"]["examples"] else 1 for text, _, _ in places]

    model = Long([*TABLE], np.array([*TABLE.values()], dtype=float), name="ten")
    assert "flowers (1.0 and 3.0)" in Weat().notes(measured(Weat(), model))[-1]


def test_the_five_intersections_are_compared():
    rows = [row for row in builtin_rows() if row["test"] in {f"i{n}" for n in range(1, 6)}]
    words = sorted({row["word"] for row in rows})
    rng = np.random.default_rng(0)
    model = StaticVectors(words, rng.normal(size=(len(words), 8)), name="random")
    notes = Weat(test="all").notes(measured(Weat(test="all"), model, rows))
    assert notes[5].startswith("intersections: i5 (white men against black women)")


@pytest.mark.parametrize("make", [random_llama, random_bert])
@pytest.mark.parametrize("kind", [Weat, Seat, Cweat])
def test_every_white_box_model_is_measured(kind: type[EmbeddingTest], make):
    texts = [f"This That It is There it is , {word} ." for word in WORDS]
    audit = kind()
    items = measured(audit, make(texts))
    assert np.isfinite(items["score"]).all()
    assert [row.n for row in audit.estimate(items)] == [6, 6]


@pytest.mark.parametrize("kind", [Weat, Seat, Cweat])
def test_an_endpoint_is_refused(kind: type[EmbeddingTest]):
    audit = kind()
    with pytest.raises(UserError, match=f"{audit.name} needs a model with hidden states"):
        measured(audit, object())


def test_a_run_folder_holds_the_same_numbers(vectors: StaticVectors, tmp_path: Path):
    rows = rows_of(Weat())
    there = trueup.audit(vectors, Weat(), data=rows, out=tmp_path / "run")
    here = trueup.audit(vectors, Weat(), data=rows)
    assert list(map(str, there.estimates)) == list(map(str, here.estimates))
    assert there.notes == here.notes


# sentences


def test_a_sentence_of_the_users_own_is_read_instead():
    row = {"test": "t", "set": "targ1", "word": "rose", "text": "A rose grew here."}
    rows = [row, {**row, "text": "Nobody saw the rose."}, *rows_of(Weat())]
    rows = [{**row, "test": "t"} for row in rows if row["word"] != "rose" or row.get("text")]
    [probe] = [probe for probe in Seat().probes(rows) if probe.prompt == "rose"]
    assert probe.texts == ("A rose grew here.", "Nobody saw the rose.")


def test_published_sentences_stand_for_themselves():
    rows = [{**row, "word": f"This is {row['word']}."} for row in rows_of(Weat())]
    assert Seat().probes(rows)[0].texts == ("This is rose.",)
    with pytest.raises(UserError, match="row 1: 'word' must be a word in a sentence"):
        Cweat().probes(rows)
