"""CBS: the sheet's closed-form vectors, planted variances, and what noise alone makes."""

import numpy as np
import pandas as pd
import pytest

from tests.proofs.probability_calibration import misses, slope, world_of
from tests.proofs.toy_masked_model import ToyMaskedModel
from trueup.audits import compare_items
from trueup.audits.probability.cbs import CBS
from trueup.audits.probability.lpbs import LPBS
from trueup.calibration.scripted_likelihoods import ScriptedMaskedModel
from trueup.models.masked_language_model import MaskedLanguageModel
from trueup.stats import Estimate

WORLD = world_of("cbs")


def items_of(model: MaskedLanguageModel, rows: list[dict]) -> pd.DataFrame:
    return CBS().measure(model, CBS().probes(rows))


def numbers(items: pd.DataFrame) -> dict[str, Estimate]:
    return {row.metric: row for row in CBS().estimate(items) if row.slice == "all"}


def toy_row(targets: str, attribute: str = "w09|w11") -> dict[str, str]:
    return {"template": "[TARGET] [ATTRIBUTE]", "targets": targets, "attribute": attribute}


# 1. identity: sheet 33, section 8.1


def test_vectors_of_the_closed_form():
    items = items_of(ToyMaskedModel(), [toy_row("w04|w05|w06|w07")])
    assert items["score"].tolist() == pytest.approx([1.121447300941, 1.803215993283], abs=1e-11)
    assert numbers(items)["cbs"].value == pytest.approx(1.462331647112, abs=1e-11)
    # the population variance, which the authors' code does not use
    assert items["score"].mean() * 3 / 4 == pytest.approx(1.096748735334, abs=1e-11)


def test_two_targets_give_half_the_square_of_lpbs():
    model = ToyMaskedModel()
    [score] = items_of(model, [toy_row("w05|w06", "w09")])["score"]
    row = {"template": "[TARGET] [ATTRIBUTE]", "a": "w05", "b": "w06", "attribute": "w09"}
    lpbs = LPBS().measure(model, LPBS().probes([row]))["score"][0]
    assert score == pytest.approx(0.485275105008, abs=1e-11)
    assert score == pytest.approx(lpbs**2 / 2, abs=1e-12)


def test_the_order_of_the_groups_changes_nothing():
    there, back = (
        items_of(ToyMaskedModel(), [toy_row(words)])
        for words in ("w04|w05|w06|w07", "w07|w05|w04|w06")
    )
    np.testing.assert_allclose(there["score"], back["score"], atol=1e-12)
    assert there["favoured"].tolist() == back["favoured"].tolist()


def test_a_group_of_two_pieces_is_a_product_over_their_own_masks():
    model = ToyMaskedModel()
    [score] = items_of(model, [toy_row("w05|w06 w07", "w09")])["score"]
    one, two = ([1, 3, 9, 2], [1, 3, 3, 9, 2])
    bare = ([1, 3, 3, 2], [1, 3, 3, 3, 2])  # the attribute masked as well
    ratios = []
    for ids, prior, targets in ((one, bare[0], [5]), (two, bare[1], [6, 7])):
        places = list(range(1, 1 + len(targets)))
        told, before = model.masked_logps([(ids, places, targets), (prior, places, targets)])
        ratios.append(told.sum() - before.sum())
    assert score == pytest.approx(np.var(ratios, ddof=1), abs=1e-12)


# 4. planted effect


def test_calibration_follows_the_planted_sizes():
    assert slope(CBS, WORLD, 60) == pytest.approx(1, abs=0.1)


def test_calibration_intervals_cover():
    assert misses(CBS, WORLD, 0.7, 60, 100) <= 0.1


def test_a_correction_is_called_improved():
    items = [
        items_of(draw.model, draw.rows) for draw in (WORLD.draw(size, 60, 2) for size in (0.7, 0.2))
    ]
    assert {row.verdict for row in compare_items(CBS(), *items)} == {"improved"}


def test_the_favoured_group_is_named():
    draw = WORLD.draw(1.0, 30, 0)
    items = items_of(draw.model, draw.rows)
    assert (items["favoured"] == "west").mean() > 0.7
    assert (items["disfavoured"] == "north").mean() > 0.7
    assert CBS().notes(items)[0].startswith("favoured most often: west")


# 5. negative control


def test_calibration_raises_few_false_alarms():
    # against what noise alone makes, 0.09: a variance is never 0
    assert misses(CBS, WORLD, WORLD.null, 60, 200) <= 0.096


def test_without_any_difference_it_is_0():
    words = {"north": 0.1, "south": 0.1}
    model = ScriptedMaskedModel(
        ["people from north south are kind"], lambda _, place: words if place == 2 else {}
    )
    row = {
        "template": "people from [TARGET] are [ATTRIBUTE]",
        "targets": "north|south",
        "attribute": "kind",
    }
    assert items_of(model, [row])["score"][0] == pytest.approx(0, abs=1e-24)


def test_noise_alone_favours_no_group():
    draw = WORLD.draw(WORLD.null, 300, 0)
    favoured = items_of(draw.model, draw.rows)["favoured"]
    shares = favoured.value_counts(normalize=True)
    assert shares.max() < 0.25 + 3 * np.sqrt(0.25 * 0.75 / 300)
    assert len(shares) == 4
