"""Values: the sheet's distances, profiles that acquiescence cannot move, letters taken out."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import expit

from tests.proofs.text_calibration import FALSE_ALARMS, misses, slope
from trueup.audits.behaviour.discretion_measures import principle_priority
from trueup.audits.behaviour.opinions import opinion_similarity
from trueup.audits.behaviour.value_items import option_orders
from trueup.audits.behaviour.value_numbers import value_wins
from trueup.audits.behaviour.value_profiles import (
    SCHWARTZ,
    circle_fit,
    profile_distance,
    value_profile,
)
from trueup.audits.behaviour.values import Values, option_shares
from trueup.calibration.scripted_likelihoods import Named, ScriptedModel
from trueup.calibration.values import WORLDS
from trueup.stats import Estimate, bradley_terry

P, Q = (0.7, 0.2, 0.1), (0.2, 0.3, 0.5)
GAP, SKEW = WORLDS
WORDS = ["Assistant: A B C D E", "option0 option1 option2 option3 option4"]


def survey(shares: Sequence[float], count: int = 3) -> list[dict[str, object]]:
    """Questions of K options, each with the answers of one group."""
    options = [f"option{line}" for line in range(len(shares))]
    return [
        {"id": f"q{i}", "prompt": f"ask{i}", "options": options, "distributions": {"all": shares}}
        for i in range(count)
    ]


def favouring(letter: str) -> ScriptedModel:
    """A model that answers with one letter, whatever stands behind it."""

    def following(words: Sequence[str]) -> Named:
        return {letter: 0.9} if words[-1:] == [":"] else {}

    return ScriptedModel(WORDS, following)


def answering(shares: Sequence[float]) -> ScriptedModel:
    """A model with a view: the option's own share, whichever letter it has."""

    def following(words: Sequence[str]) -> Named:
        if words[-1:] != [":"]:
            return {}
        shown = [int(word[6:]) for word in words if word[:6] == "option" and word[6:].isdigit()]
        return {letter: 0.99 * shares[line] for letter, line in zip("ABCDE", shown, strict=False)}

    return ScriptedModel(WORDS, following)


def numbers(model: ScriptedModel, rows: list[dict[str, object]], **settings) -> dict[str, Estimate]:
    audit = Values(**settings)
    items = audit.measure(model, audit.probes(rows))
    return {row.metric: row for row in audit.estimate(items) if row.slice == "all"}


# 1. identity: the sheet's numbers, section 8


@pytest.mark.parametrize(
    ("p", "q", "value"),
    [((0.5, 0.5, 0), (0, 0.5, 0.5), 0.5), (P, P, 1.0), ((1, 0), (0, 1), 0.0)],
)
def test_divergence_of_simple_distributions(p, q, value: float):
    assert opinion_similarity(p, q) == pytest.approx(value, abs=1e-12)


def test_the_sheets_table_of_distances():
    assert 1 - opinion_similarity(P, Q) == pytest.approx(0.218363596963, abs=5e-13)
    assert opinion_similarity(P, Q, "js_distance") == pytest.approx(0.532706091455, abs=5e-13)
    assert opinion_similarity(P, Q, "w1") == pytest.approx(0.55, abs=1e-12)


def test_divergence_is_scipys_distance_squared(rng: np.random.Generator):
    p, q = rng.dirichlet(np.ones(5), size=(2, 20))
    peer = [jensenshannon(a, b, base=2) ** 2 for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(1 - opinion_similarity(p, q), peer, atol=1e-12)


@pytest.mark.parametrize(("first", "second", "value"), [(0, 4, 0.0), (1, 2, 0.75), (3, 3, 1.0)])
def test_ordered_options_count_their_steps(first: int, second: int, value: float):
    masses = np.eye(5)
    assert opinion_similarity(masses[first], masses[second], "w1") == value
    assert opinion_similarity(masses[second], masses[first], "w1") == value


def test_the_distance_is_harsher_than_the_divergence(rng: np.random.Generator):
    p, q = rng.dirichlet(np.ones(4), size=(2, 50))
    assert (opinion_similarity(p, q, "js_distance") < opinion_similarity(p, q)).all()


def test_profile_of_the_sheet_and_without_acquiescence():
    answers, values = np.array([5, 4, 3, 4]), list("abcd")
    assert value_profile(answers, values, values).tolist() == [1, 0, -1, 0]
    assert value_profile(answers + 2, values, values).tolist() == [1, 0, -1, 0]


def test_profile_means_over_a_values_items():
    profile = value_profile([1.0, 0.5, 0.0, 0.5], ["a", "a", "b", "b"], ["a", "b", "c"])
    np.testing.assert_array_equal(profile, [0.25, -0.25, np.nan])


def test_profile_distances():
    v = np.array([1.0, 0, -1, 0])
    assert profile_distance(v, -v) == pytest.approx(2, abs=1e-12)  # Pearson -1
    assert profile_distance(v, 3 * v) == pytest.approx(0, abs=1e-12)
    assert profile_distance(v, -v, "euclidean") == pytest.approx(np.sqrt(8))
    assert np.isnan(profile_distance(v, np.zeros(4)))


def test_circle_is_found_and_noise_is_none(rng: np.random.Generator):
    angles = 2 * np.pi * np.arange(10) / 10
    places = rng.normal(size=(400, 2))
    on_circle = places @ np.stack([np.cos(angles), np.sin(angles)])
    assert circle_fit(on_circle) > 0.99
    fits = [circle_fit(rng.normal(size=(400, 10))) for _ in range(50)]
    assert abs(np.mean(fits)) < 3 / np.sqrt(45 * 50)  # 45 pairs each
    assert np.isnan(circle_fit(np.ones((5, 10))))


def test_three_wins_of_four_differ_by_the_log_of_three():
    w = principle_priority([[0, 3], [1, 0]])
    assert w[0] - w[1] == pytest.approx(1.098612289, abs=5e-10)


# 1. orders of the options


@pytest.mark.parametrize(("count", "orders"), [(2, 2), (3, 6), (4, 24), (5, 10), (6, 12), (10, 10)])
def test_each_option_stands_as_often_at_each_letter(count: int, orders: int):
    found = option_orders(count, np.random.default_rng(0))
    assert len(found) == orders
    for place in range(count):
        counts = np.bincount([order[place] for order in found], minlength=count)
        assert counts.tolist() == [orders // count] * count


def test_shares_are_those_of_the_options_not_of_the_letters():
    # first order: letters A, B, C are options 2, 0, 1
    options, letters = option_shares(np.array([[0.1, 0.2, 0.3]]), [(2, 0, 1)])
    np.testing.assert_allclose(options, [2 / 6, 3 / 6, 1 / 6])
    np.testing.assert_allclose(letters, [1 / 6, 2 / 6, 3 / 6])


def test_an_order_without_an_answer_is_left_out():
    options, _ = option_shares(np.array([[0.4, 0.1], [0.0, 0.0]]), [(0, 1), (1, 0)])
    np.testing.assert_allclose(options, [0.8, 0.2])
    assert np.isnan(option_shares(np.zeros((2, 2)), [(0, 1), (1, 0)])[0]).all()


# 4. planted effect and 5. negative control: letters


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_a_favourite_letter_leaves_even_shares(count: int):
    group = [0.6, *[0.4 / (count - 1)] * (count - 1)]
    found = numbers(favouring("A"), survey(group))
    even = opinion_similarity(np.full(count, 1 / count), group)
    # the other letters share what A leaves with the rest of the vocabulary
    assert found["similarity"].value == pytest.approx(float(even), abs=1e-9)
    assert found["letter_entropy"].value < 0.2
    assert found["mass"].value == pytest.approx(0.9, abs=0.05)


def test_without_orders_a_favourite_letter_would_be_an_opinion():
    once, _ = option_shares(np.array([[0.96, 0.02, 0.02]]), [(0, 1, 2)])
    assert opinion_similarity(once, (1, 0, 0)) > 0.9
    assert opinion_similarity([1 / 3] * 3, (1, 0, 0)) < 0.6


@pytest.mark.parametrize("distance", ["jsd", "js_distance", "w1"])
def test_a_models_view_is_read_through_all_orders(distance):
    rows = [{**row, "scale": "ordinal"} for row in survey(list(Q))]
    found = numbers(answering(P), rows, distance=distance)
    expected = float(opinion_similarity(P, Q, distance))
    assert found["similarity"].value == pytest.approx(expected, abs=1e-9)
    assert found["letter_entropy"].value == pytest.approx(1, abs=1e-9)
    assert found["mass"].value == pytest.approx(0.99, abs=1e-9)


def test_answers_drawn_from_the_group_come_near_it_at_their_rates():
    group = np.array([0.4, 0.3, 0.2, 0.1])
    rng = np.random.default_rng(5)
    apart: dict[int, list[float]] = {}
    for n in (100, 1000):
        shares = rng.multinomial(n, group, size=400) / n
        divergence = 1 - opinion_similarity(shares, group).mean()
        distance = 1 - opinion_similarity(shares, group, "js_distance").mean()
        apart[n] = [divergence, distance]
    assert 1 - apart[1000][0] > 0.99
    assert apart[100][0] / apart[1000][0] == pytest.approx(10, rel=0.15)  # O(1 / n)
    assert apart[100][1] / apart[1000][1] == pytest.approx(np.sqrt(10), rel=0.15)


# 4. planted priorities


def test_planted_priorities_of_values_are_recovered():
    strengths = dict(zip("abcde", (-1.0, -0.5, 0.0, 0.5, 1.0), strict=True))
    rows = [
        {
            "id": f"{first}{second}",
            "prompt": f"{first}{second}",
            "options": ["option0", "option1"],
            "kind": "stated",
            "values": [first, second],
        }
        for first in strengths
        for second in strengths
        if first < second
    ]

    def following(words: Sequence[str]) -> Named:
        if words[-1:] != [":"]:
            return {}
        pair = next(word for word in words if len(word) == 2 and set(word) <= set(strengths))
        chance = float(expit(strengths[pair[0]] - strengths[pair[1]]))
        is_first = words.index("option0") < words.index("option1")
        return {"A": chance if is_first else 1 - chance, "B": 1 - chance if is_first else chance}

    pairs = [str(row["prompt"]) for row in rows]
    audit = Values()
    model = ScriptedModel([*pairs, *WORDS], lambda words: _clipped(following(words)))
    items = audit.measure(model, audit.probes(rows))
    names, wins = value_wins(items)
    found = dict(zip(names, principle_priority(wins), strict=True))
    assert found == pytest.approx(strengths, abs=0.01)
    battles = [
        (a, b, wins[i, j]) for i, a in enumerate(names) for j, b in enumerate(names) if i < j
    ]
    peer = bradley_terry(battles)
    assert dict(zip(peer.names, peer.strengths, strict=True)) == pytest.approx(found, abs=1e-6)
    assert "stated priorities (nats, mean 0, 10 comparisons): e +1.0" in audit.notes(items)[0]


def _clipped(named: Named) -> Named:
    """Probabilities that leave something for other words."""
    return {word: 0.999 * share for word, share in named.items()}


# 4. and 5. the built-in questionnaire


class OneValue:
    """Answers for its value in words, and in scenes for it or for the other one."""

    def __init__(self, value: str, *, acts: bool) -> None:
        audit = Values()
        self.loved = {
            probe.texts[probe.labels["values"].index(value)]
            for probe in audit.probes(audit.builtin())
            if value in probe.labels["values"] and (acts or probe.labels["kind"] == "stated")
        }
        self.items = {
            probe.prompt
            for probe in audit.probes(audit.builtin())
            if probe.labels["value"] == value
        }

    def __call__(self, prompts: Sequence[object]) -> list[str]:
        return [self._answer(str(prompt[0]["content"])) for prompt in prompts]  # type: ignore[index]

    def _answer(self, text: str) -> str:
        lines = [line for line in text.splitlines() if line.startswith("Answer ")]
        options = [line.partition(": ")[2].strip('"') for line in lines]
        wanted = "more than nearly anything else"
        for line, option in zip(lines, options, strict=True):
            rated = option == wanted and any(item in text for item in self.items)
            if option in self.loved or rated:
                return line[7]
        return "ABCDE"[options.index(min(options))]


def test_a_loved_value_is_found_in_profile_and_priorities():
    audit = Values(read="text")
    items = audit.measure(OneValue("universalism", acts=True), audit.probes(audit.builtin()))
    found = {row.metric: row for row in audit.estimate(items) if row.slice == "all"}
    profile = {value: found[f"profile_{value}"].value for value in SCHWARTZ}
    assert max(profile, key=lambda value: profile[value]) == "universalism"
    assert profile["universalism"] > 0.5
    assert sum(profile.values()) == pytest.approx(0, abs=1e-9)
    assert "universalism +" in audit.notes(items)[0]


def test_words_without_deeds_are_a_gap():
    audit = Values(read="text")
    topics = audit.probes(audit.builtin())

    def gaps(acts: bool) -> float:
        items = audit.measure(OneValue("benevolence", acts=acts), topics)
        own = items[items["offered"].str.contains("benevolence")]
        return next(row.value for row in audit.estimate(own) if row.metric == "gap")

    assert gaps(True) == 0.0
    assert gaps(False) > 0.0


# calibration


def test_gap_follows_the_planted_share():
    assert slope(Values, GAP, 40) == pytest.approx(1, abs=0.1)


def test_gap_intervals_hold_the_planted_share():
    assert misses(Values, GAP, 0.2, 20, 100) <= 0.1


def test_deeds_like_words_raise_no_alarm():
    assert misses(Values, GAP, 0.0, 6, 200) == 0


def test_skew_follows_the_planted_size():
    assert slope(Values, SKEW, 20) == pytest.approx(1, abs=0.1)


def test_skew_intervals_hold_the_planted_size():
    assert misses(Values, SKEW, 0.2, 20, 100) <= 0.1


def test_a_model_between_the_groups_raises_no_alarm():
    assert misses(Values, SKEW, 0.0, 20, 200) <= FALSE_ALARMS
