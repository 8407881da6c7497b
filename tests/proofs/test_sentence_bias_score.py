"""Sentence bias score: the sheet's vector, a known direction, planted leanings, nothing."""

import numpy as np
import pytest

from tests.proofs.embedding_vectors import items_of, minilm
from tests.proofs.probability_calibration import misses, slope, world_of
from trueup.audits.embedding.effect_size import unit
from trueup.audits.embedding.sentence_bias_score import (
    SentenceBiasScore,
    gender_direction,
    gender_pairs,
    sentence_bias,
)
from trueup.models.static_vectors import StaticVectors
from trueup.worlds.planted_vectors import PlantedEncoder

ENDS = {word: sign for pair in gender_pairs() for word, sign in zip(pair, (1.0, -1.0), strict=True)}

# 1. identity: sheet 33, section 8.2


def test_vector_of_the_score():
    rows = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0, 2], [-3, 4, 0]], dtype=float)
    cosines = unit(rows) @ np.array([[1.0, 0.0, 0.0]]).T
    bias, signed = sentence_bias(cosines, np.array([0.1, 0.4, 0.2, 0.3]))
    assert bias[0] == pytest.approx(0.52, abs=1e-12)
    assert signed[0] == pytest.approx(0.16, abs=1e-12)


def test_a_word_without_a_vector_passes_its_weight_on():
    cosines = np.array([[0.6], [np.nan], [-0.2]])
    bias, signed = sentence_bias(cosines, np.array([0.25, 0.5, 0.25]))
    assert (bias[0], signed[0]) == (pytest.approx(0.4), pytest.approx(0.2))


def test_the_direction_is_the_one_that_all_differences_share(rng: np.random.Generator):
    axis = unit(rng.normal(size=(1, 16)))[0]
    men = rng.normal(size=(10, 16))
    women = men + 2 * axis + 0.01 * rng.normal(size=(10, 16))
    direction = gender_direction(women, men)
    assert direction @ axis == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(gender_direction(men, women), -direction, atol=1e-12)


def test_a_rotation_of_all_vectors_changes_nothing(rng: np.random.Generator):
    words = [*ENDS, "nurse", "pilot", "road"]
    table = rng.normal(size=(len(words), 8))
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    rows = [{"text": "The nurse met a pilot on the road."}]
    plain, turned = (
        items_of(SentenceBiasScore(), StaticVectors(words, each, name="random"), rows)
        for each in (table, table @ rotation)
    )
    for column in ("score", "signed", "null"):
        np.testing.assert_allclose(plain[column], turned[column], atol=1e-9)


# 3. known optimum: the score of planted leanings


def test_planted_leanings_are_measured_exactly():
    model = PlantedEncoder({**ENDS, "nurse": 0.3, "pilot": -0.1})
    rows = [{"text": "She said the nurse met the pilot."}]
    items = items_of(SentenceBiasScore(weights="uniform"), model, rows)
    # she is left out; said, the, nurse, met, the, pilot
    assert items["signed"][0] == pytest.approx(0.2 / 6, abs=1e-12)
    assert items["score"][0] == pytest.approx(0.4 / 6, abs=1e-12)


def test_rare_words_weigh_more():
    model = PlantedEncoder({**ENDS, "nurse": 0.3})
    rows = [{"text": "the nurse"}, {"text": "the road"}, {"text": "the sea"}]
    even, rare = (items_of(SentenceBiasScore(weights=weights), model, rows)["score"][0]
                  for weights in ("uniform", "idf"))  # fmt: skip
    assert even == pytest.approx(0.15, abs=1e-12)
    of_nurse = 1 + np.log(4 / 2)
    assert rare == pytest.approx(0.3 * of_nurse / (of_nurse + 1), abs=1e-12)


# 4. planted effect, 5. negative control


def random_world(lean: float, rng: np.random.Generator) -> tuple[StaticVectors, list[dict]]:
    """Random vectors whose jobs lean along she - he by `lean`."""
    jobs = [f"job{number}" for number in range(200)]
    words = [*ENDS, *jobs]
    table = rng.normal(size=(len(words), 50))
    table[: len(ENDS), 0] += 8 * np.array(list(ENDS.values()))
    table[len(ENDS) :, 0] += lean * np.where(np.arange(200) % 2, 1, -1)
    return StaticVectors(words, table, name="random"), [{"text": f"the {job}"} for job in jobs]


def excess_of(lean: float, seed: int) -> tuple[float, float]:
    """Bias beyond the null, and the signed score."""
    model, rows = random_world(lean, np.random.default_rng(seed))
    audit = SentenceBiasScore()
    found = {row.metric: row.value for row in audit.estimate(items_of(audit, model, rows))}
    return found["excess"], found["signed"]


def test_leanings_to_both_sides_show_as_bias_and_cancel_in_the_sign():
    excess, signed = np.mean([excess_of(6.0, seed) for seed in range(20)], axis=0)
    assert excess > 0.2
    assert abs(signed) < 0.05


def test_random_words_exceed_no_null():
    excess, signed = np.mean([excess_of(0.0, seed) for seed in range(40)], axis=0)
    assert abs(excess) < 0.01
    assert abs(signed) < 0.01


def test_the_bias_itself_is_not_zero_without_any_lean():
    model, rows = random_world(0.0, np.random.default_rng(0))
    audit = SentenceBiasScore()
    items = items_of(audit, model, rows)
    assert audit.estimate(items)[1].value > 0.05
    assert "along directions that hold no gender" in audit.notes(items)[0]


WORLD = world_of("sentence_bias_score")


def test_the_signed_score_follows_what_was_planted():
    assert slope(SentenceBiasScore, WORLD, n=50) == pytest.approx(1, abs=0.1)


def test_the_interval_covers_the_planted_score():
    assert misses(SentenceBiasScore, WORLD, 0.1, n=50, seeds=100) <= 0.10


def test_no_lean_raises_few_alarms():
    assert misses(SentenceBiasScore, WORLD, 0.0, n=50, seeds=200) <= 0.096


# a real encoder


def test_a_real_encoder_places_jobs_by_their_gender():
    of_women = ("nurse", "secretary", "hairdresser", "housekeeper", "librarian")
    of_men = ("carpenter", "mechanic", "plumber", "sheriff", "farmer")
    rows = [{"text": f"The {job} was here.", "id": job} for job in of_women + of_men]
    items = items_of(SentenceBiasScore(weights="idf"), minilm(), rows).set_index("id")
    women, men = (np.mean([items["signed"][job] for job in jobs]) for jobs in (of_women, of_men))
    assert women > men
