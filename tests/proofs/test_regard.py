"""Regard: the sheet's counts, planted blame, and shares that noise alone moves."""

import numpy as np
import pytest

from tests.audits.scored_rows import all_rows, items_of
from tests.proofs.text_calibration import headline_of, misses, slope
from tests.proofs.text_calibration import items_of as items_of_draw
from trueup.audits import compare_items
from trueup.audits.text.regard import CLASSES, Regard
from trueup.calibration.regard import WORLDS
from trueup.errors import UserError

GAP, DISTANCE = WORLDS
FALSE_ALARMS = 0.096  # 5 % and three standard errors of 200 seeds
# sheet 33, section 8.2: counts of 20 texts
FIRST = {"positive": 10, "neutral": 5, "negative": 3, "other": 2}
SECOND = {"positive": 6, "neutral": 5, "negative": 7, "other": 2}


def named_class(prompts, completions):
    """Each completion is the name of its class."""
    return [{name: float(text == name) for name in CLASSES} for text in completions]


def class_rows(counts):
    return [
        {"prompt": f"{group} {name} {place}", "group": group, "completion": name}
        for group, several in counts.items()
        for name, count in several.items()
        for place in range(count)
    ]


def found(counts, **settings):
    audit = Regard(scorer=named_class, **settings)
    return all_rows(audit, items_of(audit, class_rows(counts)))


# 1. identity


def test_vectors_of_the_sheet():
    rows = found({"a": SECOND, "b": FIRST})
    assert rows["negative_gap"].value == pytest.approx(0.2, abs=1e-12)
    assert rows["tvd"].value == pytest.approx(0.2, abs=1e-12)


def test_the_order_of_the_groups_turns_the_gap_and_not_the_distance():
    rows = found({"a": SECOND, "b": FIRST}, groups=("b", "a"))
    assert rows["negative_gap"].value == pytest.approx(-0.2, abs=1e-12)
    assert rows["tvd"].value == pytest.approx(0.2, abs=1e-12)


def test_shares_of_each_group_are_told():
    audit = Regard(scorer=named_class)
    items = items_of(audit, class_rows({"a": FIRST, "b": SECOND}))
    rows = {(row.metric, row.slice): row.value for row in audit.estimate(items)}
    assert [rows[name, "a"] for name in CLASSES] == [0.5, 0.15, 0.25, 0.1]
    assert [rows[name, "b"] for name in CLASSES] == [0.3, 0.35, 0.25, 0.1]
    assert sum(rows[name, "all"] for name in CLASSES) == pytest.approx(1, abs=1e-12)


def test_three_groups_are_told_by_the_largest_gap_and_the_mean_distance():
    third = {"positive": 2, "neutral": 5, "negative": 11, "other": 2}
    rows = found({"a": FIRST, "b": SECOND, "c": third})
    assert rows["negative_gap"].value == pytest.approx((11 - 3) / 20, abs=1e-12)
    assert rows["tvd"].value == pytest.approx((0.2 + 0.4 + 0.2) / 3, abs=1e-12)


def test_the_class_with_the_largest_share_is_the_texts():
    shares = [{"positive": 0.2, "negative": 0.3, "neutral": 0.5}] * 2
    audit = Regard(scorer=lambda prompts, texts: shares[: len(texts)])
    rows = [{"prompt": group, "group": group, "completion": "x"} for group in "ab"]
    items = items_of(audit, rows)
    assert items["regard"].tolist() == ["neutral", "neutral"]
    assert items["score"].tolist() == pytest.approx([-0.1, -0.1], abs=1e-12)


def test_a_text_without_shares_does_not_count():
    def scorer(prompts, texts):
        return [{"positive": float(text), "negative": 0.4} for text in texts]

    rows = [
        {"prompt": f"{group} {text}", "group": group, "completion": text}
        for group in "ab"
        for text in ("0.9", "0.1", "nan")
    ]
    audit = Regard(scorer=scorer)
    items = items_of(audit, rows)
    assert items["regard"].tolist()[:2] == ["positive", "negative"]
    assert items["regard"].isna().sum() == 2
    assert all_rows(audit, items)["negative"].value == 0.5


def test_a_scorer_of_other_classes_is_refused():
    audit = Regard(scorer=lambda prompts, texts: [{"LABEL_0": 1.0}] * len(texts))
    with pytest.raises(UserError, match="a class 'label_0'; known: positive, negative"):
        items_of(audit, [{"prompt": g, "group": g, "completion": "x"} for g in "ab"])


# 4. planted effect


@pytest.mark.parametrize("world", WORLDS, ids=["gap", "distance"])
def test_planted_sizes_are_recovered(world):
    # the distance is larger than it is where it is small: by 0.04 at 0 with 1000 prompts
    assert slope(Regard, world, 1000, seeds=10) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("world", WORLDS, ids=["gap", "distance"])
def test_intervals_hold_the_planted_number(world):
    assert misses(Regard, world, world.planted[3], 100, 100) <= 0.1


def test_a_correction_is_called_improved():
    audit = Regard(**GAP.settings)
    before, after = (
        items_of(audit, draw.rows, draw.model)
        for draw in (GAP.draw(planted, 400, 3) for planted in (0.4, 0.0))
    )
    verdicts = {row.metric: row.verdict for row in compare_items(audit, before, after)}
    assert verdicts == {"negative_gap": "improved", "tvd": "improved"}


# 5. negative control


@pytest.mark.parametrize("world", WORLDS, ids=["gap", "distance"])
def test_equal_groups_raise_no_alarm(world):
    assert misses(Regard, world, 0.0, 60, 200) <= FALSE_ALARMS


def test_equal_groups_lie_within_the_shuffles():
    audit = Regard(**DISTANCE.settings)
    above, distances, shuffled = 0, [], []
    for seed in range(200):
        items = items_of_draw(audit, DISTANCE, 0.0, 60, seed)
        tvd, noise = (headline_of(audit, name, items) for name in ("tvd", "tvd_shuffled"))
        above += tvd.value > noise.high
        distances.append(tvd.value)
        shuffled.append(noise.value)
    assert above <= 0.058 * 200  # 2.5 % and three standard errors
    assert np.mean(shuffled) == pytest.approx(np.mean(distances), rel=0.05)


def test_a_writer_of_one_class_has_no_gap():
    rows = found({"a": {"neutral": 30}, "b": {"neutral": 20}})
    assert rows["negative_gap"].value == rows["tvd"].value == 0
