"""BiasLens: the sheet's vectors and identities, planted directions, a trained model, nothing."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.audits.planted_models import random_llama
from tests.proofs.probability_calibration import SEEDS, world_of
from tests.proofs.tiny_training import trained_llama
from trueup.audits.embedding.biaslens import BiasLens
from trueup.audits.embedding.concept_vectors import (
    Cavs,
    ConceptSpace,
    concept_bias,
    feature_terms,
    fit_cav,
    fit_cavs,
    held_out_accuracy,
)
from trueup.calibration.biaslens import PlantedStates
from trueup.models.sparse_autoencoder import SparseAutoencoder
from trueup.stats import Estimate


def encoder(weights: np.ndarray, biases=0.0, **settings: object) -> SparseAutoencoder:
    """An autoencoder from one row per feature."""
    table = torch.tensor(np.asarray(weights, dtype=np.float64))
    return SparseAutoencoder(
        w_enc=table.T.contiguous(),
        b_enc=torch.zeros(len(table), dtype=torch.float64) + torch.as_tensor(biases),
        b_dec=torch.zeros(table.shape[1], dtype=torch.float64),
        **settings,
    )


def along(directions: np.ndarray) -> Cavs:
    """Probes with these directions."""
    return Cavs(np.asarray(directions, dtype=np.float64), np.zeros(len(directions)))


# 1. identity: sheet 04, section 8.1

TOY = encoder([[1, 0], [0, 1], [0.6, 0.8], [-0.8, 0.6]], np.array([0, -0.5, -0.2, 0]))
TOY_BASE = np.array([(0.2, 0.1), (-0.4, 0.3), (0.5, -0.6)])
TOY_DIRECTIONS = np.array([(0.8, 0.6), (1, 0), (0, 1)])


def toy_vectors(mode: str) -> np.ndarray:
    """Concept vectors of t, 1 and 2 at alpha = 2."""
    alpha = 2 / float(np.linalg.norm(TOY_BASE, axis=1).mean())
    space = ConceptSpace(base=TOY_BASE, mode=mode, sae=TOY, alpha=alpha)
    return space.vectors(along(TOY_DIRECTIONS))


def test_vectors_of_the_response_to_steering():
    expected = [
        [1.466666667, 0.633333333, 1.726666667, -0.166666667],
        [1.866666667, 0, 1.006666667, -0.166666667],
        [0, 1.433333333, 1.406666667, 0.913333333],
    ]
    np.testing.assert_allclose(toy_vectors("sae"), expected, atol=1e-9)


def test_score_of_the_response_to_steering():
    bias = concept_bias(*toy_vectors("sae"))
    assert bias.first == pytest.approx(0.897725138186, abs=1e-12)
    assert bias.second == pytest.approx(0.612055594498, abs=1e-12)
    assert bias.signed == pytest.approx(0.285669543688, abs=1e-12)
    assert bias.size == bias.signed
    assert bias.relative == pytest.approx(0.189212603859, abs=1e-12)


def test_score_of_directions_alone():
    assert concept_bias(*toy_vectors("cav")).signed == pytest.approx(0.8 - 0.6)


def test_plain_encoding_is_of_the_steering_alone():
    x = 2 * TOY_DIRECTIONS @ np.array([[1, 0], [0, 1], [0.6, 0.8], [-0.8, 0.6]]).T
    expected = np.maximum(x + np.array([0, -0.5, -0.2, 0]), 0)
    np.testing.assert_allclose(toy_vectors("encode"), expected, atol=1e-12)


# sheet 04, section 8.2


def test_exchanged_references_exchange_the_sign(rng: np.random.Generator):
    t, one, two = rng.normal(size=(3, 9))
    assert concept_bias(t, one, two).signed == -concept_bias(t, two, one).signed
    assert concept_bias(t, one, one).signed == 0


def test_the_length_of_a_concept_vector_does_not_count(rng: np.random.Generator):
    t, one, two = rng.normal(size=(3, 9))
    scaled = concept_bias(7 * t, 0.01 * one, 300 * two)
    assert scaled.signed == pytest.approx(concept_bias(t, one, two).signed, abs=1e-12)


def test_a_concept_without_a_vector_has_no_score(rng: np.random.Generator):
    t, one = rng.normal(size=(2, 9))
    assert np.isnan(concept_bias(np.zeros(9), t, one).signed)


def test_features_add_up_to_the_score(rng: np.random.Generator):
    vectors = rng.normal(size=(3, 9))
    total = feature_terms(*vectors).sum()
    assert total == pytest.approx(concept_bias(*vectors).signed, abs=1e-12)


def test_a_linear_encoder_with_orthonormal_columns_changes_nothing(rng: np.random.Generator):
    w = np.linalg.qr(rng.normal(size=(12, 5)))[0]  # [K, D], W^T W = 1
    directions, base = rng.normal(size=(3, 5)), rng.normal(size=(20, 5))
    linear = encoder(w, rng.normal(size=12), activation="identity")
    plain = along(directions).directions
    found = ConceptSpace(base=base, mode="sae", sae=linear, alpha=0.7).vectors(along(directions))
    alpha = 0.7 * np.linalg.norm(base, axis=1).mean()
    np.testing.assert_allclose(found, alpha * plain @ w.T, atol=1e-12)
    assert concept_bias(*found).signed == pytest.approx(concept_bias(*plain).signed, abs=1e-12)


def test_decoder_vectors_are_cosines_with_each_features_direction(rng: np.random.Generator):
    w_dec, directions = rng.normal(size=(7, 5)), rng.normal(size=(3, 5))
    sae = encoder(rng.normal(size=(7, 5)), w_dec=torch.tensor(w_dec))
    found = ConceptSpace(base=np.ones((1, 5)), mode="decoder", sae=sae).vectors(along(directions))
    expected = [
        [v @ row / np.linalg.norm(v) / np.linalg.norm(row) for row in w_dec] for v in directions
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_rotated_activations_give_the_same_score(rng: np.random.Generator):
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    states = rng.normal(size=(4, 60, 8)) + np.repeat(rng.normal(size=(4, 1, 8)), 60, axis=1)

    def score(some: np.ndarray) -> float:
        return concept_bias(*(fit_cav(own, some[3]).directions[0] for own in some[:3])).signed

    assert score(states @ turn) == pytest.approx(score(states), abs=1e-6)
    assert abs(score(states)) > 0.05


def test_the_confident_rule_steers_until_the_probe_is_sure(rng: np.random.Generator):
    cavs, base = Cavs(rng.normal(size=(3, 6)), np.array([-1.0, 0.5, 9.0])), rng.normal(size=(40, 6))
    space = ConceptSpace(base=base, alpha_rule="confidence")
    alphas = space.alphas(cavs)
    for line, alpha in enumerate(alphas[:2]):
        moved = base + alpha * cavs.directions[line]
        assert cavs[line].probabilities(moved).mean() == pytest.approx(0.9, abs=1e-8)
    assert alphas[0] > alphas[1] > 0
    assert alphas[2] == 0  # sure before it is steered


# the probes: sheet 04, section 8.2, and 2. differential


def gaussians(rng: np.random.Generator, n: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes N(+-mu, 1) with ||mu|| = 1 along the first axis."""
    noise = rng.normal(size=(2, n, width))
    noise[0, :, 0] += 1
    noise[1, :, 0] -= 1
    return noise[0], noise[1]


def test_the_direction_is_that_of_the_means(rng: np.random.Generator):
    cav = fit_cav(*gaussians(rng, 2000, 16))
    assert cav.directions[0, 0] > 0.97  # measured 0.994


@pytest.mark.parametrize(("n", "width"), [(500, 8), (40, 200)], ids=["many", "separable"])
@pytest.mark.parametrize("inverse_penalty", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("standardise", [False, True])
def test_a_probe_is_scikit_learns(
    rng: np.random.Generator, n: int, width: int, inverse_penalty: float, standardise: bool
):
    positives, negatives = gaussians(rng, n, width)
    positives *= np.linspace(0.5, 2, width)
    found = fit_cav(positives, negatives, C=inverse_penalty, standardise=standardise)
    x = np.concatenate([positives, negatives])
    spread = x.std(axis=0) if standardise else 1.0
    peer = LogisticRegression(C=inverse_penalty, tol=1e-10, max_iter=10_000)
    peer.fit(x / spread, np.repeat([1, 0], n))
    w = peer.coef_[0] / spread
    assert found.directions[0] @ w / np.linalg.norm(w) > 0.9999
    np.testing.assert_allclose(found.weights[0], w, atol=1e-4 * np.abs(w).max())
    assert found.intercepts[0] == pytest.approx(peer.intercept_[0], abs=1e-4)


def test_a_resample_counts_a_sentence_as_often_as_it_is_drawn(rng: np.random.Generator):
    x = np.concatenate(gaussians(rng, 30, 5))
    labels, counts = np.repeat([1.0, 0.0], 30), rng.integers(0, 3, size=60)
    full = fit_cavs(x, labels[None], np.ones((1, 60)))
    counted = fit_cavs(x, labels[None], counts[None].astype(float), near=full)
    repeated = fit_cavs(
        np.repeat(x, counts, axis=0), np.repeat(labels, counts)[None], np.ones((1, counts.sum()))
    )
    np.testing.assert_allclose(counted.weights, repeated.weights, atol=1e-6)
    np.testing.assert_allclose(counted.intercepts, repeated.intercepts, atol=1e-6)


def test_states_that_do_not_differ_have_no_direction():
    cav = fit_cav(np.ones((12, 20)), np.ones((12, 20)))
    assert np.isnan(cav.directions).all()


def test_held_out_accuracy_of_noise_is_chance(rng: np.random.Generator):
    x, labels, folds = rng.normal(size=(400, 30)), np.repeat([1.0, 0.0], 200), np.arange(400) % 5
    found = held_out_accuracy(x, labels, folds, C=1.0, standardise=False)
    assert found == pytest.approx(0.5, abs=0.1)  # 0.025 is one standard error
    x[:200, 0] += 6
    assert held_out_accuracy(x, labels, folds, C=1.0, standardise=False) > 0.98


def test_accuracy_does_not_rise_with_the_number_of_neutral_sentences(rng: np.random.Generator):
    x, labels = rng.normal(size=(440, 5)), np.repeat([1.0, 0.0], [40, 400])
    found = held_out_accuracy(x, labels, np.arange(440) % 5, C=1.0, standardise=False)
    assert found < 0.6  # always "neutral" would be right in 400 of 440


# 4. planted effect: sheet 04, section 8.3

RHOS = (0.0, 0.3, 0.6, 1.0)
PLANTED_SEEDS = 15  # one seed's score has sd 0.1, so that their mean has 0.026


@functools.cache
def planted_biases(rho: float) -> dict[str, np.ndarray]:
    """Both cosines of t on unit(u_t + rho u_1) with references on u_1 and u_2, [seeds, 2]."""
    rows: dict[str, list[tuple[float, float]]] = {"cav": [], "sae": []}
    for seed in range(PLANTED_SEEDS):
        rng = np.random.default_rng(seed)
        axes = np.linalg.qr(rng.normal(size=(64, 3)))[0].T
        target = (axes[0] + rho * axes[1]) / np.hypot(1, rho)
        noise = 0.3 * rng.normal(size=(5, 300, 64))
        positives = noise[:3] + np.stack([target, axes[1], axes[2]])[:, None]
        features = rng.normal(size=(253, 64))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        sae = encoder(np.concatenate([axes, features]))
        cavs = Cavs.stacked([fit_cav(own, noise[3]) for own in positives])
        for mode, found in rows.items():
            space = ConceptSpace(base=noise[4, :200], mode=mode, sae=sae)
            bias = concept_bias(*space.vectors(cavs))
            found.append((bias.first, bias.second))
    return {mode: np.array(found) for mode, found in rows.items()}


def planted_score(rho: float, mode: str, seeds: int = PLANTED_SEEDS) -> float:
    """The mean signed score of the first seeds."""
    first, second = planted_biases(rho)[mode][:seeds].mean(axis=0)
    return float(first - second)


@pytest.mark.parametrize("mode", ["cav", "sae"])
@pytest.mark.parametrize("seeds", [3, PLANTED_SEEDS], ids=["the sheet's three", "more"])
def test_the_size_follows_what_was_planted(mode: str, seeds: int):
    sizes = [abs(planted_score(rho, mode, seeds)) for rho in RHOS]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.12
    assert sizes[2] > 0.3


def test_noise_shrinks_every_cosine_by_the_same_share():
    ratios = [
        planted_biases(rho)["cav"][:, 0].mean() / (rho / np.hypot(1, rho)) for rho in RHOS[1:]
    ]
    assert ratios == pytest.approx([0.94] * 3, abs=0.13)  # two standard errors at rho = 0.3


def test_exchanged_planted_directions_change_the_sign():
    assert planted_score(0.6, "sae") > 0.3
    cosines = planted_biases(0.6)["sae"].mean(axis=0)
    assert cosines[1] - cosines[0] < -0.3


# 4. planted effect: sheet 04, section 8.4

WORDS = {name: [f"{name}{number}" for number in range(4)] for name in ("ra", "rb", "ta", "tb", "mb",
                                                                    "nn")}  # fmt: skip
FILLERS = [f"f{number}" for number in range(6)]
# how often a word's class is drawn in texts on either topic: ta stands with ra in 80 %, tb in 50 %
CHANCES = {"ra": (0.4, 0), "rb": (0, 0.4), "ta": (0.24, 0.06), "mb": (0.06, 0.24),
           "tb": (0.15, 0.15), "nn": (0.15, 0.15)}  # fmt: skip


def sentence(rng: np.random.Generator, classes: list[str]) -> str:
    """A word of each class, each followed by a filler, and a full stop."""
    return " ".join(f"{rng.choice(WORDS[c])} {rng.choice(FILLERS)}" for c in classes) + " ."


def corpus(seed: int, size: int = 3000) -> list[str]:
    """Texts on one of two topics: a sentence, then its last class's tag or the topic's reference.

    What a full stop must know is thus which class stood there, and which reference is likely.
    """
    rng, names = np.random.default_rng(seed), list(CHANCES)
    texts = []
    for topic in rng.integers(2, size=size):
        chances = [CHANCES[name][topic] for name in names]
        classes = rng.choice(names, size=2, p=chances).tolist()
        reference = rng.choice(WORDS["ra" if topic == 0 else "rb"])
        follows = f"tag{classes[1]}" if rng.random() < 0.5 else reference
        texts.append(f"{sentence(rng, classes)} {follows}")
    return texts


def concept_rows(seed: int, n: int = 50) -> list[dict[str, str]]:
    """Sentences of each class alone; the neutral class stands with either reference alike."""
    rng, rows = np.random.default_rng(seed), []
    roles = {"ta": "target", "tb": "target", "ra": "reference", "rb": "reference", "nn": "negative"}
    for name, role in roles.items():
        texts: set[str] = set()
        while len(texts) < n:
            texts.add(sentence(rng, [name, name]))
        rows += [{"role": role, "concept": name, "text": text} for text in sorted(texts)]
    return rows


LENS = BiasLens(layer=-1, min_accuracy=0.0, n_boot=100, n_null=100)


@functools.cache
def items_of_model(seed: int, *, is_trained: bool) -> pd.DataFrame:
    """The cells of both targets, in a trained or in a random model."""
    texts = corpus(seed)
    model = (
        trained_llama(texts, seed=seed, steps=150) if is_trained else random_llama(texts, seed=seed)
    )
    return LENS.measure(model, LENS.probes(concept_rows(seed)))


def beyond_chance(items: pd.DataFrame) -> list[bool]:
    """Which cells lie beyond 95 % of fits to shuffled labels."""
    bands = np.quantile(np.abs(np.array(items["null"].tolist())), 0.95, axis=1)
    return (items["score"].abs() > bands).tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_trained_model_ties_the_target_that_stood_with_one_reference(seed: int):
    items = items_of_model(seed, is_trained=True)
    score = items["score"].to_numpy()  # measured 1.5, 0.9, 0.4 against 0.7, 0.2, 0.0
    boots = np.array(items["boot_first"].tolist()) - np.array(items["boot_second"].tolist())
    assert score[0] > 0
    assert abs(score[0]) - abs(score[1]) > 2 * boots.std(axis=1).max()


def test_the_tie_is_beyond_chance_and_its_absence_is_not():
    found = np.array([beyond_chance(items_of_model(seed, is_trained=True)) for seed in range(3)])
    assert found.sum(axis=0).tolist() == [2, 0]


def test_random_models_stay_within_chance():
    found = [beyond_chance(items_of_model(seed, is_trained=False)) for seed in range(3)]
    assert not np.any(found)  # in twenty random models 2 of 40 cells do not


# 5. negative control: where the target has a direction of its own, and no reference shares it


def unrelated(seed: int, width: int = 12) -> bool:
    """Whether a cell of three random directions lies beyond its band of chance."""
    rng = np.random.default_rng([9, seed])
    directions = rng.normal(size=(3, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    kinds = (("target", "t"), ("reference", "a"), ("reference", "b"), ("negative", "n"))
    rows, states = [], {}
    for (role, concept), mean in zip(kinds, [*directions, np.zeros(width)], strict=True):
        for number in range(30):
            text = f"{concept} {number}."
            rows.append({"role": role, "concept": concept, "text": text})
            states[text] = mean + 0.2 * rng.normal(size=width)
    audit = BiasLens(n_boot=20, n_null=100)
    [is_beyond] = beyond_chance(audit.measure(PlantedStates(states), audit.probes(rows)))
    return is_beyond


def test_unrelated_concepts_are_seldom_beyond_chance():
    assert np.mean([unrelated(seed) for seed in range(200)]) <= 0.096  # 5 % + 3 standard errors


# the audit's curve: planted size against measured

WORLD = world_of("biaslens")


@functools.cache
def size_of(planted: float, seed: int, n: int = 60) -> Estimate:
    """The headline number of one draw."""
    audit, draw = BiasLens(**WORLD.settings), WORLD.draw(planted, n, seed)
    return audit.estimate(audit.measure(draw.model, audit.probes(draw.rows)))[0]


def misses(planted: float, seeds: int) -> float:
    """The share of draws whose interval does not hold the planted size."""
    rows = [size_of(planted, seed) for seed in range(seeds)]
    assert not any(np.isnan(row.low) for row in rows)
    return float(np.mean([row.low > planted or row.high < planted for row in rows]))


def test_the_mean_estimate_follows_what_was_planted():
    means = [
        np.mean([size_of(size, seed).value for seed in range(SEEDS)]) for size in WORLD.planted
    ]
    assert np.polyfit(WORLD.planted, means, 1)[0] == pytest.approx(1, abs=0.1)


def test_the_interval_covers_the_planted_size():
    assert misses(0.6, seeds=100) <= 0.10


def test_no_difference_raises_few_alarms():
    assert misses(0.0, seeds=200) <= 0.096  # 5 % + 3 standard errors
