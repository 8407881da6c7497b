"""Bradley-Terry beyond the sheet's vectors: labels, order, features, separation, clusters."""

import math

import numpy as np
import pytest
from scipy.special import expit

from trueup.stats import bradley_terry, lc_winrate, swapped_winrate


def simulated(
    rng: np.random.Generator, n: int, first_bonus: float = 0.0
) -> list[tuple[str, str, float]]:
    planted = {"a": 0.6, "b": 0.0, "c": -0.6}
    battles = []
    for _ in range(n):
        first, second = rng.permutation(list(planted))[:2]
        chance = expit(planted[first] - planted[second] + first_bonus)
        battles.append((str(first), str(second), float(rng.random() < chance)))
    return battles


def test_renaming_models_changes_only_names(rng: np.random.Generator) -> None:
    battles = simulated(rng, 300)
    new = {"a": "z", "b": "y", "c": "x"}
    first = bradley_terry(battles)
    second = bradley_terry([(new[i], new[j], y) for i, j, y in battles])
    for old, name in new.items():
        assert second.elo()[name] == pytest.approx(first.elo()[old], abs=1e-6)


def test_telling_a_battle_from_the_other_side_changes_nothing(rng: np.random.Generator) -> None:
    battles = simulated(rng, 300)
    turned = [(j, i, 1 - y) for i, j, y in battles]
    first, second = bradley_terry(battles), bradley_terry(turned)
    assert first.strengths == pytest.approx(second.strengths, abs=1e-9)
    assert first.covariance == pytest.approx(second.covariance, abs=1e-9)


def test_counts_are_repeated_battles(rng: np.random.Generator) -> None:
    rows = [("a", "b", 1.0), ("b", "c", 0.5), ("c", "a", 1.0), ("b", "a", 1.0)]
    counts = [3, 2, 4, 1]
    listed = [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]
    first, second = bradley_terry(rows, weights=counts), bradley_terry(listed)
    assert first.strengths == pytest.approx(second.strengths, abs=1e-9)
    assert first.covariance == pytest.approx(second.covariance, abs=1e-9)
    assert first.n == second.n == 10


def test_being_shown_first_is_told_apart(rng: np.random.Generator) -> None:
    fit = bradley_terry(simulated(rng, 6000, first_bonus=0.7), shown_first=True)
    assert fit.coefficients == pytest.approx([0.7], abs=0.1)
    assert fit.strengths == pytest.approx([0.6, 0.0, -0.6], abs=0.12)


def test_a_feature_takes_the_judges_taste_away(rng: np.random.Generator) -> None:
    n = 6000
    names = np.array(["long", "short"])
    length = rng.normal(1.0, 0.5, n)  # "long" stands first and is longer
    wins = rng.random(n) < expit(0.9 * length)  # of equal worth: only length decides
    battles = [(names[0], names[1], float(win)) for win in wins]
    plain = bradley_terry(battles)
    styled = bradley_terry(battles, features=length[:, None])
    assert plain.difference("long", "short").low > 0.5
    assert styled.difference("long", "short").low < 0 < styled.difference("long", "short").high


def test_a_model_that_always_wins_is_reported(rng: np.random.Generator) -> None:
    fit = bradley_terry([("a", "b", 1.0)] * 5 + [("b", "c", 1.0), ("c", "b", 1.0)])
    assert fit.is_separated
    assert math.isnan(fit.strength("a").low)
    assert np.isfinite(fit.strengths).all()
    assert fit.strengths[0] > fit.strengths[1]


def test_models_that_never_met_are_reported() -> None:
    fit = bradley_terry([("a", "b", 1.0), ("b", "a", 1.0), ("c", "d", 1.0), ("d", "c", 1.0)])
    assert fit.is_separated
    assert math.isnan(fit.difference("a", "c").low)


def test_clusters_of_votes_widen(rng: np.random.Generator) -> None:
    battles = simulated(rng, 200)
    copied = [battle for battle in battles for _ in range(5)]
    plain = bradley_terry(copied).difference("a", "b")
    whole = bradley_terry(copied, clusters=np.repeat(np.arange(200), 5)).difference("a", "b")
    once = bradley_terry(battles).difference("a", "b")
    assert (whole.high - whole.low) == pytest.approx(once.high - once.low, rel=1e-6)
    assert (plain.high - plain.low) == pytest.approx((once.high - once.low) / 5**0.5, rel=1e-6)


def test_ranks_leave_open_what_the_data_leave_open(rng: np.random.Generator) -> None:
    sure = bradley_terry(simulated(rng, 5000)).ranks()
    assert sure == {"a": (1, 1), "b": (2, 2), "c": (3, 3)}
    unsure = bradley_terry(simulated(rng, 40)).ranks()
    assert unsure["b"][0] < unsure["b"][1]


def test_difficulty_enters_the_length_controlled_rate(rng: np.random.Generator) -> None:
    n = 3000
    hard, longer = rng.normal(size=n), rng.normal(size=n)
    wins = rng.random(n) < expit(0.5 + np.tanh(longer / longer.std(ddof=1)) + 0.8 * hard)
    rates = lc_winrate(wins, -longer, hard, rng=rng, resamples=50)
    assert (rates.theta, rates.phi, rates.psi) == pytest.approx((0.5, -1.0, 0.8), abs=0.15)
    truth = 100 * expit(0.5 + 0.8 * hard).mean()
    assert rates.controlled.low < truth < rates.controlled.high


def test_clusters_widen_the_length_controlled_rate(rng: np.random.Generator) -> None:
    longer = np.repeat(rng.normal(size=60), 5)
    wins = np.repeat(rng.random(60) < 0.5, 5)
    gap = -longer + rng.normal(scale=0.1, size=300)
    plain = lc_winrate(wins, gap, rng=rng, resamples=300).controlled
    whole = lc_winrate(wins, gap, rng=rng, resamples=300, clusters=np.repeat(np.arange(60), 5))
    assert whole.controlled.high - whole.controlled.low > 1.5 * (plain.high - plain.low)


def test_clusters_of_swapped_pairs_widen(rng: np.random.Generator) -> None:
    scores = np.repeat(rng.integers(0, 2, (30, 2)), 6, axis=0)
    clusters = np.repeat(np.arange(30), 6)
    for plain, whole in zip(
        swapped_winrate(scores), swapped_winrate(scores, clusters=clusters, rng=rng), strict=True
    ):
        assert whole.value == pytest.approx(plain.value)
        assert whole.high - whole.low > 1.5 * (plain.high - plain.low)


def test_a_fit_without_an_end_has_no_rate(rng: np.random.Generator) -> None:
    rates = lc_winrate([1.0] * 6, [1, 2, 3, -1, -2, -3], rng=rng, resamples=20)
    assert math.isnan(rates.controlled.value)
    assert math.isnan(rates.controlled.low)
