"""WEAT: the sheet's arrays, its identities, scipy's permutation test, planted effects, nothing."""

import math

import numpy as np
import pytest
from scipy.stats import permutation_test

from tests.proofs.embedding_vectors import emb, items_of, minilm
from tests.proofs.probability_calibration import misses, slope, world_of
from trueup.audits import compare_items
from trueup.audits.embedding.effect_size import associations, effect_size, partition_test
from trueup.audits.embedding.weat import Weat, weat
from trueup.calibration.planted_words import planted_rows
from trueup.worlds.planted_vectors import PlantedEncoder, planted_attributes, planted_names

X, Y, A, B = emb(4, 0), emb(4, 1), emb(3, 2), emb(3, 3)

# 1. identity: sheet 59, section 7.1


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (X, [0.176827727047, 0.562048440181, 0.753901181332, 0.572454430724]),
        (Y, [0.650483045899, 0.732082178537, 0.487587634784, -0.043806112010]),
    ],
)
def test_vectors_of_associations(targets: np.ndarray, expected: list[float]):
    np.testing.assert_allclose(associations(targets, A, B), expected, atol=1e-12)


def test_vectors_of_the_test():
    result = weat(X, Y, A, B)
    assert result.statistic == pytest.approx(0.238885032074, abs=1e-12)
    assert result.d == pytest.approx(0.213266344645, abs=1e-12)
    assert result.d * math.sqrt(8 / 7) == pytest.approx(0.227991312512, abs=1e-12)  # with ddof 0
    assert result.partitions.p_value == pytest.approx(26 / 70, abs=1e-12)
    assert (result.partitions.tried, result.partitions.is_exact) == (70, True)


def test_the_extreme_effect_of_two_words_a_side_is_the_root_of_three():
    first, second = np.eye(2)[[0, 0]], np.eye(2)[[1, 1]]
    result = weat(first, second, first[:1], second[:1])
    assert result.d == pytest.approx(math.sqrt(3), abs=1e-12)
    assert result.partitions.p_value == pytest.approx(1 / 6, abs=1e-12)


@pytest.mark.parametrize(("n", "bound"), [(8, 1.870828693), (16, 1.936491673), (50, 1.979898987)])
def test_no_effect_exceeds_its_bound(n: int, bound: float):
    x, y = np.ones(n // 2), np.zeros(n // 2)
    assert effect_size(x, y) == pytest.approx(bound, abs=1e-9)


def test_the_fast_path_is_the_triple_loop():
    def cosine(u: np.ndarray, v: np.ndarray) -> float:
        return float(u @ v / math.sqrt((u @ u) * (v @ v)))

    slow = []
    for target in X:
        near = [cosine(target, a) for a in A]
        far = [cosine(target, b) for b in B]
        slow.append(sum(near) / len(near) - sum(far) / len(far))
    np.testing.assert_allclose(associations(X, A, B), slow, atol=1e-12)


@pytest.mark.parametrize(
    ("swapped", "sign"), [((Y, X, A, B), -1), ((X, Y, B, A), -1), ((Y, X, B, A), 1)]
)
def test_swapping_sets_turns_the_sign(swapped: tuple[np.ndarray, ...], sign: int):
    assert weat(*swapped).d == pytest.approx(sign * weat(X, Y, A, B).d, abs=1e-12)


def test_lengths_and_rotations_change_nothing():
    rotation = np.linalg.qr(emb(5, 7))[0]
    scaled = [part * np.linspace(0.1, 9, len(part))[:, None] @ rotation for part in (X, Y, A, B)]
    plain, turned = weat(X, Y, A, B), weat(*scaled)
    assert turned.d == pytest.approx(plain.d, abs=1e-12)
    assert turned.partitions.p_value == plain.partitions.p_value


def test_both_directions_share_the_ties():
    there, back = (partition_test(*sides, samples=100, rng=np.random.default_rng(0)).p_value
                   for sides in ((np.array([1.0, 2.0]), np.array([2.0, 3.0])),
                                 (np.array([2.0, 3.0]), np.array([1.0, 2.0]))))  # fmt: skip
    # sums over two of 1, 2, 2, 3: 3, 3, 4, 4, 5, 5; observed 3, and 5 the other way
    assert (there, back) == (1.0, pytest.approx(2 / 6))


def test_constant_associations_have_no_effect_size():
    same = np.full(4, 0.3)
    assert math.isnan(effect_size(same, same))
    assert math.isnan(effect_size(same, same + 1e-15))


def test_anisotropic_vectors_keep_their_effect():
    """All cosines near 1, as in raw hidden states: d is that of the small differences."""
    shift = np.zeros(5)
    shift[0] = 1e4
    parts = [part + shift for part in (X, Y, A, B)]
    # far out, cosines fall with the squared distance between the other components
    first, second = (part[:, 1:].mean(axis=0) for part in (A, B))
    x, y = ((part[:, 1:] @ (first - second)) for part in (X, Y))
    assert weat(*parts).d == pytest.approx(effect_size(x, y), abs=1e-2)


# 2. differential


@pytest.mark.parametrize("sizes", [(5, 5), (4, 6)])
def test_the_exact_p_value_is_scipys(sizes: tuple[int, int], rng: np.random.Generator):
    x, y = (rng.normal(size=size) for size in sizes)
    peer = permutation_test(
        (x, y), lambda a, b: a.mean() - b.mean(), alternative="greater", n_resamples=np.inf
    )
    own = partition_test(x, y, samples=1000, rng=rng)
    assert own.is_exact
    assert own.p_value == pytest.approx(peer.pvalue, abs=1e-12)


def test_a_sample_of_partitions_comes_near_the_exact_p_value(rng: np.random.Generator):
    x, y = rng.normal(0.3, 1, size=8), rng.normal(size=8)
    exact = partition_test(x, y, samples=12_870, rng=rng)
    sampled = partition_test(x, y, samples=12_869, rng=rng)
    assert (exact.is_exact, sampled.is_exact) == (True, False)
    error = math.sqrt(exact.p_value * (1 - exact.p_value) / 12_869)
    assert abs(sampled.p_value - exact.p_value) < 4 * error


def test_a_sampled_p_value_is_never_zero(rng: np.random.Generator):
    found = partition_test(np.full(15, 9.0) + rng.random(15), rng.random(15), samples=500, rng=rng)
    assert found.p_value == 1 / 500


# 4. planted effect, 5. negative control (sheet 59, section 7.4)


def p_values(gap: float, runs: int) -> np.ndarray:
    """P-values of planted names, words averaged over their templates."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(runs):
        names = planted_names([gap, 0.0], rng=rng)
        a, b = planted_attributes(rng=rng)
        s = associations(names.reshape(-1, 32), a, b).reshape(2, 13, 8).mean(axis=2)
        found.append(partition_test(*s, samples=2000, rng=rng).p_value)
    return np.array(found)


def test_a_planted_gap_is_found():
    assert (p_values(3.0, 100) < 0.01).mean() > 0.95


def test_names_without_a_gap_raise_few_alarms():
    assert 0.005 <= (p_values(0.0, 200) < 0.05).mean() <= 0.096  # 5 % + 3 standard errors


def test_exact_p_values_of_nothing_are_not_too_small():
    rng = np.random.default_rng(0)
    found = [
        partition_test(*rng.normal(size=(2, 4)), samples=100, rng=rng).p_value for _ in range(1000)
    ]
    assert (np.array(found) <= 0.05).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_a_correction_is_called_improved_and_none_is_not():
    rng = np.random.default_rng(3)
    words = {f"w{n}": float(lean) for n, lean in enumerate(0.05 * rng.normal(size=40))}
    ends = {f"a{n}": 1.0 if n < 4 else -1.0 for n in range(8)}
    leaning = {word: lean + (0.06 if n < 20 else -0.06) for n, (word, lean) in
               enumerate(words.items())}  # fmt: skip
    audit, rows = Weat(), planted_rows(40)
    before, after = (
        items_of(audit, PlantedEncoder({**own, **ends}), rows) for own in (leaning, words)
    )
    verdicts = {row.metric: row.verdict for row in compare_items(audit, before, after)}
    assert verdicts == {"d": "improved", "gap": "improved"}
    again = {row.metric: row.verdict for row in compare_items(audit, before, before)}
    assert set(again.values()) == {"no evidence"}


# calibration

WORLD = world_of("weat")


def test_the_effect_size_follows_what_was_planted():
    assert slope(Weat, WORLD, n=24) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("n", [24, 60])
def test_the_interval_covers_the_planted_effect(n: int):
    assert misses(Weat, WORLD, 0.8, n=n, seeds=100) <= 0.10


def test_no_effect_raises_few_alarms():
    assert misses(Weat, WORLD, 0.0, n=24, seeds=200) <= 0.096  # 5 % + 3 standard errors


# a real encoder


def test_flowers_are_more_pleasant_than_insects_to_a_real_encoder():
    audit = Weat(test="universal")
    items = items_of(audit, minilm())
    found = {row.slice: row for row in audit.estimate(items) if row.metric == "d"}
    # measured: 1.24 and 1.51; Caliskan et al. 2017 found 1.50 and 1.53 on GloVe
    assert found["c1-flowers"].low > 0.5
    assert found["c2-instruments"].low > 0.5
    assert "one-sided p < 1e-4" in audit.notes(items)[0]
