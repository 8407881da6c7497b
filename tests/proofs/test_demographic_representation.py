"""Demographic representation: the sheet's vectors, identities, planted shares, and even ones."""

from pathlib import Path

import pytest
from scipy.special import rel_entr

from tests.proofs.text_calibration import FALSE_ALARMS, items_of, misses, slope, world_of
from trueup.audits import compare_items
from trueup.audits.text.demographic_representation import DemographicRepresentation
from trueup.models.no_model import NoModel
from trueup.stats import Estimate

WORLD = world_of("demographic_representation")
TEXTS = ["a1 a1 a2 came", "A3, a1 and b1", "b2 saw a2; b1 and c1"]  # counts 6, 3, 1


@pytest.fixture
def persons(tmp_path: Path) -> str:
    path = tmp_path / "persons.csv"
    path.write_text("word,group\na1,a\na2,a\na3,a\nb1,b\nb2,b\nc1,c\n", encoding="utf-8")
    return str(path)


def numbers(audit: DemographicRepresentation, texts: list[str]) -> dict[str, Estimate]:
    rows = [{"prompt": f"p{n}", "completion": text} for n, text in enumerate(texts)]
    items = audit.measure(NoModel(), audit.probes(rows))
    return {row.metric: row for row in audit.estimate(items)}


# 1. identity: sheet 33, sections 8.2 and 8.4


def test_vectors_of_the_counts_6_3_1(persons: str):
    found = numbers(DemographicRepresentation(persons=persons), TEXTS)
    assert [found[f"share_{group}"].value for group in "abc"] == pytest.approx([0.6, 0.3, 0.1])
    assert found["tvd"].value == pytest.approx(0.2666666667, abs=1e-10)
    assert found["kl"].value == pytest.approx(0.2006665638, abs=1e-10)


def test_vectors_with_the_lengths_of_the_lists_3_2_1(persons: str):
    found = numbers(DemographicRepresentation(persons=persons, by_list_size=True), TEXTS)
    assert [found[f"share_{group}"].value for group in "abc"] == pytest.approx(
        [4 / 9, 1 / 3, 2 / 9]
    )
    assert found["tvd"].value == pytest.approx(1 / 9)


def test_a_reference_takes_the_place_of_even_shares(persons: str):
    audit = DemographicRepresentation(persons=persons, reference=(0.5, 0.3, 0.2))
    found = numbers(audit, TEXTS)
    assert found["tvd"].value == pytest.approx(0.1)
    expected = rel_entr([0.6, 0.3, 0.1], [0.5, 0.3, 0.2]).sum()
    assert found["kl"].value == pytest.approx(expected)


def test_a_corpus_twice_over_has_the_same_distance(persons: str):
    audit = DemographicRepresentation(persons=persons)
    assert numbers(audit, TEXTS * 2)["tvd"].value == numbers(audit, TEXTS)["tvd"].value


def test_the_distance_of_two_groups_is_that_of_one_share_from_a_half():
    texts = ["She met her mother", "he went", "His son", "nobody"]
    found = numbers(DemographicRepresentation(), texts)
    assert found["share_female"].value == 0.5
    found = numbers(DemographicRepresentation(), [*texts, "her niece"])
    assert found["share_female"].value == pytest.approx(5 / 8)
    assert found["tvd"].value == pytest.approx(abs(5 / 8 - 1 / 2))


def test_texts_that_name_nobody_have_no_number():
    found = numbers(DemographicRepresentation(), ["it rained", "it snowed"])
    assert str(found["tvd"]).startswith("tvd  all  undefined")


def test_where_all_texts_name_one_group_the_bounds_are_wilsons():
    row = numbers(DemographicRepresentation(), ["she went"] * 20)["tvd"]
    assert (row.value, row.high) == (0.5, 0.5)
    assert row.low == pytest.approx(0.5 * 20 / (20 + 1.959964**2), abs=1e-6)


def test_texts_that_are_all_alike_have_no_bounds():
    row = numbers(DemographicRepresentation(), ["she met her son"] * 9)["tvd"]
    assert row.value == pytest.approx(1 / 6)
    assert not row.low <= row.high


# 2. planted effect and negative control


def test_the_estimate_follows_the_planted_distance():
    assert slope(DemographicRepresentation, WORLD, 500, seeds=15) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("planted", [0.05, 0.2])
def test_the_interval_covers_the_planted_distance(planted: float):
    assert misses(DemographicRepresentation, WORLD, planted, 100, 100) <= 0.1


def test_even_shares_raise_no_alarm():
    assert misses(DemographicRepresentation, WORLD, 0.0, 60, 200) <= FALSE_ALARMS


def test_chance_alone_gives_the_distance_of_even_shares():
    audit = DemographicRepresentation()
    found = {row.metric: row for row in audit.estimate(items_of(audit, WORLD, 0.0, 400, 1))}
    chance = found["tvd_chance"]
    assert chance.value == pytest.approx(0.8 * 0.5 * (14 / 3 / 4 / 400) ** 0.5, rel=0.15)
    assert chance.low < found["tvd"].value < chance.high


def test_evener_shares_are_an_improvement_and_the_same_are_no_evidence():
    audit = DemographicRepresentation()
    before, after, again = (
        items_of(audit, WORLD, planted, 300, seed)
        for planted, seed in ((0.3, 1), (0.05, 2), (0.3, 3))
    )
    assert compare_items(audit, before, after)[0].verdict == "improved"
    assert compare_items(audit, before, again)[0].verdict == "no evidence"
