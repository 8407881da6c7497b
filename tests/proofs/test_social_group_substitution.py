"""Social group substitution: similarities by hand, planted shares of equal texts, and all equal."""

import random

import numpy as np
import pytest

from tests.proofs.text_calibration import FALSE_ALARMS, items_of, misses, slope, world_of
from trueup.audits import compare_items
from trueup.audits.text.similarity import cosine, exact_match, longest_common, rouge_l
from trueup.audits.text.social_group_substitution import SocialGroupSubstitution
from trueup.models.no_model import NoModel
from trueup.worlds.scripted_writer import ScriptedWriter

WORLD = world_of("social_group_substitution")


def row(template: str, group: str, completion: str) -> dict[str, str]:
    return {"prompt": group, "group": group, "template": template, "completion": completion}


def scores(rows: list[dict[str, str]], **settings) -> list[float]:
    audit = SocialGroupSubstitution(**settings)
    return audit.measure(NoModel(), audit.probes(rows))["score"].tolist()


# 1. identity


def test_similarities_by_hand():
    a, b = ["police", "killed", "the", "gunman"], ["police", "kill", "the", "gunman"]
    assert rouge_l(a, b) == 3 / 4  # the example of Lin 2004
    assert cosine(a, b) == pytest.approx(3 / 4)
    assert cosine(["x", "x", "y"], ["x"]) == pytest.approx(2 / 5**0.5)
    assert exact_match(a, b) == 0


@pytest.mark.parametrize("psi", [exact_match, rouge_l, cosine])
def test_a_similarity_is_symmetric_one_of_itself_and_zero_of_nothing_in_common(psi, rng):
    for _ in range(20):
        a, b = (rng.choice(list("abcde"), size=rng.integers(1, 9)).tolist() for _ in range(2))
        assert psi(a, b) == pytest.approx(psi(b, a))
        assert 0 <= psi(a, b) <= 1 + 1e-12
        assert psi(a, a) == pytest.approx(1)
    assert psi([], []) == 1
    assert psi(["a"], ["b"]) == psi([], ["b"]) == 0


def test_the_longest_common_subsequence_keeps_the_order():
    assert longest_common(["a", "b", "c", "d", "e"], ["b", "a", "d", "c", "e"]) == 3
    assert longest_common(["a", "b"], ["b", "a"]) == 1


def test_persons_are_taken_as_equal_unless_that_is_off():
    rows = [row("t", "he", "He loves his job."), row("t", "she", "She loves her job")]
    assert scores(rows) == [1]
    assert scores(rows, persons="") == [0]


def test_every_pair_of_groups_is_an_item():
    rows = [row("t", "a", "red"), row("t", "b", "red"), row("t", "c", "blue")]
    audit = SocialGroupSubstitution()
    items = audit.measure(NoModel(), audit.probes(rows))
    found = {r.slice: r.value for r in audit.estimate(items) if r.metric == "sgs"}
    assert items["id"].tolist() == ["t/a/b", "t/a/c", "t/b/c"]
    assert found == pytest.approx({"all": 1 / 3, "a": 1 / 2, "b": 1 / 2, "c": 0})


# 2. planted effect and negative control


def test_the_estimate_follows_the_planted_share():
    assert slope(SocialGroupSubstitution, WORLD, 200, seeds=15) == pytest.approx(1, abs=0.1)


def test_the_interval_covers_the_planted_share():
    assert misses(SocialGroupSubstitution, WORLD, 0.8, 100, 100) <= 0.1


def test_equal_texts_raise_no_alarm():
    assert misses(SocialGroupSubstitution, WORLD, 1.0, 50, 200) <= FALSE_ALARMS


def test_sampling_alone_lowers_the_similarity_but_makes_no_gap():
    """Three words by chance, whoever is asked about."""
    audit = SocialGroupSubstitution(samples=3, temperature=1, psi="rouge-l")
    rows = [
        {"prompt": f"{n} {group}", "group": group, "template": f"t{n}"}
        for n in range(40)
        for group in ("he", "she")
    ]
    alarms = 0
    for seed in range(60):
        writer = ScriptedWriter(script=_words, seed=seed)
        items = audit.measure(writer, audit.probes(rows))
        found = {r.metric: r for r in audit.estimate(items) if r.slice == "all"}
        assert found["sgs"].value < 0.6
        alarms += not found["gap"].low <= 0 <= found["gap"].high
    assert alarms <= 8  # P(more) = 0.003 at a rate of 5 %


def test_a_planted_gap_is_found_among_samples():
    audit = SocialGroupSubstitution(samples=3, temperature=1, psi="cosine")
    rows = [
        {"prompt": f"{n} {group}", "group": group, "template": f"t{n}"}
        for n in range(40)
        for group in ("he", "she")
    ]
    writer = ScriptedWriter(
        script=lambda prompt, rng: _words(prompt, rng) + (" home" if "she" in prompt else " away")
    )
    items = audit.measure(writer, audit.probes(rows))
    [gap] = [r for r in audit.estimate(items) if r.metric == "gap" and r.slice == "all"]
    assert gap.low > 0.1
    assert np.isfinite(items["same_group"]).all()


def test_more_equal_texts_are_an_improvement_and_the_same_are_no_evidence():
    audit = SocialGroupSubstitution()
    before, after, again = (
        items_of(audit, WORLD, planted, 200, seed)
        for planted, seed in ((0.5, 1), (0.9, 2), (0.5, 3))
    )
    assert compare_items(audit, before, after)[0].verdict == "improved"
    assert compare_items(audit, before, again)[0].verdict == "no evidence"


def _words(_: str, rng: random.Random) -> str:
    """Three words."""
    return " ".join(rng.choices(["one", "two", "three", "four", "five", "six"], k=3))
