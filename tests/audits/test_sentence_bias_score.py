import numpy as np
import pytest

from tests.audits.planted_models import random_bert, random_llama
from trueup.audits.embedding.sentence_bias_score import SentenceBiasScore, gender_pairs
from trueup.errors import UserError
from trueup.worlds.planted_vectors import PlantedEncoder

ROWS = [{"text": "The nurse met him.", "group": "a"}, {"text": "A pilot, too.", "group": "b"}]
ENDS = {word: sign for pair in gender_pairs() for word, sign in zip(pair, (1.0, -1.0), strict=True)}


def words_of(text: str) -> list[str]:
    [probe] = SentenceBiasScore().probes([{"text": text}])
    return [text[start:end] for text, start, end in probe.labels["words"]]


def test_words_that_mean_a_gender_are_left_out():
    assert words_of("She and the Queen's mother saw a well-known nurse.") == [
        "and", "the", "Queen's", "saw", "a", "well-known", "nurse",
    ]  # fmt: skip


def test_weights_add_up_to_one():
    for weights in ("idf", "uniform"):
        probes = SentenceBiasScore(weights=weights).probes(ROWS)
        assert [sum(probe.labels["weights"]) for probe in probes] == pytest.approx([1, 1])


def test_a_sentence_of_gender_alone_has_no_score():
    audit = SentenceBiasScore()
    model = PlantedEncoder({**ENDS, "nurse": 0.2})
    items = audit.measure(model, audit.probes([{"text": "She and he"}, {"text": "he"}]))
    assert np.isfinite(items["score"][0])
    assert np.isnan(items["score"][1])
    assert "1 sentences have no word that counts" in audit.notes(items)[1]


@pytest.mark.parametrize("make", [random_llama, random_bert])
def test_every_white_box_model_is_measured(make):
    audit = SentenceBiasScore()
    spoken = [f"This is {word}." for pair in gender_pairs() for word in pair]
    model = make([*spoken, *(row["text"] for row in ROWS)])
    items = audit.measure(model, audit.probes(ROWS))
    assert items["score"].between(0, 1).all()
    assert (items["score"] >= items["signed"].abs() - 1e-12).all()
    found = {(row.metric, row.slice): row.n for row in audit.estimate(items)}
    assert found["signed", "all"] == 2
    assert found["bias", "a"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "attention"}, "weights must be one of idf, uniform"),
        ({"nulls": 0}, "nulls must be at least 1"),
    ],
)
def test_settings_are_checked(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        SentenceBiasScore(**settings)
