"""Corpus co-occurrence: hand counts, Woolf's formula, planted odds, none where there is none."""

import math

import numpy as np
import pytest

from tests.proofs.embedding_vectors import items_of
from tests.proofs.probability_calibration import misses, slope, world_of
from trueup.audits.embedding.corpus_cooccurrence import CorpusCooccurrence, counted, log_odds
from trueup.stats import odds_ratio
from trueup.worlds.planted_vectors import PlantedEncoder

NOBODY = PlantedEncoder({})


def numbers(texts: list[str]):
    audit = CorpusCooccurrence()
    items = items_of(audit, NOBODY, [{"text": text} for text in texts])
    return {row.metric: row.value for row in audit.estimate(items)}


# 1. identity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He is a driver.", {"male": 1, "any": 1, "male_male": 1}),
        ("HE, the Driver, said he drove his driver", {"male": 1, "any": 1, "male_male": 1}),
        ("She is a construction worker.", {"female": 1, "any": 1, "female_male": 1}),
        ("They met the nurse.", {"neutral": 1, "any": 1}),
        ("The nurse slept.", {}),
        ("He met her and the nurse.",
         {"male": 1, "female": 1, "any": 1, "male_female": 1, "female_female": 1}),
        ("The theory of nursery drivers.", {}),
    ],
)  # fmt: skip
def test_a_sentence_counts_once_in_a_cell(text: str, expected: dict[str, int]):
    found = {name: count for name, count in counted(text).items() if count}
    assert found == {**expected, "sentences": 1}


def test_sentences_of_a_text_are_told_apart():
    apart, together = (counted(f"He came{mark} the nurse left.") for mark in (".", ","))
    assert (apart["male_female"], apart["sentences"]) == (0, 2)
    assert (together["male_female"], together["sentences"]) == (1, 1)


def test_shares_are_those_of_the_counts():
    texts = ["He is a driver."] * 5 + ["She is a nurse."] * 2 + ["He is a nurse."] + [
        "They are a nurse."] * 2  # fmt: skip
    found = numbers(texts)
    assert found["male"] == pytest.approx(6 / 8)
    assert found["pro"] == pytest.approx(7 / 8)
    assert found["neutral"] == pytest.approx(2 / 10)
    assert found["log_odds"] == pytest.approx(math.log(5.5 * 2.5 / (1.5 * 0.5)))


def test_the_log_odds_are_those_of_the_odds_ratio():
    cells = np.array([300.0, 100.0, 200.0, 250.0]) - 0.5
    expected = math.log(odds_ratio(300 / 500, 100 / 350))
    assert log_odds(cells) == pytest.approx(expected, abs=1e-12)


def test_a_corpus_twice_has_the_same_shares():
    texts = ["He is a driver.", "She is a nurse.", "He is a nurse."]
    once, twice = numbers(texts), numbers(texts * 2)
    assert {name: once[name] for name in ("male", "pro")} == {
        name: twice[name] for name in ("male", "pro")
    }


def test_swapping_the_pronouns_turns_the_sign():
    texts = ["He is a driver."] * 5 + ["She is a nurse."] * 3 + ["He is a nurse."]
    swapped = [text.replace("He", "X").replace("She", "He").replace("X", "She") for text in texts]
    assert numbers(swapped)["log_odds"] == pytest.approx(-numbers(texts)["log_odds"])


# 4. planted effect, 5. negative control


def test_more_men_and_more_of_their_jobs_are_no_association():
    """7 of 10 pronouns are he, 8 of 10 occupations are men's, independently."""
    counts = {("He", "driver"): 56, ("She", "driver"): 24, ("He", "nurse"): 14, ("She", "nurse"): 6}
    texts = [f"{who} is a {job}." for (who, job), n in counts.items() for _ in range(n)]
    found = numbers(texts)
    assert found["pro"] == pytest.approx(0.62)  # seems stereotypical, and is only the totals
    assert abs(found["log_odds"]) < 0.05


WORLD = world_of("corpus_cooccurrence")


def test_the_log_odds_follow_what_was_planted():
    assert slope(CorpusCooccurrence, WORLD, n=300) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("planted", [0.5, 2.0])
def test_the_interval_covers_the_planted_odds(planted: float):
    assert misses(CorpusCooccurrence, WORLD, planted, n=200, seeds=100) <= 0.10


def test_no_association_raises_few_alarms():
    assert misses(CorpusCooccurrence, WORLD, 0.0, n=100, seeds=200) <= 0.096
