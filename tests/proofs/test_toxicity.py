"""Toxicity: the sheet's vectors, unbiased forms, planted abuse, and none from none."""

from itertools import combinations

import numpy as np
import pytest

from tests.audits.scored_rows import all_rows, items_of, written_scores
from tests.proofs.text_calibration import misses, slope
from trueup.audits import compare_items
from trueup.audits.text.toxicity import Toxicity, chance_of_one, expected_maximum
from trueup.calibration.toxicity import WORLDS
from trueup.errors import UserError
from trueup.worlds.scripted_writer import LawScript, ScriptedWriter

# 1. identity: sheet 33, section 8.2

SCORES = [[0.1, 0.2, 0.7, 0.3], [0.05, 0.5, 0.1, 0.2], [0, 0.1, 0.2, 0.05]]
ABUSE, PLAIN = "Horrible terrible awful", "It stood there ."
[WORLD] = WORLDS


def toxicity(**settings) -> Toxicity:
    return Toxicity(scorer=written_scores, **settings)


def values(scores, **settings) -> dict[str, float]:
    rows = [
        {"prompt": f"p{place}", "completion": str(score)}
        for place, several in enumerate(scores)
        for score in several
    ]
    audit = toxicity(**settings)
    return {name: row.value for name, row in all_rows(audit, items_of(audit, rows)).items()}


def test_vectors_of_the_sheet():
    found = values(SCORES)
    assert found["emt"] == pytest.approx(0.4666666667, abs=1e-10)
    assert found["tp"] == pytest.approx(2 / 3, abs=1e-12)
    assert found["tf"] == pytest.approx(2 / 12, abs=1e-12)


def test_a_score_at_the_threshold_is_toxic():
    strict = np.nextafter(0.5, 1)
    found = values(SCORES, threshold=strict)
    assert found["tp"] == pytest.approx(1 / 3, abs=1e-12)
    assert found["tf"] == pytest.approx(1 / 12, abs=1e-12)


def test_vectors_of_the_unbiased_expected_maximum():
    expected = [0.4833333333, 0.3333333333, 0.1416666667]
    assert [expected_maximum(np.array(row), 2) for row in SCORES] == pytest.approx(
        expected, abs=1e-10
    )
    assert values(SCORES, k=2)["emt"] == pytest.approx(0.3194444444, abs=1e-10)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_unbiased_forms_are_means_over_all_subsets(k: int, rng: np.random.Generator):
    x = rng.random(5)
    subsets = [x[list(places)] for places in combinations(range(5), k)]
    assert expected_maximum(x, k) == pytest.approx(np.mean([s.max() for s in subsets]), abs=1e-12)
    some = np.mean([(s >= 0.5).any() for s in subsets])
    assert chance_of_one(x >= 0.5, k) == pytest.approx(some, abs=1e-12)


def test_fraction_probability_and_maximum_are_ordered(rng: np.random.Generator):
    scores = rng.random((30, 4)).round(3)
    found = values(scores)
    assert found["tf"] <= found["tp"] <= 1
    assert found["emt"] >= scores.mean()
    by_size = [values(scores, k=k)["emt"] for k in (1, 2, 3, 4)]
    assert by_size == sorted(by_size)
    assert by_size[0] == pytest.approx(scores.mean(), abs=1e-12)


def test_a_text_without_a_score_does_not_count():
    found = values([[0.9, float("nan")], [float("nan")] * 2])
    assert found == {"emt": 0.9, "tp": 1.0, "tf": 1.0}


def test_more_draws_than_completions_are_refused():
    with pytest.raises(UserError, match="toxicity.k is 3, but prompt '1' has 2 completions"):
        toxicity(k=3, samples=2).probes([{"prompt": "a"}])


# 4. planted effect


def test_planted_abuse_is_recovered():
    assert slope(Toxicity, WORLD, 200, seeds=20) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("planted", [0.1, 0.3])
def test_intervals_hold_the_planted_number(planted: float):
    assert misses(Toxicity, WORLD, planted, 100, 120) <= 0.1


def test_a_correction_is_called_improved_and_its_opposite_worse():
    rows = [{"prompt": f"Case {number}"} for number in range(100)]
    audit = Toxicity(samples=2)
    many, few = (
        ScriptedWriter(script=LawScript(laws={"": {ABUSE: rate, PLAIN: 1 - rate}}), seed=seed)
        for seed, rate in enumerate((0.4, 0.05))
    )
    before, after = (items_of(audit, rows, writer) for writer in (many, few))
    assert {row.verdict for row in compare_items(audit, before, after)} == {"improved"}
    assert {row.verdict for row in compare_items(audit, after, before)} == {"worse"}


# 5. negative control


def test_a_writer_without_abuse_raises_no_alarm():
    assert misses(Toxicity, WORLD, WORLD.null, 100, 20) == 0
    rows = [{"prompt": f"Case {number}"} for number in range(100)]
    writer = ScriptedWriter(script=LawScript(laws={"": {PLAIN: 1.0}}))
    found = all_rows(Toxicity(), items_of(Toxicity(), rows, writer))
    assert [found[name].value for name in ("emt", "tp", "tf")] == [0, 0, 0]
    assert found["tp"].high < 0.05


def test_two_runs_of_equal_writers_show_no_change():
    rows = [{"prompt": f"Case {number}"} for number in range(60)]
    audit = Toxicity(samples=2)
    law = LawScript(laws={"": {ABUSE: 0.3, PLAIN: 0.7}})
    alarms = 0
    for seed in range(20):
        before, after = (
            items_of(audit, rows, ScriptedWriter(script=law, seed=2 * seed + side))
            for side in (0, 1)
        )
        alarms += any(row.verdict != "no evidence" for row in compare_items(audit, before, after))
    assert alarms <= 4  # nominal 1 of 20 after Holm, three standard errors are 3
