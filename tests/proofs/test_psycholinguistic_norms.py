"""Psycholinguistic norms: the sheet's vector, planted valences, and none."""

from pathlib import Path

import pytest

from tests.proofs.text_calibration import FALSE_ALARMS, misses, slope, world_of
from trueup.audits import compare_items
from trueup.audits.text.psycholinguistic_norms import PsycholinguisticNorms
from trueup.models.no_model import NoModel
from trueup.stats import Estimate

pytest.importorskip("vaderSentiment")
WORLD = world_of("psycholinguistic_norms")


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "norms.csv"
    lines = ["word,joy,fear", "bright,2,1", "dull,-1,", "calm,0.5,-2", "grim,-3,4", "flat,0,0"]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def items_of_texts(audit: PsycholinguisticNorms, texts: list[str], group: str = ""):
    rows = [{"prompt": f"p{n}", "completion": t, "group": group} for n, t in enumerate(texts)]
    return audit.measure(NoModel(), audit.probes(rows))


def numbers(audit: PsycholinguisticNorms, texts: list[str]) -> dict[str, Estimate]:
    return {row.metric: row for row in audit.estimate(items_of_texts(audit, texts))}


# 1. identity: sheet 33, section 8.2


def test_vector_of_the_values_2_minus_1_one_half_and_minus_3(table: str):
    found = numbers(PsycholinguisticNorms(norms=table), ["Bright but dull; calm, then grim."])
    assert found["joy"].value == pytest.approx(-0.8846153846, abs=1e-10)
    assert found["fear"].value == pytest.approx((1 - 4 + 16) / 7)  # dull has no fear


def test_texts_count_alike_in_the_mean_and_words_in_the_pooled_norm(table: str):
    found = numbers(PsycholinguisticNorms(norms=table), ["bright", "grim grim grim", "stone"])
    assert found["joy"].value == pytest.approx((2 - 3) / 2)
    assert found["joy_pooled"].value == pytest.approx((4 - 27) / (2 + 9))
    assert found["joy"].n == 2  # the stone has no affect


def test_the_midpoint_of_the_scale_is_taken_off(tmp_path: Path):
    path = tmp_path / "scale.csv"
    path.write_text("word,valence\nbright,7\ndull,4\n", encoding="utf-8")
    found = numbers(PsycholinguisticNorms(norms=str(path), midpoint=5), ["bright dull"])
    assert found["valence"].value == pytest.approx((4 - 1) / 3)


def test_turning_every_sign_turns_the_norm(tmp_path: Path, table: str):
    other = tmp_path / "turned.csv"
    text = Path(table).read_text(encoding="utf-8")
    other.write_text(
        text.replace("bright,2", "bright,-2").replace("grim,-3", "grim,3"), encoding="utf-8"
    )
    joys = [
        numbers(PsycholinguisticNorms(norms=n), ["bright grim"])["joy"].value
        for n in (table, str(other))
    ]
    assert joys[0] == pytest.approx(-joys[1]) == pytest.approx(-1)


def test_vader_is_the_default():
    found = numbers(PsycholinguisticNorms(), ["It was good.", "It was bad."])
    assert found["valence"].value == pytest.approx((1.9 - 2.5) / 2)


def test_the_gap_is_the_first_groups_mean_less_the_seconds(table: str):
    rows = [
        {"prompt": "p", "completion": word, "group": group}
        for word, group in (("bright", "b"), ("calm", "b"), ("grim", "a"), ("bright", "a"))
    ]
    for groups, expected in (((), -0.5 - 1.25), (("b", "a"), 1.25 + 0.5)):
        audit = PsycholinguisticNorms(norms=table, groups=groups)
        found = audit.estimate(audit.measure(NoModel(), audit.probes(rows)))
        [gap] = [row for row in found if row.metric == "joy_gap"]
        assert gap.value == pytest.approx(expected)


# 2. planted effect and negative control


def test_the_estimate_follows_the_planted_valence():
    assert slope(PsycholinguisticNorms, WORLD, 200) == pytest.approx(1, abs=0.1)


def test_the_interval_covers_the_planted_valence():
    assert misses(PsycholinguisticNorms, WORLD, 0.5, 100, 150) <= 0.1


def test_no_valence_raises_no_alarm():
    assert misses(PsycholinguisticNorms, WORLD, 0.0, 100, 200) <= FALSE_ALARMS


def test_a_mean_has_no_better_side_and_a_gap_has():
    audit = PsycholinguisticNorms(groups=("a", "b"))
    rows = [
        {"prompt": f"{group}{n}", "group": group, "completion": "good"}
        for group in "ab"
        for n in range(40)
    ]
    unfair = [
        {**row, "completion": "good" if row["group"] == "a" or n % 4 else "bad"}
        for n, row in enumerate(rows)
    ]
    before, after = (audit.measure(NoModel(), audit.probes(each)) for each in (unfair, rows))
    found = compare_items(audit, before, after)
    assert [(row.metric, row.verdict) for row in found] == [("valence_gap", "improved")]
