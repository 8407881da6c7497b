"""Perplexity: known distributions give known numbers, and its interval covers the truth."""

import numpy as np
import pytest

from tests.audits.planted_models import PlantedModel
from tests.proofs.probability_calibration import misses, slope, world_of
from trueup.audits import Perplexity, compare_items
from trueup.models import LanguageModel

WORDS = [f"w{number}" for number in range(8)]


def drawn(rng: np.random.Generator, weights: np.ndarray, texts: int, length: int = 12) -> list:
    """Texts of independent words with these probabilities."""
    chosen = rng.choice(len(WORDS), size=(texts, length), p=weights)
    return [{"text": " ".join(WORDS[word] for word in row)} for row in chosen]


def planted(weights: np.ndarray) -> LanguageModel:
    named = dict(zip(WORDS, weights.tolist(), strict=True))
    return PlantedModel(WORDS, lambda words: named)


def items_of(model: LanguageModel, rows: list):
    return Perplexity().measure(model, Perplexity().probes(rows))


SKEWED = np.array([0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])


def entropy(truth: np.ndarray, model: np.ndarray) -> float:
    """Cross-entropy in nats per word."""
    return float(-(truth * np.log(model)).sum())


# 1. identity


def test_a_uniform_model_is_as_perplexed_as_it_has_words(rng: np.random.Generator):
    uniform = np.full(8, 1 / 8)
    [row] = Perplexity().estimate(items_of(planted(uniform), drawn(rng, SKEWED, 5)))
    assert row.value == pytest.approx(8.0, abs=1e-9)


def test_a_certain_model_is_not_perplexed():
    model = PlantedModel(WORDS, lambda words: {"w0": 1 - 1e-12})
    [row] = Perplexity().estimate(items_of(model, [{"text": "w0 w0"}, {"text": "w0"}]))
    assert row.value == pytest.approx(1.0, abs=1e-9)


def test_a_copied_text_changes_nothing(rng: np.random.Generator):
    items = items_of(planted(SKEWED), drawn(rng, SKEWED, 5))
    twice = Perplexity().estimate(items.loc[items.index.repeat(2)])[0]
    assert twice.value == pytest.approx(Perplexity().estimate(items)[0].value, abs=1e-9)


# 4. planted effect


@pytest.mark.parametrize("texts", [12, 60])
def test_the_interval_covers_the_cross_entropy(texts: int):
    rng = np.random.default_rng(6)
    model = np.array([0.3, 0.2, 0.15, 0.15, 0.05, 0.05, 0.05, 0.05])
    truth, covered = np.exp(entropy(SKEWED, model)), 0
    for _ in range(60):
        [row] = Perplexity().estimate(items_of(planted(model), drawn(rng, SKEWED, texts)))
        covered += row.low <= truth <= row.high
    assert covered >= 51  # 57 of 60 expected, three standard errors are 5


def test_damage_trips_the_guard(rng: np.random.Generator):
    rows = drawn(rng, SKEWED, 30)
    before, after = (items_of(planted(each), rows) for each in (SKEWED, np.full(8, 1 / 8)))
    [row] = compare_items(Perplexity(), before, after)
    assert row.verdict == "worse"
    assert row.delta == pytest.approx(8 - row.before, abs=1e-9)


WORLD = world_of("perplexity")  # no perplexity is a null: planted sizes only


def test_calibration_follows_the_planted_sizes():
    assert slope(Perplexity, WORLD, 60) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("planted", WORLD.planted[::2])
def test_calibration_intervals_cover(planted: float):
    assert misses(Perplexity, WORLD, planted, 100, 100) <= 0.1


# 5. negative control


def test_an_equal_model_trips_nothing(rng: np.random.Generator):
    items = items_of(planted(SKEWED), drawn(rng, SKEWED, 30))
    [row] = compare_items(Perplexity(), items, items)
    assert (row.verdict, row.delta) == ("no evidence", 0.0)
