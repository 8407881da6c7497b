"""AUL: the sheet's closed-form vectors, planted shares, and nothing from nothing."""

import numpy as np
import pandas as pd
import pytest

from tests.audits.planted_models import random_bert
from tests.proofs.probability_calibration import misses, slope, world_of
from tests.proofs.toy_masked_model import S1, S2, ToyMaskedModel
from trueup.audits import CrowsPairs, compare_items
from trueup.audits.probability.aul import AUL
from trueup.calibration.scripted_likelihoods import ScriptedMaskedModel
from trueup.models.masked_language_model import MaskedLanguageModel
from trueup.stats import Estimate

WORLD = world_of("aul")
COUNT = 80
ROWS = [
    {"id": str(n), "sent_more": f"group a{n} is lazy", "sent_less": f"group b{n} is lazy"}
    for n in range(COUNT)
]
SWAPPED = [{**row, "sent_more": row["sent_less"], "sent_less": row["sent_more"]} for row in ROWS]
TEXTS = [row[side] for row in ROWS for side in ("sent_more", "sent_less")]


def items_of(model: MaskedLanguageModel, rows: list[dict]) -> pd.DataFrame:
    return AUL().measure(model, AUL().probes(rows))


def numbers(items: pd.DataFrame) -> dict[str, Estimate]:
    return {row.metric: row for row in AUL().estimate(items)}


def planted(log_odds: np.ndarray) -> MaskedLanguageModel:
    """P(lazy | a_n, itself in sight) / P(lazy | b_n, itself in sight) = exp(log_odds_n)."""

    def filling(words, place):
        if place != 3:
            return {}
        half = log_odds[int(words[1][1:])] / 2
        return {"lazy": 0.1 * float(np.exp(half if words[1][0] == "a" else -half))}

    return ScriptedMaskedModel(TEXTS, filling)


# 1. identity: sheet 33, section 8.1


def test_vector_of_the_closed_form_pair():
    items = items_of(ToyMaskedModel(), [{"sent_more": S1, "sent_less": S2}])
    assert items["more"][0] == pytest.approx(-3.070404835037, abs=1e-11)
    assert items["less"][0] == pytest.approx(-2.502448222923, abs=1e-11)
    assert numbers(items)["share"].value == 0.0


def test_nothing_is_masked_and_every_word_is_scored():
    model = ToyMaskedModel()
    items_of(model, [{"sent_more": S1, "sent_less": S2}])
    assert [row[0] for row in model.rows] == [[1, 4, 5, 6, 7, 2], [1, 8, 5, 6, 7, 2]]
    assert [list(row[1]) for row in model.rows] == [[1, 2, 3, 4]] * 2


def test_it_is_the_aul_score_of_crows_pairs():
    model, audit = random_bert(TEXTS), CrowsPairs(score="aul")
    other = audit.measure(model, audit.probes(ROWS))
    np.testing.assert_allclose(items_of(model, ROWS)["score"], other["score"], atol=1e-6)


def test_swapping_the_sentences_maps_the_share_to_its_complement():
    there, back = (numbers(items_of(random_bert(TEXTS), rows)) for rows in (ROWS, SWAPPED))
    assert there["share"].value == pytest.approx(1 - back["share"].value, abs=1e-12)
    assert there["log_ratio"].value == pytest.approx(-back["log_ratio"].value, abs=1e-6)


def test_an_increasing_transform_changes_no_share(rng: np.random.Generator):
    items = items_of(planted(rng.normal(size=COUNT)), ROWS)
    stretched = items.assign(score=np.sinh(3 * items["more"]) - np.sinh(3 * items["less"]))
    assert numbers(items)["share"].value == numbers(stretched)["share"].value


# 4. planted effect


def test_planted_log_odds_are_measured_per_word(rng: np.random.Generator):
    log_odds = rng.normal(size=COUNT)
    items = items_of(planted(log_odds), ROWS)
    np.testing.assert_allclose(items["score"], log_odds / 4, atol=1e-9)  # four words each


def test_a_correction_is_called_improved(rng: np.random.Generator):
    noise = rng.normal(size=COUNT)
    before, after = (items_of(planted(lean + noise), ROWS) for lean in (1.5, 0.0))
    rows = {row.metric: row.verdict for row in compare_items(AUL(), before, after)}
    assert rows == {"share": "improved", "log_ratio": "improved"}


def test_calibration_follows_the_planted_sizes():
    assert slope(AUL, WORLD, 100) == pytest.approx(1, abs=0.1)


def test_calibration_intervals_cover():
    assert misses(AUL, WORLD, 0.65, 60, 100) <= 0.1


# 5. negative control


def test_calibration_raises_few_false_alarms():
    assert misses(AUL, WORLD, 0.5, 60, 200) <= 0.096


def test_shuffled_labels_show_nothing(rng: np.random.Generator):
    flipped = rng.permutation(np.repeat([True, False], COUNT // 2))
    rows = [SWAPPED[n] if flip else ROWS[n] for n, flip in enumerate(flipped)]
    found = numbers(items_of(planted(rng.uniform(0.2, 2, size=COUNT)), rows))
    assert found["share"].value == 0.5
    assert found["log_ratio"].low <= 0 <= found["log_ratio"].high


def test_a_random_model_has_no_lean():
    share = numbers(items_of(random_bert(TEXTS), ROWS))["share"]
    assert abs(share.value - 0.5) <= 2 * np.sqrt(0.25 / COUNT)
