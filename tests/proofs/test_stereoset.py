"""StereoSet: the sheet's iCAT and CAT vectors, planted shares, and nothing from nothing."""

import numpy as np
import pandas as pd
import pytest

from tests.audits.planted_models import random_bert, random_llama
from tests.proofs.probability_calibration import misses, slope, world_of
from tests.proofs.toy_masked_model import ToyMaskedModel
from trueup.audits import compare_items
from trueup.audits.probability.stereoset import StereoSet, icat
from trueup.calibration.scripted_likelihoods import ScriptedModel
from trueup.models import LanguageModel
from trueup.models.masked_language_model import MaskedLanguageModel
from trueup.stats import Estimate

WORLD = world_of("stereoset")


def items_of(
    model: LanguageModel | MaskedLanguageModel, rows: list[dict], **settings
) -> pd.DataFrame:
    audit = StereoSet(**settings)
    return audit.measure(model, audit.probes(rows))


def numbers(items: pd.DataFrame, **settings) -> dict[str, Estimate]:
    return {row.metric: row for row in StereoSet(**settings).estimate(items) if row.slice == "all"}


def scored(f: list[tuple[float, float, float]], targets: list[str]) -> pd.DataFrame:
    """Items with these f of stereotype, anti-stereotype and unrelated, of these terms."""
    table = np.array(f, dtype=float)
    return pd.DataFrame(
        {
            "id": [str(n) for n in range(len(f))],
            "group": "",
            "cluster": targets,
            "target": targets,
            "stereotype": table[:, 0],
            "anti_stereotype": table[:, 1],
            "unrelated": table[:, 2],
            "score": table[:, 0] - table[:, 1],
        }
    )


# 1. identity: sheet 33, sections 8.1 and 8.2


@pytest.mark.parametrize(
    ("lms", "ss", "expected"),
    [
        (100, 50, 100),
        (100, 100, 0),
        (50, 50, 50),
        (90, 60, 72),
        (90, 40, 72),
        (85.5, 61.25, 66.2625),
    ],
)
def test_vectors_of_icat(lms: float, ss: float, expected: float):
    assert float(icat(lms, ss)) == pytest.approx(expected, abs=1e-10)


CONTEXT = {
    "context": "BLANK w05 w06",
    "stereotype": "w04 w09",
    "anti_stereotype": "w08",
    "unrelated": "w10",
}


def test_vectors_of_fills_masked_together():
    [row] = items_of(ToyMaskedModel(), [CONTEXT]).to_dict("records")
    assert row["stereotype"] == pytest.approx(-4.496076013863, abs=1e-11)
    assert row["anti_stereotype"] == pytest.approx(-2.642130987542, abs=1e-11)


def test_the_published_form_averages_probabilities_uncovered_from_the_left():
    model = ToyMaskedModel()
    [row] = items_of(model, [CONTEXT], score="published").to_dict("records")
    rows = [([1, 3, 3, 5, 6, 2], [1], [4]), ([1, 4, 3, 5, 6, 2], [2], [9])]
    first, second = (float(part[0]) for part in model.masked_logps(rows))
    expected = (np.exp(first) + np.exp(second)) / 2
    assert row["stereotype"] == pytest.approx(expected, abs=1e-12)
    assert row["anti_stereotype"] == pytest.approx(np.exp(-2.642130987542), abs=1e-11)


def test_a_causal_model_is_scored_over_all_tokens():
    rows = [{"context": "she is BLANK now", "stereotype": "very kind", "anti_stereotype": "rude",
             "unrelated": "blue"}]  # fmt: skip
    texts = ["she is very kind now", "she is rude now", "she is blue now"]
    model = random_llama(texts)
    items = items_of(model, rows)
    expected = [part.mean() for part in model.text_token_logps(texts)]
    found = items[["stereotype", "anti_stereotype", "unrelated"]].to_numpy()[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_scores_are_averages_over_terms():
    # term x: 3 of 4 stereotypes win; term y: 0 of 1
    f = [(3, 2, 1), (3, 2, 1), (3, 2, 1), (1, 2, 3), (1, 3, 2)]
    found = numbers(scored(f, ["x", "x", "x", "x", "y"]))
    assert found["ss"].value == pytest.approx((75 + 0) / 2, abs=1e-12)
    # meaningful wins: x: 2, 2, 2, 0 of 8; y: 1 of 2
    assert found["lms"].value == pytest.approx((75 + 50) / 2, abs=1e-12)
    assert found["icat"].value == pytest.approx(62.5 * 37.5 / 50, abs=1e-12)


@pytest.mark.parametrize(("ties", "expected"), [("half", 75.0), ("zero", 50.0)])
def test_ties_count_half_or_nothing(ties: str, expected: float):
    found = numbers(scored([(2, 1, 0), (1, 1, 0)], ["x", "y"]), ties=ties)
    assert found["ss"].value == expected


def test_swapping_the_fills_mirrors_ss_and_keeps_lms_and_icat():
    draw = WORLD.draw(70.0, 80, 0)
    swapped = [
        {**row, "stereotype": row["anti_stereotype"], "anti_stereotype": row["stereotype"]}
        for row in draw.rows
    ]
    there, back = (numbers(items_of(draw.model, rows)) for rows in (draw.rows, swapped))
    assert there["ss"].value == pytest.approx(100 - back["ss"].value, abs=1e-9)
    for metric in ("lms", "icat"):
        assert there[metric].value == pytest.approx(back[metric].value, abs=1e-9)


def test_an_increasing_transform_changes_no_score(rng: np.random.Generator):
    f = rng.normal(size=(40, 3))
    names = [str(n % 10) for n in range(40)]
    before, after = (numbers(scored(each.tolist(), names)) for each in (f, np.sinh(3 * f)))
    assert {m: row.value for m, row in before.items()} == {m: row.value for m, row in after.items()}


def test_a_model_that_always_takes_the_stereotype_has_no_icat():
    found = numbers(scored([(3, 2, 1)] * 40, [str(n) for n in range(40)]))
    assert (found["ss"].value, found["lms"].value, found["icat"].value) == (100, 100, 0)
    assert found["ss"].low > 90  # Wilson's interval over 40 terms


# 4. planted effect


def test_calibration_follows_the_planted_sizes():
    assert slope(StereoSet, WORLD, 100) == pytest.approx(1, abs=0.1)


def test_calibration_intervals_cover():
    assert misses(StereoSet, WORLD, 65.0, 100, 100) <= 0.1


def test_lms_is_the_planted_share_of_meaningful_items():
    draws = [WORLD.draw(50.0, 400, seed) for seed in range(5)]
    values = [numbers(items_of(draw.model, draw.rows))["lms"].value for draw in draws]
    assert np.mean(values) == pytest.approx(90, abs=2)  # three standard errors of 2000 items


def test_a_causal_model_gives_the_same_ss_where_it_is_planted(rng: np.random.Generator):
    wins = rng.random(60) < 0.7
    rows = [
        {"context": f"item{n} is BLANK", "stereotype": "rude", "anti_stereotype": "kind",
         "unrelated": "oblong"}
        for n in range(60)
    ]  # fmt: skip

    def following(words):
        if words[-1:] != ["is"]:
            return {}
        more, less = (0.2, 0.1) if wins[int(words[0][4:])] else (0.1, 0.2)
        return {"rude": more, "kind": less, "oblong": 0.01}

    texts = ["is rude kind oblong", *(row["context"] for row in rows)]
    found = numbers(items_of(ScriptedModel(texts, following), rows))
    assert found["ss"].value == pytest.approx(100 * wins.mean(), abs=1e-9)
    assert found["lms"].value == 100


def test_a_correction_is_called_improved():
    draws = [WORLD.draw(lean, 200, 1) for lean in (80.0, 50.0)]
    rows = compare_items(StereoSet(), *(items_of(draw.model, draw.rows) for draw in draws))
    verdicts = {row.metric: row.verdict for row in rows}
    assert verdicts["ss"] == verdicts["icat"] == "improved"
    assert verdicts["lms"] == "no evidence"


# 5. negative control


def test_calibration_raises_few_false_alarms():
    assert misses(StereoSet, WORLD, 50.0, 100, 200) <= 0.096


def test_a_random_model_understands_nothing_and_leans_nowhere():
    rows = [
        {"context": f"item{n} is BLANK", "stereotype": f"x{n}", "anti_stereotype": f"y{n}",
         "unrelated": f"z{n}"}
        for n in range(100)
    ]  # fmt: skip
    texts = [" ".join(row.values()) for row in rows]
    found = numbers(items_of(random_bert(texts), rows))
    assert abs(found["ss"].value - 50) <= 100 * 2 * np.sqrt(0.25 / 100)
    assert abs(found["lms"].value - 50) <= 100 * 2 * np.sqrt(0.25 / 100)


def test_icat_stays_below_100_without_a_lean():
    draw = WORLD.draw(50.0, 100, 2)
    row = numbers(items_of(draw.model, draw.rows))["icat"]
    assert row.value < 95
