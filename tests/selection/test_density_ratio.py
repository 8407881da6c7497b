"""Weights of prompts: sheet 19's planted clusters (7e), and an expectation moved over (7f)."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from trueup.errors import UserError
from trueup.selection.density_ratio import Array, DensityRatio

UP_IN_A, DOWN_IN_A = 0.8, 0.25  # P(cluster A | label)
WIDE = DensityRatio(min_ratio=0.01, max_ratio=100, max_prompts=10_000)


def two_clusters(n_up: int, n_down: int) -> tuple[Array, np.ndarray]:
    """One-hot embeddings [N, 2] in exact proportions, and labels; thumbs up first."""
    in_a = np.concatenate(
        [np.arange(n_up) < UP_IN_A * n_up, np.arange(n_down) < DOWN_IN_A * n_down]
    )
    return np.eye(2)[np.where(in_a, 0, 1)], np.arange(n_up + n_down) < n_up


def down_weights(
    settings: DensityRatio, embeddings: Array, labels: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """The weight of a thumbs-down prompt in cluster A and in cluster B."""
    found = settings.weights(embeddings, labels, rng=rng)[~labels]
    in_a = embeddings[~labels][:, 0] == 1
    assert len({*found[in_a]}) == len({*found[~in_a]}) == 1
    return float(found[in_a][0]), float(found[~in_a][0])


@pytest.mark.parametrize(
    ("n_up", "n_down", "in_a", "in_b"),
    [(400, 200, 3.133, 0.2736), (4000, 2000, 3.193, 0.2674)],
)
def test_planted_ratios_are_found(
    n_up: int, n_down: int, in_a: float, in_b: float, rng: np.random.Generator
) -> None:
    found = down_weights(WIDE, *two_clusters(n_up, n_down), rng)
    assert found == pytest.approx((in_a, in_b), abs=1e-3)  # the sheet's
    assert found == pytest.approx((3.2, 0.8 / 3), rel=0.03)  # the truth


def test_clipping_raises_the_rare_cluster(rng: np.random.Generator) -> None:
    found = down_weights(DensityRatio(), *two_clusters(400, 200), rng)
    assert found == pytest.approx((3.133, 0.5), abs=1e-3)


def test_thumbs_up_weigh_one(rng: np.random.Generator) -> None:
    embeddings, labels = two_clusters(400, 200)
    assert (DensityRatio().weights(embeddings, labels, rng=rng)[labels] == 1).all()


def test_same_prompts_under_both_labels_weigh_one(rng: np.random.Generator) -> None:
    embeddings = np.eye(2)[np.tile([0, 0, 0, 1], 200)]
    labels = np.arange(800) < 400
    weights = DensityRatio().weights(embeddings, labels, rng=rng)
    assert weights == pytest.approx(np.ones(800), abs=1e-3)


def test_a_fit_without_balance_would_leak_the_label_counts() -> None:
    embeddings, labels = two_clusters(4000, 2000)
    plain = LogisticRegression(C=1).fit(embeddings, labels)
    leaked = np.exp(plain.decision_function(np.eye(2)))
    assert leaked == pytest.approx((2 * 3.2, 2 * 0.8 / 3), rel=0.03)


@pytest.mark.parametrize("statistic", ["cluster", "first axis", "norm"])
def test_weighted_thumbs_down_speak_for_thumbs_up_prompts(
    statistic: str, rng: np.random.Generator
) -> None:
    # prompts of both labels are normal with means half a standard deviation apart on each axis
    n, shift = 20_000, np.array([0.5, -0.5])
    up, down = rng.normal(size=(n, 2)) + shift, rng.normal(size=(n // 2, 2))
    labels = np.arange(n + n // 2) < n
    settings = DensityRatio(min_ratio=1e-3, max_ratio=1e3, max_prompts=20_000)
    weights = settings.weights(np.concatenate([up, down]), labels, rng=rng)[~labels]
    functions = {
        "cluster": lambda x: (x[:, 0] > x[:, 1]).astype(float),
        "first axis": lambda x: x[:, 0],
        "norm": lambda x: (x**2).sum(axis=1),
    }
    function = functions[statistic]
    target = function(up).mean()
    assert (weights * function(down)).mean() == pytest.approx(target, rel=0.05)
    assert function(down).mean() != pytest.approx(target, rel=0.15)


def test_weighted_clusters_have_the_thumbs_up_share(rng: np.random.Generator) -> None:
    embeddings, labels = two_clusters(4000, 2000)
    weights = WIDE.weights(embeddings, labels, rng=rng)[~labels]
    share = (weights * embeddings[~labels][:, 0]).mean()
    assert share == pytest.approx(UP_IN_A, rel=0.05)
    permuted = WIDE.weights(embeddings, rng.permutation(labels), rng=rng)[~labels]
    assert (permuted * embeddings[~labels][:, 0]).mean() < 0.5  # no density to find


def test_a_sample_of_the_prompts_is_enough(rng: np.random.Generator) -> None:
    embeddings, labels = two_clusters(40_000, 20_000)
    settings = DensityRatio(min_ratio=0.01, max_ratio=100, max_prompts=1024)
    found = down_weights(settings, embeddings, labels, rng)
    # four standard errors of a log odds ratio of shares from 1,024 prompts each
    error = math.sqrt(sum(1 / (1024 * p * (1 - p)) for p in (UP_IN_A, DOWN_IN_A)))
    assert math.log(found[0] / found[1]) == pytest.approx(math.log(12), abs=4 * error)


def test_the_same_seed_gives_the_same_weights() -> None:
    embeddings, labels = two_clusters(4000, 2000)
    first, second = (
        DensityRatio(max_prompts=64).weights(embeddings, labels, rng=np.random.default_rng(3))
        for _ in range(2)
    )
    assert (first == second).all()


def test_a_missing_label_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(UserError, match="got none that is False"):
        DensityRatio().weights(np.eye(2), [True, True], rng=rng)


@pytest.mark.parametrize(
    "settings",
    [{"min_ratio": 0.0}, {"max_ratio": 0.1}, {"penalty": -1.0}, {"max_prompts": 0}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(settings))} must"):
        DensityRatio(**settings)
