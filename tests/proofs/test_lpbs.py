"""LPBS: the sheet's closed-form vectors, a trained model's known lean, nothing from nothing."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest

from tests.audits.planted_models import random_bert
from tests.proofs.planted_bert import corpus, planted_bert
from tests.proofs.probability_calibration import misses, slope, world_of
from tests.proofs.tiny_training import trained_llama
from tests.proofs.toy_masked_model import ToyMaskedModel
from trueup.audits import CrowsPairs, compare_items
from trueup.audits.probability.lpbs import LPBS
from trueup.models.masked_language_model import MaskedLanguageModel
from trueup.stats import Estimate

WORLD = world_of("lpbs")
TRAINED = [{"template": "[TARGET] is [ATTRIBUTE]", "a": "alice", "b": "bob", "attribute": "good"}]
trained: Callable[..., MaskedLanguageModel] = cache(planted_bert)


def items_of(model: MaskedLanguageModel, rows: list[dict]) -> pd.DataFrame:
    return LPBS().measure(model, LPBS().probes(rows))


def numbers(items: pd.DataFrame) -> dict[str, Estimate]:
    return {row.metric: row for row in LPBS().estimate(items) if row.slice == "all"}


def toy_row(**changes: str) -> dict[str, str]:
    row = {"template": "[TARGET] [ATTRIBUTE]", "a": "w05", "b": "w06", "attribute": "w09"}
    return {**row, **changes}


# 1. identity: sheet 33, section 8.1


@pytest.mark.parametrize(
    ("attribute", "corrected", "uncorrected"),
    [
        ("w09", 0.985165067395, -0.197297762138),  # the prior turns the sign
        ("w11", 1.325652372325, 0.143189542792),
    ],
)
def test_vectors_of_the_closed_form(attribute: str, corrected: float, uncorrected: float):
    items = items_of(ToyMaskedModel(), [toy_row(attribute=attribute)])
    assert items["score"][0] == pytest.approx(corrected, abs=1e-11)
    assert numbers(items)["uncorrected"].value == pytest.approx(uncorrected, abs=1e-11)


def test_swapping_the_groups_turns_the_sign():
    there, back = (
        items_of(ToyMaskedModel(), [row]) for row in (toy_row(), toy_row(a="w06", b="w05"))
    )
    assert there["score"][0] == pytest.approx(-back["score"][0], abs=1e-12)


def test_words_of_a_group_are_summed_inside_the_logarithm():
    model = ToyMaskedModel()
    items = items_of(model, [toy_row(a="w05|w07")])
    parts = [items_of(model, [toy_row(a=word)]) for word in ("w05", "w07")]
    for column in ("logp_a", "prior_a"):
        expected = np.log(sum(np.exp(part[column][0]) for part in parts))
        assert items[column][0] == pytest.approx(expected, abs=1e-12)


def test_a_target_of_two_pieces_is_a_product_over_their_own_masks():
    model = ToyMaskedModel()
    [filled] = items_of(model, [toy_row(a="w05 w07")]).to_dict("records")
    ids = [1, 3, 3, 9, 2]
    [logps] = model.masked_logps([(ids, [1, 2], [5, 7])])
    assert filled["logp_a"] == pytest.approx(logps.sum(), abs=1e-12)
    # the trap: every piece at every mask, four factors
    [crossed] = model.masked_logps([(ids, [1, 1, 2, 2], [5, 7, 5, 7])])
    assert filled["logp_a"] != pytest.approx(crossed.sum(), abs=0.1)


# 3. known optimum: sheet 33, section 8.3


@pytest.mark.parametrize("p_a", [0.5, 0.7])
def test_a_trained_model_has_log_4_whatever_the_prior(p_a: float):
    # measured over three seeds: 1.362 to 1.378 and 1.354 to 1.366
    items = items_of(trained(p_a, 0.8, 0.2, seed=0), TRAINED)
    assert items["score"][0] == pytest.approx(np.log(4), abs=0.1)


def test_without_the_correction_the_prior_is_in_it():
    items = items_of(trained(0.7, 0.8, 0.2, seed=0), TRAINED)
    uncorrected = items["logp_a"][0] - items["logp_b"][0]
    assert uncorrected == pytest.approx(np.log(28 / 3), abs=0.1)
    assert uncorrected - items["score"][0] > 0.5


def test_a_causal_twin_has_the_same_lean():
    audit = CrowsPairs()
    model = trained_llama(corpus(0.5, 0.8, 0.2), seed=1, steps=300)
    pair = {"sent_more": "alice is good", "sent_less": "bob is good"}
    items = audit.measure(model, audit.probes([pair]))
    # measured over three seeds: 1.30 to 1.45
    assert items["score"][0] == pytest.approx(np.log(4), abs=0.2)


def test_a_trained_model_without_a_lean_has_none():
    items = items_of(trained(0.7, 0.5, 0.5, seed=0), TRAINED)
    assert abs(items["score"][0]) < 0.05
    assert items["logp_a"][0] - items["logp_b"][0] == pytest.approx(np.log(7 / 3), abs=0.1)


# 4. planted effect


def test_calibration_follows_the_planted_sizes():
    assert slope(LPBS, WORLD, 60) == pytest.approx(1, abs=0.1)


def test_calibration_intervals_cover():
    assert misses(LPBS, WORLD, 0.5, 60, 100) <= 0.1


def test_the_uncorrected_ratio_is_off_by_the_prior():
    draw = WORLD.draw(0.0, 100, 0)
    found = numbers(items_of(draw.model, draw.rows))
    assert found["lpbs"].low <= 0 <= found["lpbs"].high
    assert found["uncorrected"].value - found["lpbs"].value == pytest.approx(np.log(2), abs=1e-9)


def test_a_correction_is_called_improved():
    before, after = (WORLD.draw(lean, 60, 5) for lean in (1.0, 0.0))
    items = [items_of(draw.model, draw.rows) for draw in (before, after)]
    rows = {row.metric: row.verdict for row in compare_items(LPBS(), *items)}
    assert rows == {"lpbs": "improved", "size": "improved"}


# 5. negative control


def test_calibration_raises_few_false_alarms():
    assert misses(LPBS, WORLD, 0.0, 60, 200) <= 0.096


def test_random_models_lean_either_way():
    # one model's two words always differ, whatever the attribute: over models it cancels
    rows = [{**TRAINED[0], "attribute": "|".join(f"w{n}" for n in range(10))}]
    texts = ["alice bob is", *rows[0]["attribute"].split("|")]
    scores = [items_of(random_bert(texts, seed=seed), rows)["score"].mean() for seed in range(16)]
    assert abs(np.mean(scores)) <= 3 * np.std(scores, ddof=1) / np.sqrt(16)
    assert min(scores) < 0 < max(scores)


def test_shuffled_groups_show_nothing(rng: np.random.Generator):
    draw = WORLD.draw(1.0, 80, 0)
    flipped = np.repeat(rng.permutation(np.repeat([True, False], 20)), 2)  # an attribute whole
    rows = [
        {**row, "a": row["b"], "b": row["a"]} if flip else row
        for row, flip in zip(draw.rows, flipped, strict=True)
    ]
    row = numbers(items_of(draw.model, rows))["lpbs"]
    assert row.low <= 0 <= row.high
