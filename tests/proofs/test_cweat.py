"""Contextual WEAT: the word's own state, whatever stands around it; intersections add up."""

import numpy as np
import pytest

from tests.audits.planted_models import random_bert, random_llama
from tests.proofs.embedding_vectors import items_of, minilm
from tests.proofs.probability_calibration import misses, slope, world_of
from trueup.audits.embedding.cweat import Cweat
from trueup.audits.embedding.effect_size import associations
from trueup.audits.embedding.weat import weat
from trueup.calibration.planted_words import planted_rows
from trueup.models.embedder import vectors_of
from trueup.worlds.planted_vectors import planted_attributes, planted_names

TEMPLATES = ("this is {word}", "{word} is here", "we met {word} there")

# 1. identity


@pytest.mark.parametrize("make", [random_llama, random_bert])
def test_it_is_weat_on_the_words_own_states(make):
    rows = planted_rows(8, TEMPLATES[:1])
    model = make([row["text"] for row in rows])
    items = items_of(Cweat(), model, rows)
    source = vectors_of(model, "a test")
    states = source.span_vectors([(row["text"], 8, len(row["text"])) for row in rows])
    x, y, a, b = np.split(states, [4, 8, 12])
    np.testing.assert_allclose(items["score"], associations(np.concatenate([x, y]), a, b))
    found = Cweat().estimate(items)[0]
    assert found.value == pytest.approx(weat(x, y, a, b).d, abs=1e-9)


def test_a_model_that_sees_no_neighbour_says_the_same_in_every_sentence():
    """Layer 0 of a model with rotary positions is the token alone: the trap of one token too late.

    One token late, the words before the sentence's end would be read, and differ.
    """
    rows = planted_rows(8, TEMPLATES)
    audit = Cweat(layer=0, cluster="none")
    items = items_of(audit, random_llama([row["text"] for row in rows]), rows)
    spread = items.groupby("input")["score"].agg(np.ptp)
    assert spread.max() < 1e-12
    assert items["score"].std() > 0.01


def test_a_causal_models_word_knows_nothing_of_what_follows():
    texts = ["w1 is here", "w1 was there", "w1"]
    source = vectors_of(random_llama(texts), "a test")
    states = source.span_vectors([(text, 0, 2) for text in texts])
    np.testing.assert_allclose(states, states[:1].repeat(3, axis=0), atol=1e-5)


# 3. known optimum: intersections

WHITE, MALE = 1.0, 1.0  # shifts, which add up


def gaps(extra: float) -> dict[str, float]:
    """mean_X s - mean_Y s of i1 to i5, black women shifted by `extra` more."""
    rng = np.random.default_rng(2)
    shifts = [WHITE + MALE, WHITE, MALE, -extra]  # white men and women, black men and women
    names = planted_names(shifts, rng=rng)
    a, b = planted_attributes(rng=rng)
    means = associations(names.reshape(-1, 32), a, b).reshape(4, -1).mean(axis=1)
    white_men, white_women, black_men, black_women = means
    return {
        "i1": white_women - black_women,
        "i2": black_men - black_women,
        "i3": white_men - black_men,
        "i4": white_men - white_women,
        "i5": white_men - black_women,
    }


def test_two_axes_add_up_to_the_intersection():
    found = gaps(0.0)
    assert found["i5"] == pytest.approx(found["i3"] + found["i2"], abs=1e-12)
    assert found["i5"] == pytest.approx(found["i4"] + found["i1"], abs=1e-12)
    assert found["i5"] > max(found[name] for name in ("i1", "i2", "i3", "i4"))


def test_what_meets_black_women_only_moves_their_tests_only():
    plain, more = gaps(0.0), gaps(2.0)
    assert [more[name] == plain[name] for name in plain] == [False, False, True, True, False]
    assert all(more[name] > plain[name] for name in ("i1", "i2", "i5"))


# calibration

WORLD = world_of("cweat")


def test_the_effect_size_follows_what_was_planted():
    assert slope(Cweat, WORLD, n=24) == pytest.approx(1, abs=0.1)


def test_the_interval_covers_the_planted_effect():
    assert misses(Cweat, WORLD, 0.8, n=60, seeds=100) <= 0.10


def test_no_effect_raises_few_alarms():
    assert misses(Cweat, WORLD, 0.0, n=24, seeds=200) <= 0.096  # 5 % + 3 standard errors


# a real encoder


def test_a_real_encoder_finds_flowers_pleasant_and_reads_every_sentence_once():
    audit = Cweat(test="universal,c4-race")
    encoder = minilm()
    items = items_of(audit, encoder)
    found = {row.slice: row for row in audit.estimate(items) if row.metric == "d"}
    # measured: 1.53, 1.24, and 0.91 for the names of Bertrand and Mullainathan
    assert found["c1-flowers"].low > 0.5
    assert found["c2-instruments"].low > 0.5
    assert found["c4-race"].low > 0
    tokens = encoder.work.trunk_tokens
    items_of(audit, encoder)
    assert encoder.work.trunk_tokens == tokens
