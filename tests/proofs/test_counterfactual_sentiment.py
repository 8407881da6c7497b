"""Counterfactual sentiment: scipy's distance, planted laws of one mean, and noise told as noise."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from tests.audits.scored_rows import all_rows, items_of, score_rows, written_scores
from tests.proofs.text_calibration import headline_of, misses, slope
from tests.proofs.text_calibration import items_of as items_of_draw
from trueup.audits import compare_items
from trueup.audits.text.counterfactual_sentiment import CounterfactualSentiment
from trueup.audits.text.score_parity import ScoreParity
from trueup.calibration.counterfactual_sentiment import WORLDS
from trueup.worlds.scripted_writer import LawScript, ScriptedWriter

[WORLD] = WORLDS
FALSE_ALARMS = 0.096  # 5 % and three standard errors of 200 seeds


def sentiment(**settings) -> CounterfactualSentiment:
    return CounterfactualSentiment(scorer=written_scores, **settings)


def found(scores, **settings):
    audit = sentiment(**settings)
    return all_rows(audit, items_of(audit, score_rows(scores)))


def sampled_rows(scores: np.ndarray) -> list[dict[str, str]]:
    """A row per score of [templates, groups, samples]; equal prompts are samples of one."""
    return [
        {
            "prompt": f"{group} {template}",
            "group": f"g{group}",
            "template": str(template),
            "completion": str(score),
        }
        for template, groups in enumerate(scores)
        for group, several in enumerate(groups)
        for score in several
    ]


# 1. identity: sheet 33, sections 8.2 and 8.4


def test_vectors_of_the_sheet():
    rows = found({"a": [0.1, 0.4, 0.8], "b": [0.2, 0.2, 0.9, 0.5]})
    assert rows["w1"].value == pytest.approx(0.1333333333, abs=1e-10)
    rows = found({"a": [0.1, 0.4, 0.8], "b": [0.9, 0.2, 0.5]})
    assert rows["w1"].value == pytest.approx(0.1, abs=1e-12)


def test_the_distance_is_at_least_the_difference_of_means(rng: np.random.Generator):
    a, b = rng.integers(0, 101, size=(2, 40)) / 100
    assert found({"a": a, "b": b})["w1"].value >= abs(a.mean() - b.mean()) - 1e-12


def test_a_pure_shift_is_the_difference_of_means(rng: np.random.Generator):
    a = rng.integers(0, 71, size=40) / 100
    assert found({"a": a, "b": (a + 0.3).round(2)})["w1"].value == pytest.approx(0.3, abs=1e-12)


# 2. differential


@pytest.mark.parametrize("sizes", [(40, 40), (30, 47)])
def test_on_the_grid_it_is_scipys_distance(sizes: tuple[int, int], rng: np.random.Generator):
    a, b = (rng.integers(0, 101, size=size) / 100 for size in sizes)
    assert found({"a": a, "b": b})["w1"].value == pytest.approx(
        wasserstein_distance(a, b), abs=1e-12
    )


@pytest.mark.parametrize("grid", [10, 100, 1000])
def test_off_the_grid_rounding_moves_it_by_less_than_a_step(grid: int, rng: np.random.Generator):
    a, b = rng.random(50), rng.random(50) ** 2
    moved = found({"a": a, "b": b}, grid=grid)["w1"].value - wasserstein_distance(a, b)
    assert abs(moved) < 1 / grid


def test_more_groups_are_a_mean_over_pairs(rng: np.random.Generator):
    several = [rng.integers(0, 101, size=30) / 100 for _ in range(3)]
    expected = np.mean(
        [wasserstein_distance(several[i], several[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    )
    rows = found(dict(zip("abc", several, strict=True)))
    assert rows["w1"].value == pytest.approx(expected, abs=1e-12)


def test_the_individual_form_is_scipys_distance_per_template(rng: np.random.Generator):
    scores = rng.integers(0, 101, size=(12, 2, 6)) / 100
    expected = np.mean([wasserstein_distance(*groups) for groups in scores])
    audit = sentiment()
    row = all_rows(audit, items_of(audit, sampled_rows(scores)))["individual"]
    assert row.value == pytest.approx(expected, abs=1e-12)
    assert row.n == 12


def test_without_templates_there_is_no_individual_form():
    audit = sentiment()
    rows = [{**row, "template": ""} for row in score_rows({"a": [0.1, 0.5], "b": [0.2, 0.4]})]
    assert set(all_rows(audit, items_of(audit, rows))) == {"w1", "w1_shuffled"}


# 4. planted effect


def test_planted_distances_are_recovered():
    assert slope(CounterfactualSentiment, WORLD, 1000, seeds=8) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("planted", WORLD.planted[1:4:2])
def test_intervals_hold_the_planted_number(planted: float):
    assert misses(CounterfactualSentiment, WORLD, planted, 100, 100) <= 0.1


def test_another_law_of_one_mean_is_found_where_means_are_blind():
    draw = WORLD.draw(0.2, 600, 1)
    audit, means = CounterfactualSentiment(**WORLD.settings), ScoreParity(**WORLD.settings)
    laws = headline_of(audit, "w1", items_of(audit, draw.rows, draw.model))
    mean = headline_of(means, "difference", items_of(means, draw.rows, draw.model))
    assert laws.low > 0.1
    assert mean.low <= 0 <= mean.high


def test_a_correction_is_called_improved():
    audit = CounterfactualSentiment(**WORLD.settings)
    before, after = (
        items_of(audit, draw.rows, draw.model)
        for draw in (WORLD.draw(planted, 400, 3) for planted in (0.2, 0.0))
    )
    verdicts = {row.metric: row.verdict for row in compare_items(audit, before, after)}
    assert verdicts["w1"] == "improved"
    assert "w1_shuffled" not in verdicts


def test_a_difference_within_templates_is_in_excess_of_shuffles(rng: np.random.Generator):
    scores = rng.integers(0, 41, size=(30, 2, 5)) / 100
    scores[:, 0] += 0.4
    audit = sentiment()
    row = all_rows(audit, items_of(audit, sampled_rows(scores.round(2))))["excess"]
    assert row.low > 0.1


# 5. negative control


def test_equal_laws_raise_no_alarm():
    audit, alarms = CounterfactualSentiment(**WORLD.settings), 0
    for seed in range(200):
        row = headline_of(audit, "w1", items_of_draw(audit, WORLD, 0.0, 100, seed))
        alarms += not row.low <= 0 <= row.high
    assert alarms <= FALSE_ALARMS * 200  # over 3000 seeds 4.8 %


def test_equal_groups_lie_within_the_shuffles():
    above, distances, shuffled = 0, [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        tones = rng.integers(0, 60, size=(25, 1))
        scores = (tones + rng.integers(0, 41, size=(25, 2)))[:, :, None] / 100
        audit = sentiment()
        items = items_of(audit, sampled_rows(scores))
        w1, noise = (headline_of(audit, name, items) for name in ("w1", "w1_shuffled"))
        above += w1.value > noise.high
        distances.append(w1.value)
        shuffled.append(noise.value)
    assert above <= 0.058 * 200  # 2.5 % and three standard errors
    assert np.mean(shuffled) == pytest.approx(np.mean(distances), rel=0.05)


def test_shuffles_within_templates_find_what_the_templates_tone_hides():
    # both groups vary by 0.8 between templates, and differ by 0.1 in each
    tones = np.arange(81) / 100
    rows = found({"a": tones, "b": (tones + 0.1).round(2)})
    assert rows["w1"].value == pytest.approx(0.1, abs=1e-12)
    assert rows["w1"].value > rows["w1_shuffled"].high


def test_excess_is_null_for_equal_groups():
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scores = (rng.integers(0, 60, size=(15, 1, 1)) + rng.integers(0, 41, size=(15, 2, 3))) / 100
        audit = sentiment(grid=20)
        row = headline_of(audit, "excess", items_of(audit, sampled_rows(scores)))
        alarms += not row.low <= 0 <= row.high
    assert alarms <= FALSE_ALARMS * 200


def test_equal_texts_have_no_distance():
    writer = ScriptedWriter(script=LawScript(laws={"": {"It stood there .": 1.0}}))
    audit = CounterfactualSentiment()
    rows = all_rows(audit, items_of(audit, WORLD.draw(0.0, 60, 0).rows, writer))
    assert rows["w1"].value == 0
    assert np.isnan(rows["w1"].high)
