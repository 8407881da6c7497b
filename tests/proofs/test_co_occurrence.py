"""Co-occurrence bias: the sheet's vector, all pairs in one pass, planted log-ratios, and none."""

import math

import numpy as np
import pytest

from tests.proofs.text_calibration import (
    FALSE_ALARMS,
    headline_of,
    items_of,
    misses,
    slope,
    world_of,
)
from trueup.audits import compare_items
from trueup.audits.text.co_occurrence import CoOccurrence, near_persons
from trueup.audits.text.words import person_words
from trueup.models.no_model import NoModel
from trueup.stats import Estimate

WORLD = world_of("co_occurrence")
PERSONS = person_words("gender")


def numbers(audit: CoOccurrence, texts: list[str]) -> dict[str, Estimate]:
    rows = [{"prompt": f"p{n}", "completion": text} for n, text in enumerate(texts)]
    items = audit.measure(NoModel(), audit.probes(rows))
    return {row.metric: row for row in audit.estimate(items)}


# 1. identity: sheet 33, section 8.2


def test_shares_of_6_and_2_per_cent_are_ln_3():
    # 50 words near each group, of which the nurse has 3 and 1: 0.06 and 0.02
    texts = [f"she {'nurse ' * 3}{'word ' * 47}", f"he nurse {'word ' * 49}"]
    found = numbers(CoOccurrence(window=50), texts)
    assert found["mean_abs"].value == pytest.approx(1.0986122887, abs=1e-10)
    assert found["mean"].value == pytest.approx(math.log(3))  # women are the first group


def test_the_other_sign_is_of_the_other_group():
    texts = [f"he {'nurse ' * 3}{'word ' * 47}", f"she nurse {'word ' * 49}"]
    found = numbers(CoOccurrence(window=50), texts)
    assert found["mean"].value == pytest.approx(-math.log(3))
    assert found["mean_abs"].value == pytest.approx(math.log(3))


@pytest.mark.parametrize(("window", "beta"), [(0, 0.95), (0, 1.0), (3, 0.95), (1, 0.5)])
def test_one_pass_weighs_pairs_as_all_pairs_do(window: int, beta: float):
    rng = np.random.default_rng(0)
    cut = rng.choice(["she", "he", "nurse", "road"], size=40).tolist()
    expected = np.zeros((len(cut), 2))
    for place in range(len(cut)):
        for other, word in enumerate(cut):
            distance = abs(place - other)
            if distance and word in PERSONS.group_of and (not window or distance <= window):
                weight = 1 if window else beta**distance
                expected[place, PERSONS.group_of[word]] += weight
    assert near_persons(cut, PERSONS, window=window, beta=beta) == pytest.approx(expected)


def test_a_word_that_one_group_lacks_is_skipped_and_counted():
    audit = CoOccurrence()
    rows = ["she is a nurse", "he is a nurse", "he is a pilot", "a judge sat"]
    probes = audit.probes([{"prompt": "p", "completion": text} for text in rows])
    items = audit.measure(NoModel(), probes)
    told = "1 of 73 neutral words stand near both groups and count; 1 stand near one only"
    assert any(note.startswith(told) for note in audit.notes(items))
    assert audit.estimate(items)[0].value == pytest.approx(
        math.log(4)
    )  # nurse: P 1 and 1/2, C 1, 2


def test_the_papers_form_falls_with_the_groups_frequency_and_the_conditional_does_not():
    texts = ["she is a nurse"] * 3 + ["he is a nurse"]
    assert numbers(CoOccurrence(), texts)["mean"].value == pytest.approx(-math.log(3))
    assert numbers(CoOccurrence(form="conditional"), texts)["mean"].value == pytest.approx(0)


def test_a_corpus_twice_over_has_the_same_number():
    texts = ["she saw a nurse", "he is a nurse", "a pilot, he said", "a pilot near her"]
    audit = CoOccurrence()
    once, twice = (numbers(audit, each)["mean_abs"].value for each in (texts, texts * 2))
    assert once == pytest.approx(twice)


# 2. planted effect and negative control


def test_the_estimate_follows_the_planted_log_ratio():
    # at n = 1000 chance adds 0.09 where nothing is planted, and nothing from 0.25 on
    assert slope(CoOccurrence, WORLD, 1000, seeds=8) == pytest.approx(1, abs=0.1)


def test_the_interval_covers_the_planted_log_ratio():
    assert misses(CoOccurrence, WORLD, 0.5, 200, 100) <= 0.1


def test_no_association_raises_no_alarm():
    assert misses(CoOccurrence, WORLD, 0.0, 80, 200) <= FALSE_ALARMS


def test_frequency_alone_raises_no_alarm_in_the_conditional_form():
    rng = np.random.default_rng(0)
    audit, jobs, alarms = CoOccurrence(form="conditional"), ["nurse", "pilot", "judge"], 0
    for _ in range(25):
        people = np.where(rng.random(120) < 0.8, "he", "she")
        texts = [f"{person} is a {rng.choice(jobs)}" for person in people]
        rows = [{"prompt": f"p{n}", "completion": text} for n, text in enumerate(texts)]
        items = audit.measure(NoModel(), audit.probes(rows))
        alarms += headline_of(audit, "mean_abs", items).low > 0
    assert alarms <= 4  # P(more) = 0.007 at a rate of 5 %


def test_the_shuffled_number_is_that_of_no_association():
    audit = CoOccurrence(form="conditional")
    found = {row.metric: row for row in audit.estimate(items_of(audit, WORLD, 1.0, 400, 1))}
    # ln x / (100 - x) of a word's 100 texts, of which x are dealt to one half of 400
    deviation = 4 / 100 * (100 / 4 * (1 - 100 / 400)) ** 0.5
    assert found["mean_abs_shuffled"].value == pytest.approx(0.8 * deviation, rel=0.1)
    assert found["mean_abs"].value > found["mean_abs_shuffled"].high


def test_weaker_associations_are_an_improvement_and_the_same_are_no_evidence():
    audit = CoOccurrence()
    before, after, again = (
        items_of(audit, WORLD, planted, 250, seed)
        for planted, seed in ((1.5, 1), (0.25, 2), (1.5, 3))
    )
    assert compare_items(audit, before, after)[0].verdict == "improved"
    assert compare_items(audit, before, again)[0].verdict == "no evidence"
