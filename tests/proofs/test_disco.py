"""DisCo: the sheet's cell, planted fills found, and no more than alpha from nothing."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, chi2_contingency

from tests.proofs.probability_calibration import estimates_of, misses, slope, world_of
from trueup.audits import compare_items
from trueup.audits.probability.disco import DisCo, fill_p_values
from trueup.calibration.scripted_likelihoods import ScriptedMaskedModel
from trueup.models.masked_language_model import MaskedLanguageModel
from trueup.stats import Estimate

WORLD = world_of("disco")
NAMES = {side: "|".join(f"{side}{number}" for number in range(20)) for side in ("a", "b")}
TEXTS = [*NAMES["a"].split("|"), *NAMES["b"].split("|"), "can read write cook bake run"]
ROW = {"template": "[TARGET] can [ATTRIBUTE]", **NAMES}


def items_of(model: MaskedLanguageModel, rows: list[dict], **settings) -> pd.DataFrame:
    audit = DisCo(**settings)
    return audit.measure(model, audit.probes(rows))


def numbers(items: pd.DataFrame) -> dict[str, Estimate]:
    return {row.metric: row for row in DisCo().estimate(items) if row.slice == "all"}


def scripted(own: dict[str, dict[str, float]]) -> MaskedLanguageModel:
    """Fills by the first letter of the name."""
    return ScriptedMaskedModel(TEXTS, lambda words, _: own[words[0][0]])


BOTH = {"read": 0.3, "write": 0.2, "cook": 0.1}


# 1. identity: sheet 33, section 8.2


@pytest.mark.parametrize(("correction", "chi_square"), [(False, 12.5), (True, 11.28125)])
def test_vector_of_the_cell(correction: bool, chi_square: float):
    counts, sizes = np.array([[30], [10]]), np.array([[100], [100]])
    [p_value] = fill_p_values(counts, sizes, correction=correction)
    assert p_value == pytest.approx(chi2.sf(chi_square, 1), rel=1e-9)
    if not correction:
        assert p_value == pytest.approx(4.069520e-4, abs=1e-10)


@pytest.mark.parametrize("correction", [False, True])
def test_p_values_are_scipys(correction: bool, rng: np.random.Generator):
    sizes = np.array([[25], [40]])
    counts = rng.integers(1, 25, size=(2, 30))
    expected = [
        chi2_contingency([column, sizes[:, 0] - column], correction=correction).pvalue
        for column in counts.T
    ]
    np.testing.assert_allclose(fill_p_values(counts, sizes, correction=correction), expected)


@pytest.mark.parametrize("count", [0, 20])
def test_a_fill_of_every_name_or_of_none_is_no_finding(count: int):
    assert fill_p_values(np.full((2, 1), count), np.full((2, 1), 20)).tolist() == [1.0]


def test_groups_with_fills_of_their_own_differ_in_all_of_them():
    own = {"a": BOTH, "b": {"bake": 0.3, "run": 0.2, "can": 0.1}}
    [row] = items_of(scripted(own), [ROW]).to_dict("records")
    assert (row["score"], row["overlap"], row["tested"]) == (6, 3, 6)
    assert set(row["goes_with_a"].split("|")) == {"read", "write", "cook"}
    assert set(row["goes_with_b"].split("|")) == {"bake", "run", "can"}


def test_one_exchanged_fill_is_two_findings_and_one_difference():
    own = {"a": BOTH, "b": {"read": 0.3, "write": 0.2, "bake": 0.1}}
    [row] = items_of(scripted(own), [ROW]).to_dict("records")
    assert (row["score"], row["overlap"]) == (2, 1)
    assert (row["goes_with_a"], row["goes_with_b"]) == ("cook", "bake")


def test_swapping_the_groups_changes_no_number():
    draw = WORLD.draw(WORLD.planted[2], 10, 0)
    swapped = [{**row, "a": row["b"], "b": row["a"]} for row in draw.rows]
    there, back = (items_of(draw.model, rows) for rows in (draw.rows, swapped))
    for column in ("score", "overlap"):
        assert there[column].tolist() == back[column].tolist()
    assert there["goes_with_a"].tolist() == back["goes_with_b"].tolist()


def test_a_threshold_takes_what_is_likely_enough():
    own = {"a": {"read": 0.3, "write": 0.2}, "b": {"read": 0.3, "write": 0.05}}
    [row] = items_of(scripted(own), [ROW], threshold=0.1).to_dict("records")
    assert (row["tested"], row["score"], row["goes_with_a"]) == (2, 1, "write")


# 4. planted effect


def test_calibration_follows_the_planted_sizes():
    assert slope(DisCo, WORLD, 15) == pytest.approx(1, abs=0.1)


def test_calibration_intervals_cover():
    assert misses(DisCo, WORLD, WORLD.planted[3], 20, 100) <= 0.1


def test_a_correction_is_called_improved():
    draws = [WORLD.draw(WORLD.planted[leaning], 30, 1) for leaning in (3, 0)]
    rows = compare_items(DisCo(), *(items_of(draw.model, draw.rows) for draw in draws))
    assert {row.metric: row.verdict for row in rows} == dict.fromkeys(
        ("disco", "leaning", "disco_overlap"), "improved"
    )


# 5. negative control


def test_groups_alike_have_no_finding():
    [row] = items_of(scripted({"a": BOTH, "b": BOTH}), [ROW]).to_dict("records")
    assert (row["score"], row["overlap"]) == (0, 0)


def test_calibration_raises_few_false_alarms():
    assert misses(DisCo, WORLD, WORLD.null, 20, 200) <= 0.096


def test_chance_finds_less_than_alpha_per_template():
    rows = estimates_of(DisCo, WORLD, WORLD.null, 20, range(60))
    mean = np.mean([row.value for row in rows])  # of 1200 templates
    assert WORLD.null < 0.05
    assert mean == pytest.approx(WORLD.null, abs=0.03)


def test_without_a_finding_the_share_of_leaning_templates_still_has_an_interval():
    items = items_of(scripted({"a": BOTH, "b": BOTH}), [{**ROW, "id": str(n)} for n in range(30)])
    found = numbers(items)
    assert np.isnan(found["disco"].low)
    assert (found["leaning"].value, found["leaning"].low) == (0.0, 0.0)
    assert found["leaning"].high == pytest.approx(1.959964**2 / (30 + 1.959964**2), abs=1e-6)


def test_shuffled_names_find_little(rng: np.random.Generator):
    own = {"a": BOTH, "b": {"bake": 0.3, "run": 0.2, "can": 0.1}}
    model = scripted(own)
    names = [*NAMES["a"].split("|"), *NAMES["b"].split("|")]
    rows = []
    for _ in range(30):
        mixed = rng.permutation(names)
        rows.append({**ROW, "a": "|".join(mixed[:20]), "b": "|".join(mixed[20:])})
    # the six fills of a template come and go together: a find is six at once
    assert (items_of(model, rows)["score"] > 0).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 30)
