from pathlib import Path

import numpy as np
import pytest

import trueup
from trueup.audits.embedding.ceat import Ceat
from trueup.audits.embedding.contexts import found_tests
from trueup.calibration.planted_words import TEMPLATES, planted_encoder, planted_rows
from trueup.errors import UserError

TEXTS = [
    "He loved Bill and Jeff.", "Amy paid the bill.", "Donna has a career.", "Her family is Home.",
    "The office of John is closed.", "Marriage, said Kate, is fine.",
]  # fmt: skip


def texts(*several: str) -> list[dict]:
    return [{"text": text} for text in several]


def test_names_are_found_in_their_own_case_and_words_in_any():
    [test], dropped = found_tests(texts(*TEXTS), "c6-career", 100)
    found = [{word.word: len(word.texts) for word in side} for side in test.words]
    assert found == [
        {"John": 1, "Jeff": 1, "Bill": 1},
        {"Amy": 1, "Kate": 1, "Donna": 1},
        {"office": 1, "career": 1},
        {"home": 1, "family": 1, "marriage": 1},
    ]
    assert dropped == []


def test_at_most_so_many_contexts_are_kept():
    many = [f"John has the number {number}." for number in range(9)]
    [test], _ = found_tests(texts(*TEXTS, *many), "c6-career", 3)
    assert [len(word.texts) for word in test.words[0] if word.word == "John"] == [3]


def test_a_text_that_stands_twice_is_one_context():
    [test], _ = found_tests(texts(*TEXTS, *TEXTS), "c6-career", 100)
    assert {len(word.texts) for side in test.words for word in side} == {1}


def test_tests_that_the_text_leaves_out_are_named():
    _, dropped = found_tests(texts(*TEXTS), "gender", 100)
    assert dropped == ["c7-math", "c8-science", "double-bind-competent", "double-bind-likable"]


def test_a_text_of_no_test_is_refused():
    with pytest.raises(UserError, match=r"no test has 2 words .* got 1 texts and the tests c6"):
        Ceat(test="c6-career").probes(texts("Nobody was here."))


def test_rows_name_a_test_all_or_none():
    with pytest.raises(UserError, match="row 2: 'test' is missing here"):
        Ceat().probes([*planted_rows(4, TEMPLATES[:1])[:1], {"text": "a"}])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variance": "none"}, "variance must be one of paper, hedges"),
        ({"samples": 1}, "samples must be at least 2"),
        ({"contexts": 0}, "contexts must be at least 1"),
    ],
)
def test_settings_are_checked(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        Ceat(**settings)


def test_chunks_change_nothing():
    audit, rows = Ceat(samples=5), planted_rows(8, TEMPLATES)
    model, probes = planted_encoder(0.5, 8, 0, noise=1.0, sentences=1), audit.probes(rows)
    whole = audit.measure(model, probes)["score"]
    parts = [audit.measure(model, probes[start : start + 3])["score"] for start in (0, 3, 6)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_a_run_folder_holds_the_same_numbers(tmp_path: Path):
    rows, model = planted_rows(8, TEMPLATES), planted_encoder(0.5, 8, 0, noise=1.0, sentences=1)
    audit = Ceat(samples=5)
    there = trueup.audit(model, audit, data=rows, out=tmp_path / "run")
    here = trueup.audit(model, audit, data=rows)
    assert list(map(str, there.estimates)) == list(map(str, here.estimates))
    assert "8 words" not in there.notes[0]
    assert "4 and 4 words in 32 contexts" in there.notes[0]
    assert "too small" in there.notes[1]
