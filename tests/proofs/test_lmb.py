"""LMB: the sheet's t, planted differences of perplexity, and nothing from nothing."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind, ttest_rel

from tests.audits.planted_models import random_llama
from tests.proofs.probability_calibration import misses, slope, world_of
from trueup.audits import compare_items
from trueup.audits.probability.lmb import LMB, paired_t
from trueup.models import LanguageModel
from trueup.stats import Estimate

WORLD = world_of("lmb")
PP1, PP2 = [30.0, 42, 55, 61, 38, 47], [28.0, 45, 50, 58, 33, 49]


def scored(more: list[float] | np.ndarray, less: list[float] | np.ndarray) -> pd.DataFrame:
    """Items of pairs with these perplexities."""
    first, second = np.asarray(more, dtype=float), np.asarray(less, dtype=float)
    return pd.DataFrame(
        {
            "id": [str(n) for n in range(len(first))],
            "group": "",
            "cluster": "",
            "direction": "",
            "more": first,
            "less": second,
            "score": np.log(first) - np.log(second),
        }
    )


def items_of(model: LanguageModel, rows: list[dict]) -> pd.DataFrame:
    return LMB().measure(model, LMB().probes(rows))


def numbers(items: pd.DataFrame, audit: LMB | None = None) -> dict[str, Estimate]:
    return {row.metric: row for row in (audit or LMB()).estimate(items) if row.slice == "all"}


# 1. identity: sheet 33, section 8.2


def test_vector_of_t():
    items = scored(PP1, PP2)
    assert numbers(items)["t"].value == pytest.approx(1.185113657850, abs=1e-11)
    assert numbers(items)["difference"].value == pytest.approx(10 / 6, abs=1e-12)
    assert "t(5) = 1.185, two-sided p 0.2892" in LMB().notes(items)[0]


def test_t_is_the_paired_one():
    assert ttest_ind(PP1, PP2).statistic == pytest.approx(0.255521425220, abs=1e-11)
    assert numbers(scored(PP1, PP2))["t"].value != pytest.approx(0.2555, abs=0.1)


def test_swapping_the_sentences_turns_every_sign():
    there, back = numbers(scored(PP1, PP2)), numbers(scored(PP2, PP1))
    for metric in ("difference", "t", "log_ratio"):
        assert there[metric].value == pytest.approx(-back[metric].value, abs=1e-12)


def test_equal_differences_have_no_t():
    assert math.isnan(numbers(scored([30.0, 40], [28.0, 38]))["t"].value)
    with np.errstate(divide="ignore", invalid="ignore"):
        assert math.isnan(paired_t(np.array([0.0, 0.0, 5.0])))


def test_perplexity_is_that_of_every_token():
    rows = [{"sent_more": "the old man forgot it", "sent_less": "the young man forgot it all"}]
    model = random_llama(list(rows[0].values()))
    [row] = items_of(model, rows).to_dict("records")
    for side, text in (("more", rows[0]["sent_more"]), ("less", rows[0]["sent_less"])):
        [logps] = model.text_token_logps([text])
        assert len(logps) == len(text.split())
        assert row[side] == pytest.approx(math.exp(-logps.mean()), rel=1e-5)


def test_outliers_are_dropped_where_asked(rng: np.random.Generator):
    more, less = rng.uniform(20, 30, size=(2, 50))
    more[7] = 4000
    items = scored(more, less)
    kept, all_of_them = numbers(items, LMB(drop_beyond=3)), numbers(items)
    rest = np.arange(50) != 7
    expected = ttest_rel(more[rest], less[rest]).statistic
    assert (kept["t"].n, all_of_them["t"].n) == (49, 50)
    assert kept["t"].value == pytest.approx(expected, abs=1e-9)
    assert "1 of 50 pairs dropped" in LMB(drop_beyond=3).notes(items)[1]


# 2. differential


def test_t_is_scipys(rng: np.random.Generator):
    more, less = rng.lognormal(3, 0.5, size=(2, 40))
    row = numbers(scored(more, less))["t"]
    assert row.value == pytest.approx(ttest_rel(more, less).statistic, abs=1e-9)
    assert row.low < row.value < row.high


# 4. planted effect


def test_calibration_follows_the_planted_sizes():
    assert slope(LMB, WORLD, 100) == pytest.approx(1, abs=0.1)


def test_calibration_intervals_cover():
    assert misses(LMB, WORLD, 0.5, 60, 100) <= 0.1


def test_t_grows_with_n_and_the_difference_does_not():
    found = [
        numbers(items_of(draw.model, draw.rows))
        for draw in (WORLD.draw(-2.0, n, 0) for n in (100, 900))
    ]
    small, large = ([each[metric].value for each in found] for metric in ("difference", "t"))
    assert small == pytest.approx([-2, -2], abs=0.6)  # three standard errors at n = 100
    assert large[1] / large[0] == pytest.approx(3, abs=1)


def test_a_correction_is_called_improved():
    draws = [WORLD.draw(lean, 60, 1) for lean in (-2.0, 0.0)]
    rows = compare_items(LMB(), *(items_of(draw.model, draw.rows) for draw in draws))
    assert {row.metric: row.verdict for row in rows} == {
        "difference": "improved",
        "log_ratio": "improved",
    }


# 5. negative control


def test_calibration_raises_few_false_alarms():
    assert misses(LMB, WORLD, 0.0, 60, 200) <= 0.096


def test_shuffled_labels_show_nothing(rng: np.random.Generator):
    draw = WORLD.draw(2.0, 80, 0)
    flipped = rng.permutation(np.repeat([True, False], 40))
    rows = [
        {**row, "sent_more": row["sent_less"], "sent_less": row["sent_more"]} if flip else row
        for row, flip in zip(draw.rows, flipped, strict=True)
    ]
    found = numbers(items_of(draw.model, rows))
    assert found["difference"].low <= 0 <= found["difference"].high
    assert found["t"].low <= 0 <= found["t"].high
