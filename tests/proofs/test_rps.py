"""RPS: directions, selection, and sheet 49's planted gap with its two negative controls."""

import logging
import math

import numpy as np
import pytest
import scipy.stats

from tests.decoding.slow_search import hashed
from trueup.decoding.best_of_n import BestOfN
from trueup.decoding.directions import angles_to, neighbours, percent_rating, rotated
from trueup.decoding.protocol import Request
from trueup.decoding.rps import RPS, rps_select, warn_without_gap
from trueup.errors import UserError
from trueup.models.sampling import Sampling

ROWS = np.array([[70, 30], [60, 55], [50, 68], [72, 20], [40, 40]], dtype=float)


def at(degrees: float) -> np.ndarray:
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


# 1. The sheet's vectors.


@pytest.mark.parametrize(
    ("degrees", "scores", "best"),
    [
        (45, [70.71067812, 81.31727984, 83.43860018, 65.05382387, 56.56854249], 2),
        (10, [74.14598804, 68.63911495, 61.04846373, 74.37912177, 46.33823723], 3),
    ],
)
def test_selection_is_the_sheet_s(degrees, scores, best):
    found, values = rps_select(ROWS, at(degrees))
    assert values == pytest.approx(scores, abs=5e-9)
    assert found == best


@pytest.mark.parametrize(
    ("degrees", "text"), [(45, "h*71 + v*71"), (10, "h*98 + v*17"), (-15, "h*97 + v*-26")]
)
def test_percent_weights_are_the_sheet_s(degrees, text):
    assert percent_rating(["h", "v"], at(degrees)) == text


def test_a_turn_in_three_dimensions_is_the_sheet_s():
    target = np.array([2, 1, 2]) / 3
    across = np.array([1.0, 0, 0]) - target[0] * target
    across /= np.linalg.norm(across)
    (found,) = rotated(target, across[None], np.array([math.radians(30)]))
    assert found == pytest.approx([0.95002827, 0.13960394, 0.27920787], abs=5e-9)
    assert angles_to(found[None], target) == pytest.approx([30.0], abs=1e-9)


# Properties.


@pytest.mark.parametrize("sampler", ["uniform", "cap"])
@pytest.mark.parametrize("m", [2, 3, 4, 5, 6])
def test_neighbours_are_unit_vectors_within_reach_and_follow_their_law(m, sampler, rng):
    """KS over 10,000 draws, p > 0.001."""
    target = rng.standard_normal(m)
    target /= np.linalg.norm(target)
    found = neighbours(target, 10_000, 30.0, sampler, rng)
    angles = angles_to(found, target)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-12)
    assert angles.max() <= 30 + 1e-9
    grid = np.radians(np.linspace(0, 30, 20_001))
    density = np.sin(grid) ** (m - 2) if sampler == "cap" else np.ones_like(grid)
    mass = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    law = lambda x: np.interp(np.radians(x), grid, mass / mass[-1])  # noqa: E731
    assert scipy.stats.kstest(angles, law).pvalue > 0.001


@pytest.mark.parametrize("sampler", ["uniform", "cap"])
def test_two_dimensions_turn_to_both_sides_alike(sampler, rng):
    found = neighbours(at(45), 10_000, 30.0, sampler, rng)
    turns = np.degrees(np.arctan2(found[:, 1], found[:, 0])) - 45
    assert scipy.stats.kstest(turns, scipy.stats.uniform(-30, 60).cdf).pvalue > 0.001


def test_grid_is_even_and_one_is_the_target(rng):
    found = neighbours(at(45), 5, 30.0, "grid", rng)
    turns = np.degrees(np.arctan2(found[:, 1], found[:, 0]))
    assert turns == pytest.approx([15, 30, 45, 60, 75], abs=1e-9)
    assert neighbours(at(45), 1, 30.0, "grid", rng) == pytest.approx(at(45)[None], abs=1e-15)


@pytest.mark.parametrize("sampler", ["uniform", "cap", "grid"])
def test_no_reach_is_the_target_bit_for_bit(sampler, rng):
    assert (neighbours(at(17), 5, 0.0, sampler, rng) == at(17)).all()


def test_scale_and_shift_of_the_rewards_change_no_choice(rng):
    for _ in range(200):
        rewards, target = rng.standard_normal((5, 3)), np.array([2, 1, 2]) / 3
        best, _ = rps_select(rewards, target)
        assert rps_select(3 * rewards + rng.standard_normal(3), target)[0] == best
        order = rng.permutation(5)
        assert order[rps_select(rewards[order], target)[0]] == best


def test_units_change_the_choice_and_standardising_mends_it():
    mean, std = np.array([60.0, 40.0]), np.array([1.0, 10.0])
    assert rps_select(ROWS, at(45))[0] == 2
    assert rps_select(ROWS, at(45), mean, std)[0] == 3
    assert rps_select(ROWS * [1, 100], at(45), mean * [1, 100], std * [1, 100])[0] == 3


@pytest.mark.parametrize(
    ("k", "expected"), [(3, 0.846284375322), (5, 1.162964473641), (8, 1.423600306045)]
)
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_best_of_k_normal_scores_have_the_known_mean(k, expected, shift, rng):
    draws = rng.standard_normal((100_000, k)) + shift
    best = rps_select(draws.reshape(-1, 1), np.ones(1))[1].reshape(-1, k).max(axis=1)
    assert best.mean() == pytest.approx(expected + shift, abs=4 * best.std() / math.sqrt(1e5))


# 4. and 5. The planted gap, 20,000 trials; 1.1 points are three standard errors and a half.


def beats_baseline(target: float, gap: float, rng: np.random.Generator) -> tuple[float, float]:
    """How often RPS's best beats the best of k for the target itself, and the mean gain."""
    trials, k = 20_000, 5
    near = neighbours(at(target), trials * k, 30.0, "uniform", rng).reshape(trials, k, 2)
    own = np.broadcast_to(at(target), near.shape)

    def best(directions: np.ndarray) -> np.ndarray:
        angles = np.degrees(np.arctan2(directions[..., 1], directions[..., 0]))
        quality = 1 - gap * np.maximum(0, np.abs(angles) - 20) / 25
        rewards = quality[..., None] * directions + 0.1 * rng.standard_normal(directions.shape)
        return rps_select(rewards.reshape(-1, 2), at(target))[1].reshape(trials, k).max(axis=1)

    gain = best(near) - best(own)
    return float((gain > 0).mean()), float(gain.mean())


@pytest.mark.parametrize(
    ("target", "gap", "share", "gain"),
    [
        (45, 0.6, 0.927, 0.298),
        (45, 0, 0.351, -0.0367),
        (10, 0.6, 0.304, -0.0531),
        (10, 0, 0.351, -0.0367),
    ],
    ids=["gap", "no-gap", "covered", "covered-no-gap"],
)
def test_neighbours_win_where_there_is_a_gap_and_lose_where_there_is_none(
    target, gap, share, gain, rng
):
    wins, mean = beats_baseline(target, gap, rng)
    assert wins == pytest.approx(share, abs=0.011)
    assert mean == pytest.approx(gain, abs=0.004)


# The decoder, with a stub whose reward depends on the direction that it was asked for.


class Asked:
    """A writer that answers with its prompt and a number, so that rewards see the direction."""

    def __init__(self) -> None:
        self.prompts: list[object] = []

    def sample(
        self, prompts, *, n=1, max_new_tokens=64, temperature=1.0, top_p=1.0, stop=(), seed=0
    ):
        self.prompts += prompts
        rng = np.random.default_rng(seed)
        return [[Answer(prompt, rng.standard_normal(2)) for _ in range(n)] for prompt in prompts]


class Answer:
    def __init__(self, prompt, noise) -> None:
        self.text = f"{prompt}|{noise[0]}|{noise[1]}"


def served(gap: float):
    """Rewards [N, 2] of the stub: the sheet's quality of the direction in the text."""

    def reward(prompts, texts):
        rows = []
        for text in texts:
            direction, *noise = text.split("|")
            v = np.array([float(number) for number in direction.split()])
            angle = math.degrees(math.atan2(v[1], v[0]))
            quality = 1 - gap * max(0, abs(angle) - 20) / 25
            rows.append(quality * v + 0.1 * np.array([float(number) for number in noise]))
        return rows

    return reward


def in_numbers(prompt, direction):
    return f"{float(direction[0])} {float(direction[1])}"


def decoded(rps: RPS, prompts, reward, lm=None, **sampling):
    rewards = reward if isinstance(reward, dict) else {"attributes": reward}
    return rps.decode(
        lm or Asked(), prompts, Request(sampling=Sampling(**sampling), rewards=rewards)
    )


@pytest.mark.parametrize(("gap", "low", "high"), [(0.6, 0.87, 0.98), (0.0, 0.25, 0.45)])
def test_the_decoder_wins_with_a_gap_and_loses_without(gap, low, high):
    prompts = [f"prompt {number}" for number in range(400)]
    settings = {"target": (1.0, 1.0), "condition": in_numbers}
    near = decoded(RPS(**settings), prompts, served(gap), seed=1)
    own = decoded(RPS(**settings, theta_max=0), prompts, served(gap), seed=2)
    wins = np.mean([a[0].score > b[0].score for a, b in zip(near, own, strict=True)])
    assert low < wins < high


def words(prompts, texts):
    return [float(len(text)) for text in texts]


def test_no_reach_is_best_of_k_with_the_same_seeds(tiny_llama):
    rps = RPS(target=(1.0, 0.0), theta_max=0, condition=lambda prompt, direction: prompt, k=4)
    prompts = ["The nurse said", "A", "A"]
    found = decoded(rps, prompts, {"h": hashed, "w": words}, tiny_llama, max_new_tokens=5)
    request = Request(sampling=Sampling(max_new_tokens=5), rewards={"h": hashed})
    best = BestOfN(candidates=4).decode(tiny_llama, prompts, request)
    assert [r[0].text for r in found[:2]] == [r[0].text for r in best[:2]]


def test_one_candidate_comes_back_whatever_its_score():
    rps = RPS(target=(1.0, 1.0), k=1, condition=in_numbers)
    ((result,),) = decoded(rps, ["a"], lambda p, t: [[-9.0, -9.0]])
    assert result.score == pytest.approx(-18 / math.sqrt(2))


def test_scoring_is_by_the_target_and_the_trace_tells_each_direction():
    rps = RPS(target=(3.0, 4.0), k=6, condition=in_numbers, include_target=True)
    ((result,),) = decoded(rps, ["a"], served(0.0))
    entries = result.trace[0]["candidates"]
    for entry in entries:
        row = np.array([entry["rewards"]["attributes1"], entry["rewards"]["attributes2"]])
        assert entry["c"] == pytest.approx(row @ [0.6, 0.8], abs=1e-12)
        assert entry["degrees"] <= 30 + 1e-9
    assert entries[0]["direction"] == pytest.approx([0.6, 0.8], abs=1e-15)
    assert result.score == max(entry["c"] for entry in entries)


def test_the_direction_stands_before_the_prompt_in_words():
    writer = Asked()
    rps = RPS(target=(1.0, 0.0), theta_max=0, k=2)
    chat = [{"role": "user", "content": "Hello"}]
    decoded(rps, ["Hello", chat], {"helpful": words, "long": words}, writer)
    text, _, messages, _ = writer.prompts
    assert "helpful*100 + long*0" in text
    assert text.endswith("\n\nHello")
    assert [turn["role"] for turn in messages] == ["system", "user"]


def test_directions_depend_on_prompt_and_seed_alone():
    rps = RPS(target=(1.0, 1.0), condition=in_numbers)
    a, b = decoded(rps, ["a", "b"], served(0.0), seed=3)
    (again,) = decoded(rps, ["b"], served(0.0), seed=3)
    (other,) = decoded(rps, ["b"], served(0.0), seed=4)
    seen = [
        [entry["direction"] for entry in several[0].trace[0]["candidates"]]
        for several in (a, b, again, other)
    ]
    assert seen[1] == seen[2]
    assert seen[0] != seen[1] != seen[3]


# The warning where no gap is seen.


def warned(gap: float, target: tuple[float, float], prompts: int, seed: int, caplog) -> bool:
    caplog.clear()
    rps = RPS(target=target, condition=in_numbers, include_target=True)
    with caplog.at_level(logging.WARNING, logger="trueup"):
        decoded(rps, [f"{number}" for number in range(prompts)], served(gap), seed=seed)
    return "no gap" in caplog.text


def test_no_gap_is_warned_of_and_a_gap_is_not(caplog):
    assert warned(0.0, (1.0, 1.0), 200, 0, caplog)
    assert not warned(0.6, (1.0, 1.0), 200, 0, caplog)


def test_the_warning_s_false_alarms_stay_below_their_level(rng):
    """Exchangeable candidates: the target's own wins 1 pool in 5; 2,000 runs, level 1 %."""
    alarms = [warn_without_gap((rng.random(50) < 0.2).tolist(), 5) for _ in range(2000)]
    assert np.mean(alarms) < 0.01 + 3 * math.sqrt(0.01 * 0.99 / 2000)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"target": (0.0, 0.0)}, "must be a direction"),
        ({"target": (1.0,)}, "two weights"),
        ({"target": (1.0, 0, 0), "sampler": "grid"}, "grid is for two"),
        ({"target": (1.0, 0), "mean": (1.0,)}, "mean must have 2 numbers, got 1"),
        ({"target": (1.0, 0), "std": (1.0, 0.0)}, "std must be above 0"),
        ({"target": (1.0, 0), "condition": "Be good."}, "condition must hold"),
        ({"target": (1.0, 0), "theta_max": 100}, "between 0 and 90"),
    ],
)
def test_wrong_settings_are_refused(settings, what):
    with pytest.raises(UserError, match=what):
        RPS(**settings)


def test_rewards_must_be_one_for_each_weight():
    with pytest.raises(
        UserError, match="target has 3 weights and needs a reward for each, got a, b"
    ):
        decoded(RPS(target=(1.0, 1.0, 1.0)), ["x"], {"a": words, "b": words})
    with pytest.raises(UserError, match="must give 2 numbers"):
        decoded(RPS(target=(1.0, 1.0), condition=in_numbers), ["x"], lambda p, t: [[1.0]] * len(t))
