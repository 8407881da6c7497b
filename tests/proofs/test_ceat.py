"""CEAT: the sheet's random-effects vectors, no contexts that differ, planted effects, nothing."""

import numpy as np
import pytest

from tests.proofs.embedding_vectors import items_of, minilm
from tests.proofs.probability_calibration import misses, slope, world_of
from trueup.audits import compare_items
from trueup.audits.embedding.ceat import Ceat, draw_terms
from trueup.audits.embedding.random_effects import random_effects
from trueup.audits.embedding.weat import Weat
from trueup.calibration.planted_words import TEMPLATES, planted_encoder, planted_rows
from trueup.worlds.planted_vectors import PlantedEncoder

# 1. identity: sheet 33, section 8.2


def test_vectors_of_effects_that_differ():
    found = random_effects(np.array([0.5, 0.8, -0.1, 0.4]), np.array([0.04, 0.09, 0.05, 0.02]))
    assert found.tau**2 == pytest.approx(0.054927007299, abs=1e-12)
    assert found.ces == pytest.approx(0.376389526565, abs=1e-12)
    assert found.error == pytest.approx(0.157502400901, abs=1e-12)
    assert found.z == pytest.approx(2.389738343108, abs=1e-11)
    assert found.p_value == pytest.approx(0.008430189993, abs=1e-11)


def test_vectors_of_effects_that_agree():
    found = random_effects(np.array([0.3, 0.35, 0.32]), np.array([0.04, 0.05, 0.02]))
    assert found.tau == 0
    assert found.ces == pytest.approx(0.321052631579, abs=1e-12)


def test_a_draw_without_an_effect_does_not_count():
    d, v = np.array([0.3, np.nan, 0.35, 0.32]), np.array([0.04, 0.1, 0.05, 0.02])
    assert random_effects(d, v).ces == pytest.approx(0.321052631579, abs=1e-12)


@pytest.mark.parametrize("variance", ["paper", "hedges"])
def test_without_noise_of_contexts_it_is_weat(variance: str):
    encoder = planted_encoder(0.7, 20, 0, noise=0.0, sentences=1)
    audit = Ceat(samples=7, variance=variance)
    found = {row.metric: row for row in audit.estimate(
        items_of(audit, encoder, planted_rows(20, TEMPLATES)))}  # fmt: skip
    plain = Weat().estimate(items_of(Weat(), encoder, planted_rows(20)))[0]
    assert found["ces"].value == pytest.approx(plain.value, abs=1e-9)
    assert found["tau"].value == 0


def test_the_variances_are_those_of_their_formulas():
    encoder = planted_encoder(0.7, 20, 0, noise=1.0, sentences=1)
    items = items_of(Ceat(samples=8), encoder, planted_rows(20, TEMPLATES))
    sums = draw_terms(items).sum(axis=0)
    draws = np.array(items["draws"].tolist())
    x, y = (draws[(items["side"] == side).to_numpy()] for side in "xy")
    effects = (x.mean(axis=0) - y.mean(axis=0)) / draws.std(axis=0, ddof=1)
    d, paper = Ceat(samples=8)._draws(sums)
    np.testing.assert_allclose(d[0], effects, atol=1e-9)
    np.testing.assert_allclose(paper[0], draws.var(axis=0, ddof=1), rtol=1e-9)
    _, hedges = Ceat(samples=8, variance="hedges")._draws(sums)
    np.testing.assert_allclose(hedges[0], 20 / 100 + effects**2 / 40, rtol=1e-9)


def test_every_context_is_drawn_as_often_as_any_other():
    encoder = planted_encoder(0.7, 20, 0, noise=1.0, sentences=1)
    items = items_of(Ceat(samples=40), encoder, planted_rows(20, TEMPLATES))
    counts = [np.unique(row, return_counts=True)[1].tolist() for row in items["draws"]]
    assert counts == [[10, 10, 10, 10]] * 20


# 4. planted effect, 5. negative control


def taus(noise: float, scale: float) -> float:
    """Tau where all leanings and their noise are `scale` times as large."""
    whole = planted_encoder(0.0, 60, 0, noise=noise, sentences=1)
    leanings = {word: lean if abs(lean) == 1 else scale * lean
                for word, lean in whole.leanings.items()}  # fmt: skip
    items = items_of(
        Ceat(), PlantedEncoder(leanings, noise=scale * whole.noise), planted_rows(60, TEMPLATES)
    )
    return Ceat().estimate(items)[1].value


def test_more_noise_of_contexts_is_a_larger_tau():
    assert 0.02 < taus(0.2, scale=0.1) < 0.5 * taus(1.0, scale=0.1)


def test_the_papers_variance_moves_with_the_scale_of_cosines():
    """Effect sizes are free of scale, and so is the variance that is theirs; the paper's is not."""
    assert taus(1.0, scale=3.0) < 0.1 * taus(1.0, scale=0.1)


def test_a_correction_is_called_improved_and_none_is_not():
    rows, audit = planted_rows(40, TEMPLATES), Ceat(samples=10)
    before, after = (
        items_of(audit, planted_encoder(effect, 40, 1, noise=0.3, sentences=1), rows)
        for effect in (1.2, 0.0)
    )
    assert [row.verdict for row in compare_items(audit, before, after)] == ["improved"]
    assert [row.verdict for row in compare_items(audit, after, after)] == ["no evidence"]


WORLD = world_of("ceat")


def test_the_combined_effect_follows_what_was_planted():
    assert slope(Ceat, WORLD, n=24) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("n", [24, 40])
def test_the_interval_covers_the_planted_effect(n: int):
    assert misses(Ceat, WORLD, 0.8, n=n, seeds=100) <= 0.10


def test_no_effect_raises_few_alarms():
    assert misses(Ceat, WORLD, 0.0, n=24, seeds=200) <= 0.096  # 5 % + 3 standard errors


# a real encoder


def test_a_real_encoder_finds_flowers_pleasant_in_sentences():
    flowers = ("rose", "tulip", "daisy", "lily", "orchid", "violet")
    insects = ("spider", "wasp", "moth", "cockroach", "mosquito", "flea")
    things = ("love", "peace", "joy", "happy", "death", "poison", "hatred", "disaster", "gift")
    frames = ("Yesterday we saw the {} near the old wall.", "My sister wrote a poem on {}.",
              "Nobody had thought of the {} before.")  # fmt: skip
    rows = [{"text": frame.format(word)} for word in (*flowers, *insects, *things)
            for frame in frames]  # fmt: skip
    audit = Ceat(test="universal")
    items = items_of(audit, minilm(), rows)
    found = {row.metric: row for row in audit.estimate(items)}
    assert set(items["input"]) == {*flowers, *insects}
    assert found["ces"].low > 0  # measured: 1.4
    assert "too few of the words: c2-instruments" in audit.notes(items)[-1]
