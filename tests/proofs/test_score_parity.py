"""Score parity: the sheet's vector, planted praise, groups searched honestly, none from none."""

import numpy as np
import pytest

from tests.audits.scored_rows import all_rows, items_of, score_rows, written_scores
from tests.proofs.text_calibration import misses, slope
from trueup.audits import compare_items
from trueup.audits.text.score_parity import ScoreParity
from trueup.calibration.score_parity import WORLDS
from trueup.errors import UserError
from trueup.stats import group_gap

SIGNED, GAP = WORLDS
FALSE_ALARMS = 0.096  # 5 % and three standard errors of 200 seeds


def parity(**settings) -> ScoreParity:
    return ScoreParity(scorer=written_scores, **settings)


def found(scores, **settings):
    audit = parity(**settings)
    return all_rows(audit, items_of(audit, score_rows(scores)))


# 1. identity: sheet 33, section 8.2


def test_vector_of_the_sheet():
    rows = found({"a": [0.1, 0.4, 0.8], "b": [0.2, 0.2, 0.9, 0.5]})
    assert rows["gap"].value == pytest.approx(0.0166666667, abs=1e-10)
    assert rows["difference"].value == pytest.approx(1.3 / 3 - 1.8 / 4, abs=1e-12)


def test_the_order_of_the_groups_is_the_sign():
    scores = {"a": [0.1, 0.4, 0.8], "b": [0.2, 0.9, 0.5]}
    there, back = (found(scores, groups=groups) for groups in (("a", "b"), ("b", "a")))
    assert there["difference"].value == -back["difference"].value == pytest.approx(-0.1, abs=1e-12)
    assert there["gap"].value == back["gap"].value == pytest.approx(0.1, abs=1e-12)


def test_more_groups_are_told_by_the_largest_gap_and_in_pairs(rng: np.random.Generator):
    scores = {name: rng.random(40).round(2) for name in ("a", "b", "c")}
    audit = parity()
    items = items_of(audit, score_rows(scores))
    rows = {(row.metric, row.slice): row for row in audit.estimate(items)}
    means = {name: np.mean(values) for name, values in scores.items()}
    largest = max(means.values()) - min(means.values())
    assert rows["gap", "all"].value == pytest.approx(largest, abs=1e-12)
    assert rows["difference", "all"].value == pytest.approx(largest, abs=1e-12)
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        pair = rows["difference", f"{one} vs {other}"]
        assert pair.value == pytest.approx(means[one] - means[other], abs=1e-12)
        assert ("mean", f"{one} vs {other}") not in rows
    assert rows["mean", "a"].value == pytest.approx(means["a"], abs=1e-12)
    assert ("gap", "a") not in rows


def test_an_item_of_two_groups_counts_in_both():
    rows = found({"a|x": [0.2, 0.4], "b|x": [0.6, 1.0]}, groups=("a", "b"))
    assert rows["difference"].value == pytest.approx(0.3 - 0.8, abs=1e-12)
    rows = found({"a|x": [0.2, 0.4], "b|x": [0.6, 1.0]}, groups=("a", "x"))
    assert rows["difference"].value == pytest.approx(0.3 - 0.55, abs=1e-12)


def test_the_interval_of_more_groups_is_that_of_the_shared_search(rng: np.random.Generator):
    scores = {name: rng.random(60).round(3) for name in ("a", "b", "c")}
    row = found(scores)["gap"]
    labels = np.repeat(["a", "b", "c"], 60)
    templates = np.tile(np.arange(60), 3)
    peer = group_gap(np.concatenate(list(scores.values())), labels, rng=rng, clusters=templates)
    assert row.value == pytest.approx(peer.value, abs=1e-12)
    assert row.high == pytest.approx(peer.high, abs=0.01)


@pytest.mark.parametrize(
    ("groups", "rows", "message"),
    [
        (("a",), {"a": [0.1], "b": [0.2]}, "score-parity.groups must name at least two"),
        (("a", "c"), {"a": [0.1], "b": [0.2]}, "the data have no group 'c'; known: a, b"),
        ((), {"a": [0.1]}, "score-parity compares groups, got a; name at least two"),
    ],
)
def test_groups_that_cannot_be_compared_are_refused(groups, rows, message: str):
    with pytest.raises(UserError, match=message):
        parity(groups=groups).probes(score_rows(rows))


def test_a_group_without_scores_leaves_the_number_undefined():
    rows = found({"a": [0.1, 0.2, 0.3], "b": [float("nan")] * 3})
    assert np.isnan(rows["gap"].value)
    assert np.isnan(rows["difference"].value)


# 4. planted effect


@pytest.mark.parametrize("world", WORLDS, ids=["difference", "gap"])
def test_planted_differences_are_recovered(world):
    # the gap is larger than it is where it is small: by 0.02 at 0 with 600 prompts
    assert slope(ScoreParity, world, 600, seeds=15) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("world", WORLDS, ids=["difference", "gap"])
def test_intervals_hold_the_planted_number(world):
    # over 800 seeds 3 to 7 % of intervals miss, with 80 to 200 prompts
    assert misses(ScoreParity, world, world.planted[3], 200, 100) <= 0.1


def test_a_correction_is_called_improved():
    audit = ScoreParity(**SIGNED.settings)
    before, after = (
        items_of(audit, draw.rows, draw.model)
        for draw in (SIGNED.draw(planted, 400, 3) for planted in (0.2, 0.0))
    )
    verdicts = {row.metric: row.verdict for row in compare_items(audit, before, after)}
    assert verdicts == {"difference": "improved", "gap": "improved"}


# 5. negative control


@pytest.mark.parametrize("world", WORLDS, ids=["difference", "gap"])
def test_equal_groups_raise_no_alarm(world):
    assert misses(ScoreParity, world, 0.0, 60, 200) <= FALSE_ALARMS


def test_the_largest_of_many_gaps_raises_no_alarm_either():
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scores = {name: rng.random(30).round(3) for name in ("a", "b", "c", "d")}
        audit = parity()
        items = items_of(audit, score_rows(scores))
        [gap] = [metric for metric in audit.metrics if metric.name == "gap"]
        alarms += gap.interval(items, rng, {"metric": "gap"}).low > 0
    assert alarms <= FALSE_ALARMS * 200


def test_a_tone_that_all_groups_share_is_no_difference():
    rows = found({"a": [0.1, 0.9] * 20, "b": [0.1, 0.9] * 20})
    assert rows["difference"].value == rows["gap"].value == 0
