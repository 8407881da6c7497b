import pytest

from trueup.audits.embedding.corpus_cooccurrence import CorpusCooccurrence
from trueup.errors import UserError
from trueup.worlds.planted_vectors import PlantedEncoder

ROWS = [
    {"text": "He is a driver. She is a nurse.", "group": "a"},
    {"text": "She is a driver.", "group": "b", "cluster": "x"},
    {"text": "They are here.", "group": "b", "cluster": "x"},
]


@pytest.fixture
def items():
    audit = CorpusCooccurrence()
    return audit.measure(PlantedEncoder({}), audit.probes(ROWS))


def test_a_row_counts_the_sentences_of_its_text(items):
    assert items["sentences"].tolist() == [2, 1, 1]
    assert items["male_male"].tolist() == [1, 0, 0]
    assert items["score"].tolist() == [2, -1, 0]
    assert items["cluster"].tolist() == ["", "x", "x"]


def test_slices_are_groups(items):
    found = {(row.metric, row.slice): row.value for row in CorpusCooccurrence().estimate(items)}
    assert found["male", "all"] == pytest.approx(1 / 3)
    assert found["male", "b"] == 0
    assert ("neutral", "b") not in found


def test_notes_hold_the_counts(items):
    first, second = CorpusCooccurrence().notes(items)
    assert first == (
        "4 sentences: 1 with he, 2 with she, 1 with they; men's occupations 1 with he and 1 with "
        "she, women's 0 and 1"
    )
    assert "not the model" in second


def test_the_level_is_checked():
    with pytest.raises(UserError, match="level must lie between"):
        CorpusCooccurrence(level=2.0)
