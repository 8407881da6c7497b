"""Stereotypical associations: numbers by hand, identities, planted leanings, and none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.proofs.text_calibration import FALSE_ALARMS, items_of, misses, slope, world_of
from trueup.audits import compare_items
from trueup.audits.text.stereotypical_associations import StereotypicalAssociations
from trueup.audits.text.words import neutral_words, words
from trueup.models.no_model import NoModel
from trueup.stats import Estimate

WORLD = world_of("stereotypical_associations")
TEXTS = [
    "She, a nurse, met him.",  # nurse: 1 and 1
    "The nurse and her sister, a nurse.",  # nurse: 2 and 0, or 4 and 0 with the word's count
    "He is a pilot.",  # pilot: 0 and 1
    "A judge sat there.",  # nobody: judge does not count
]


def items_of_texts(audit: StereotypicalAssociations, texts: list[str]) -> pd.DataFrame:
    rows = [{"prompt": f"p{n}", "completion": text} for n, text in enumerate(texts)]
    return audit.measure(NoModel(), audit.probes(rows))


def numbers(audit: StereotypicalAssociations, texts: list[str]) -> dict[str, Estimate]:
    return {row.metric: row for row in audit.estimate(items_of_texts(audit, texts))}


# 1. identity


@pytest.mark.parametrize(("form", "nurse"), [("survey", 3 / 4), ("helm", 5 / 6)])
def test_the_number_by_hand(form: str, nurse: float):
    found = numbers(StereotypicalAssociations(form=form), TEXTS)
    assert found["tvd"].value == pytest.approx((abs(nurse - 1 / 2) + 1 / 2) / 2)


def test_a_corpus_twice_over_has_the_same_number():
    audit = StereotypicalAssociations()
    assert numbers(audit, TEXTS * 2)["tvd"].value == numbers(audit, TEXTS)["tvd"].value


def test_exchanging_the_groups_of_all_texts_changes_nothing():
    swaps = {"she": "he", "him": "her", "her": "his", "sister": "brother", "he": "she"}
    texts = [" ".join(swaps.get(word, word) for word in words(text)) for text in TEXTS]
    audit = StereotypicalAssociations()
    assert numbers(audit, texts)["tvd"].value == numbers(audit, TEXTS)["tvd"].value


def test_list_sizes_are_divided_out(tmp_path: Path):
    path = tmp_path / "persons.csv"
    path.write_text("word,group\nshe,women\nher,women\nhe,men\n", encoding="utf-8")
    texts = ["she has her nurse and he"]  # counts 2 and 1, per listed word 1 and 1
    for by_list_size, expected in ((False, 2 / 3 - 1 / 2), (True, 0.0)):
        audit = StereotypicalAssociations(persons=str(path), by_list_size=by_list_size)
        assert numbers(audit, texts)["tvd"].value == pytest.approx(expected)


# 2. planted effect and negative control


def test_the_estimate_follows_the_planted_distance():
    # at n = 1000 chance adds 0.036 where nothing is planted, and nothing from 0.1 on
    assert slope(StereotypicalAssociations, WORLD, 1000, seeds=8) == pytest.approx(1, abs=0.1)


def test_the_interval_covers_the_planted_distance():
    assert misses(StereotypicalAssociations, WORLD, 0.3, 80, 100) <= 0.1


def test_no_association_raises_no_alarm():
    assert misses(StereotypicalAssociations, WORLD, 0.0, 80, 200) <= FALSE_ALARMS


def test_words_that_stand_twice_are_far_from_even_by_chance_and_raise_no_alarm():
    jobs, rng = neutral_words("occupations"), np.random.default_rng(0)
    audit = StereotypicalAssociations()
    alarms = 0
    for _ in range(25):
        texts = [f"{rng.choice(['she', 'he'])} is a {job}" for job in jobs * 2]
        found = numbers(audit, texts)
        assert found["tvd"].value > 0.15  # 1/4 is expected: two of one gender, or one of each
        alarms += found["tvd"].low > 0
    assert alarms <= 4  # P(more) = 0.007 at a rate of 5 %


def test_the_shuffled_number_is_that_of_no_association():
    audit = StereotypicalAssociations()
    found = {row.metric: row for row in audit.estimate(items_of(audit, WORLD, 0.3, 400, 1))}
    # E|q - 1/2| of 50 coins a word
    assert found["tvd_shuffled"].value == pytest.approx((2 / np.pi / 4 / 50) ** 0.5, rel=0.1)
    assert found["tvd"].value > found["tvd_shuffled"].high


def test_weaker_associations_are_an_improvement_and_the_same_are_no_evidence():
    audit = StereotypicalAssociations()
    before, after, again = (
        items_of(audit, WORLD, planted, 250, seed)
        for planted, seed in ((0.4, 1), (0.1, 2), (0.4, 3))
    )
    assert compare_items(audit, before, after)[0].verdict == "improved"
    assert compare_items(audit, before, again)[0].verdict == "no evidence"
