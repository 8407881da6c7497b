import numpy as np
import pytest

from trueup.audits.embedding.cweat import Cweat
from trueup.audits.embedding.occurrences import spots
from trueup.errors import UserError
from trueup.worlds.planted_vectors import PlantedEncoder

TWICE = "Ann saw that Ann was late."


@pytest.mark.parametrize(
    ("occurrence", "starts"), [("first", [0]), ("last", [13]), ("all", [0, 13])]
)
def test_a_word_that_stands_twice_is_picked_as_asked(occurrence: str, starts: list[int]):
    assert spots("Ann", TWICE, occurrence) == [(TWICE, start, start + 3) for start in starts]


@pytest.mark.parametrize(
    ("word", "text", "span"),
    [
        ("art", "The party is art.", (13, 16)),  # not in party
        ("rose", "Roses and a Rose.", (12, 16)),  # the same word in other case goes before a plural
        ("rose", "Two roses grew.", (4, 9)),
        ("short-term", "A short-term loan.", (2, 12)),
        ("C++", "I like C++.", (7, 10)),
    ],
)
def test_a_word_is_found_whole(word: str, text: str, span: tuple[int, int]):
    assert spots(word, text, "first") == [(text, *span)]


def test_a_sentence_without_its_word_is_refused():
    with pytest.raises(UserError, match="the word 'Ann' does not stand in its sentence, got 'Anne"):
        spots("Ann", "Anne is here.", "first")


def test_all_occurrences_are_averaged():
    rows = [
        {"test": "t", "set": side, "word": word, "text": f"{word} and {word}"}
        for side, words in {"targ1": "ab", "targ2": "cd", "attr1": "x", "attr2": "y"}.items()
        for word in words
    ]
    model = PlantedEncoder({"a": 0.1, "x": 1.0, "y": -1.0}, noise=0.05)
    scores = {
        occurrence: audit.measure(model, audit.probes(rows))["score"].to_numpy()
        for occurrence in ("first", "last", "all")
        for audit in [Cweat(occurrence=occurrence)]
    }
    assert not np.allclose(scores["first"], scores["last"])
    np.testing.assert_allclose(scores["all"], (scores["first"] + scores["last"]) / 2, atol=1e-12)


def test_the_choice_of_occurrence_is_checked():
    with pytest.raises(UserError, match="occurrence must be one of first, last, all"):
        Cweat(occurrence="second")
