"""Gender polarity: both forms by hand, planted shares, and even ones."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.proofs.text_calibration import FALSE_ALARMS, items_of, misses, slope, world_of
from trueup.audits import compare_items
from trueup.audits.text.gender_polarity import GenderPolarity, largest, wavg
from trueup.models.no_model import NoModel

WORLD = world_of("gender_polarity")


def items_of_texts(audit: GenderPolarity, texts: list[str]) -> pd.DataFrame:
    rows = [{"prompt": f"p{n}", "completion": text} for n, text in enumerate(texts)]
    return audit.measure(NoModel(), audit.probes(rows))


# 1. identity


def test_the_larger_count_is_the_side_and_equal_counts_are_neutral():
    texts = ["She saw her son.", "His daughter's uncle", "she and he", "it rained", "WOMEN!"]
    items = items_of_texts(GenderPolarity(), texts)
    assert items["side"].tolist() == ["female", "male", "neutral", "neutral", "female"]
    found = {row.metric: row.value for row in GenderPolarity().estimate(items)}
    assert found == pytest.approx({"polarity": 0.2, "female": 0.4, "male": 0.2, "neutral": 0.4})


def test_wavg_weighs_by_size_and_max_takes_the_largest():
    b = np.array([0.8, -0.2, 0.1])
    assert wavg(b) == pytest.approx((0.64 - 0.04 + 0.01) / 1.1)
    assert largest(b) == 0.8
    assert (wavg(-b), largest(-b)) == pytest.approx((-wavg(b), -largest(b)))
    assert wavg(np.empty(0)) == largest(np.empty(0)) == 0


@pytest.fixture
def vectors(tmp_path: Path) -> str:
    words = ["she", "he", "nurse", "pilot", "stone"]
    table = [[1, 1], [1, -1], [3, 4], [4, -3], [2, 0]]  # the direction is (0, 1)
    np.savez(tmp_path / "v.npz", words=np.array(words), vectors=np.array(table, float))
    return str(tmp_path / "v.npz")


@pytest.mark.parametrize(
    ("form", "expected"),
    [("wavg", (0.8, (0.64 - 0.36) / 1.4, -0.6, 0.0)), ("max", (0.8, 0.8, -0.6, 0.0))],
)
def test_vectors_give_cosines_with_she_less_he(vectors: str, form: str, expected: tuple):
    audit = GenderPolarity(form=form, vectors=vectors)
    items = items_of_texts(audit, ["a nurse", "Nurse, pilot", "the pilot", "a stone"])
    assert items["score"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("threshold", "side"), [(0.25, "male"), (0.6, "male"), (0.61, "neutral")])
def test_the_threshold_makes_the_side(vectors: str, threshold: float, side: str):
    audit = GenderPolarity(form="wavg", vectors=vectors, threshold=threshold)
    assert items_of_texts(audit, ["the pilot"])["side"].tolist() == [side]


def test_the_gap_is_of_two_groups_of_prompts():
    rows = [
        {"prompt": f"{group}{n}", "group": group, "completion": text}
        for group, texts in {"actors": ["he", "he", "it"], "actresses": ["she", "it", "it"]}.items()
        for n, text in enumerate(texts)
    ]
    audit = GenderPolarity(groups=("actresses", "actors"))
    found = audit.estimate(audit.measure(NoModel(), audit.probes(rows)))
    [gap] = [row.value for row in found if row.metric == "polarity_gap"]
    assert gap == pytest.approx(1 / 3 + 2 / 3)


# 2. planted effect and negative control


def test_the_estimate_follows_the_planted_polarity():
    assert slope(GenderPolarity, WORLD, 200) == pytest.approx(1, abs=0.1)


def test_the_interval_covers_the_planted_polarity():
    assert misses(GenderPolarity, WORLD, 0.2, 100, 150) <= 0.1


def test_even_shares_raise_no_alarm():
    assert misses(GenderPolarity, WORLD, 0.0, 100, 200) <= FALSE_ALARMS


def test_evener_shares_are_an_improvement_and_the_same_are_no_evidence():
    audit = GenderPolarity()
    before, after, again = (
        items_of(audit, WORLD, planted, 300, seed)
        for planted, seed in ((0.4, 1), (0.0, 2), (0.4, 3))
    )
    assert compare_items(audit, before, after)[0].verdict == "improved"
    assert compare_items(audit, before, again)[0].verdict == "no evidence"
