"""Leaderboards: the sheet's vectors, planted strengths with coverage, and models that are equal."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from trueup.errors import UserError
from trueup.judging.leaderboard import Leaderboard, leaderboard
from trueup.stats import BradleyTerry, bradley_terry

PLANTED = {"amber": 0.9, "birch": 0.3, "cedar": -0.3, "dune": -0.9}


def rows(counts: dict[tuple[str, str, str], int]) -> list[dict[str, str]]:
    return [
        {"model_a": one, "model_b": other, "winner": winner}
        for (one, other, winner), count in counts.items()
        for _ in range(count)
    ]


def board(table, seed: int = 0, **settings) -> Leaderboard:
    return leaderboard(table, rng=np.random.default_rng(seed), **{"resamples": 200, **settings})


def by_model(found: Leaderboard) -> dict:
    return {one.model: one for one in found.standings}


# vectors of sheet 91, reference vectors 4 to 7

VOTES = rows(
    {
        ("A", "B", "model_a"): 30,
        ("B", "A", "model_a"): 20,
        ("A", "C", "model_a"): 25,
        ("C", "A", "model_a"): 10,
        ("B", "C", "model_a"): 28,
        ("B", "C", "model_b"): 12,
        ("A", "B", "tie"): 4,
        ("C", "B", "tie"): 6,
    }
)


def test_bradley_terry_vector():
    found = board(VOTES)
    lines = by_model(found)
    assert [one.model for one in found.standings] == ["A", "B", "C"]
    strengths = [lines[name].strength.value for name in "ABC"]
    assert strengths == pytest.approx([0.44315599, 0.11289940, -0.55605539], abs=1e-8)
    elo = [lines[name].elo for name in "ABC"]
    assert elo == pytest.approx([1076.98408, 1019.61263, 903.40329], abs=1e-5)
    assert found.fit.win_rate("A", "B") == pytest.approx(0.58182181, abs=1e-8)
    half = 1.959963984540054 * 0.14895362
    assert lines["A"].strength.low == pytest.approx(0.44315599 - half, abs=1e-7)
    assert lines["A"].strength.high == pytest.approx(0.44315599 + half, abs=1e-7)
    assert found.n == 135


def test_win_rates_count_ties_half():
    lines = by_model(board(VOTES))
    assert lines["A"].win_rate.value == pytest.approx((30 + 25 + 4 / 2) / (54 + 35))
    assert lines["C"].win_rate.value == pytest.approx((10 + 12 + 6 / 2) / (35 + 46))
    assert lines["A"].win_rate.n == 54 + 35


def test_two_models_seven_to_three():
    found = board(rows({("x", "y", "model_a"): 7, ("y", "x", "model_a"): 3}))
    difference = found.fit.difference("x", "y")
    assert difference.value == pytest.approx(math.log(7 / 3), abs=1e-9)
    assert found.standings[0].elo - found.standings[1].elo == pytest.approx(147.190714, abs=1e-6)
    # all items won or lost: Wilson's interval of 7 / 10
    assert found.standings[0].win_rate.method == "Wilson"


SWAPPED = [(1, 1), (1, 0), (0, 0), (1, 1), (0, 1), (1, 1), (0.5, 1), (0, 0)]
WINNER = {1: "model_a", 0: "model_b", 0.5: "tie"}


def both_orders(scores) -> list[dict[str, object]]:
    """Each pair twice, the second time told and shown the other way round."""
    table = []
    for prompt, (given, swapped) in enumerate(scores):
        common = {"prompt_id": prompt, "order": "ab"}
        table.append({"model_a": "x", "model_b": "y", "winner": WINNER[given], **common})
        table.append({"model_a": "y", "model_b": "x", "winner": WINNER[1 - swapped], **common})
    return table


def test_swapped_orders_are_one_item():
    found = board(both_orders(SWAPPED))
    rate = by_model(found)["x"].win_rate
    assert (rate.value, rate.n, found.n) == (0.59375, 8, 8)
    half = 2.364624251592784 * 0.14893596  # Student's t with 7 degrees of freedom
    assert rate.high - rate.value == pytest.approx(half, abs=1e-7)
    assert found.consistency.value == 0.625
    assert found.consistency.n == 8


def test_preferences_over_a_baseline():
    preference = [1.2, 1.9, 1.5, 1, 2, 1.7, 1.1, 1.6]
    # a table has wins and ties only: each preference is the mean of ten votes on its prompt
    lengths = [100, 200, 150, 300, 120, 180, 250, 160], [180, 260, 150, 280, 240, 200, 230, 300]
    table = [
        {
            "model_a": "base" if vote % 2 else "new",
            "model_b": "new" if vote % 2 else "base",
            "winner": "model_a" if (vote < round(10 * (p - 1))) != bool(vote % 2) else "model_b",
            "prompt_id": f"p{prompt}",
            "length_a": base if vote % 2 else new,
            "length_b": new if vote % 2 else base,
        }
        for prompt, (p, base, new) in enumerate(zip(preference, *lengths, strict=True))
        for vote in range(10)
    ]
    rates = by_model(board(table, baseline="base"))["new"].against_baseline
    assert rates.raw.value == pytest.approx(50.0)
    assert rates.discrete.value == pytest.approx(56.25)
    assert rates.controlled.value == pytest.approx(30.35228624, abs=1e-5)
    assert rates.phi == pytest.approx(-1.99882451, abs=1e-6)
    assert by_model(board(table, baseline="base"))["base"].against_baseline is None


def test_judges_agreement_is_cohens():
    # the sheet's table [[20, 5], [10, 15]]: kappa .4
    cells = {("model_a", "model_a"): 20, ("model_a", "model_b"): 5}
    cells |= {("model_b", "model_a"): 10, ("model_b", "model_b"): 15}
    pairs = [pair for pair, count in cells.items() for _ in range(count)]
    table = [
        {"model_a": "x", "model_b": "y", "winner": winner, "judge": judge, "prompt_id": prompt}
        for prompt, pair in enumerate(pairs)
        for judge, winner in zip(("j1", "j2"), pair, strict=True)
    ]
    found = board(table).agreement
    assert found["cohen"].value == pytest.approx(0.4, abs=1e-9)
    assert found["observed"].value == pytest.approx(0.7)
    assert set(found) == {"observed", "ac1", "krippendorff", "cohen", "fleiss"}
    assert found["cohen"].low < 0.4 < found["cohen"].high
    assert board([row for row in table if row["judge"] == "j1"]).agreement == {}


def test_a_third_judge_who_skips_pairs_leaves_krippendorff():
    table = [
        {"model_a": "x", "model_b": "y", "winner": w, "judge": j, "prompt_id": p}
        for p, w in enumerate(["model_a", "model_b", "model_a", "tie", "model_b"])
        for j in ("j1", "j2", "j3")
        if not (j == "j3" and p == 2)
    ]
    found = board(table).agreement
    assert set(found) == {"observed", "ac1", "krippendorff"}
    assert found["krippendorff"].value == pytest.approx(1.0)


# planted strengths


def simulated(
    rng: np.random.Generator,
    planted: dict[str, float],
    per_pair: int,
    *,
    first_bonus: float = 0.0,
    both: bool = False,
) -> pd.DataFrame:
    """Votes of Bradley-Terry's model on `per_pair` prompts for each two models."""
    names = list(planted)
    one, other = np.triu_indices(len(names), 1)
    a, b = np.repeat(one, per_pair), np.repeat(other, per_pair)
    gap = np.array([*planted.values()])[a] - np.array([*planted.values()])[b]
    parts = []
    for order, sign in (("ab", 1), ("ba", -1))[: 2 if both else 1]:
        won = rng.random(len(a)) < expit(gap + sign * first_bonus)
        parts.append(
            pd.DataFrame(
                {
                    "model_a": np.array(names)[a],
                    "model_b": np.array(names)[b],
                    "winner": np.where(won, "model_a", "model_b"),
                    "order": order,
                    "prompt_id": [
                        f"{i} {j} {n}" for n, (i, j) in enumerate(zip(a, b, strict=True))
                    ],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def test_the_planted_order_is_recovered():
    for seed in range(10):
        found = board(simulated(np.random.default_rng(seed), PLANTED, 250))
        assert [one.model for one in found.standings] == list(PLANTED)
        assert [one.ranks for one in found.standings] == [(1, 1), (2, 2), (3, 3), (4, 4)]


def fitted(seed: int, planted: dict[str, float], per_pair: int) -> BradleyTerry:
    """The fit behind a leaderboard of `per_pair` prompts for each two models, from counts."""
    pairs = list(itertools.combinations(planted, 2))
    chance = expit([planted[one] - planted[other] for one, other in pairs])
    won = np.random.default_rng(seed).binomial(per_pair, chance)
    battles = [(*pair, outcome) for outcome in (1.0, 0.0) for pair in pairs]
    return bradley_terry(battles, weights=[*won, *(per_pair - won)])


def test_a_leaderboard_tells_its_fit():
    table = simulated(np.random.default_rng(3), PLANTED, 40)
    found = board(table)
    for one in found.standings:
        assert one.strength == found.fit.strength(one.model)
        assert one.ranks == found.fit.ranks()[one.model]
    battles = [
        (row.model_a, row.model_b, float(row.winner == "model_a")) for row in table.itertuples()
    ]
    assert found.fit.strengths == pytest.approx(bradley_terry(battles).strengths, abs=1e-9)


def test_intervals_cover_the_planted_strengths():
    covered, ranked, seeds = 0, 0, 300
    for seed in range(seeds):
        fit = fitted(seed, PLANTED, 40)
        ranks, told = fit.ranks(), [fit.strength(name) for name in PLANTED]
        covered += sum(
            one.low <= truth <= one.high for one, truth in zip(told, PLANTED.values(), strict=True)
        )
        ranked += all(
            ranks[name][0] <= place <= ranks[name][1] for place, name in enumerate(PLANTED, 1)
        )
    # the four models of a seed depend on one another: three standard errors of 300 seeds
    assert covered / (4 * seeds) == pytest.approx(0.95, abs=0.038)
    assert ranked / seeds > 0.95 - 0.038  # all four ranks at once


def test_votes_of_one_prompt_count_once():
    # every vote copied for three judges: intervals by prompt stay right, without prompts they lie
    covered = {True: 0, False: 0}
    for seed in range(60):
        votes = simulated(np.random.default_rng(seed), {"x": 0.4, "y": -0.4}, 60)
        copied = pd.concat([votes.assign(judge=judge) for judge in "abc"], ignore_index=True)
        for has_prompts in covered:
            table = copied if has_prompts else copied.drop(columns=["prompt_id", "judge"])
            gap = board(table, resamples=20).fit.difference("x", "y")
            covered[has_prompts] += gap.low <= 0.8 <= gap.high
    assert covered[True] >= 52  # 57 expected, three standard errors are 5
    assert covered[False] <= 51  # a third of the variance covers 74 %: 44.5 expected


def test_a_taste_for_length_is_taken_out():
    rng, n = np.random.default_rng(4), 800
    new, base = rng.normal(620, 100, n), np.full(n, 500.0)
    longer = new - base
    won = rng.random(n) < expit(2 * np.tanh(longer / longer.std(ddof=1)))
    table = pd.DataFrame(
        {
            "model_a": "new",
            "model_b": "base",
            "winner": np.where(won, "model_a", "model_b"),
            "length_a": new,
            "length_b": base,
        }
    )
    rates = by_model(board(table, baseline="base"))["new"].against_baseline
    assert rates.raw.value > 70  # sheet: 73.6 to 76.5
    assert rates.controlled.value == pytest.approx(50, abs=12)
    assert rates.controlled.low < 50 < rates.controlled.high


def test_a_liking_for_the_first_place_shows_and_both_orders_cancel_it():
    rng = np.random.default_rng(2)
    equal = {"x": 0.0, "y": 0.0}
    both = board(simulated(rng, equal, 400, first_bonus=1.0, both=True))
    assert both.shown_first.low > 0.6
    assert both.consistency.value < 0.75
    gap = both.fit.difference("x", "y")
    assert gap.low < 0 < gap.high
    assert both.notes == ()
    # one order only: what stood first looks stronger, and the note says why
    single = board(simulated(rng, equal, 400, first_bonus=1.0))
    assert single.fit.difference("x", "y").low > 0.5
    assert "in one order only" in single.notes[0]


# negative controls


def test_equal_models_are_not_separated():
    equal, seeds = dict.fromkeys("vwxyz", 0.0), 400
    alarms = by_overlap = strengths = 0
    for seed in range(seeds):
        fit = fitted(seed, equal, 30)
        alarms += any(ranks != (1, 5) for ranks in fit.ranks().values())
        told = [fit.strength(name) for name in equal]
        by_overlap += max(one.low for one in told) > min(one.high for one in told)
        strengths += sum(not one.low <= 0 <= one.high for one in told)
    assert alarms / seeds < 0.05 + 0.033  # three standard errors
    assert by_overlap > 1.3 * alarms  # what the overlap of single intervals would have said
    assert strengths / (5 * seeds) == pytest.approx(0.05, abs=0.033)


def test_an_unbiased_judge_has_no_favourite_place():
    alarms = 0
    for seed in range(100):
        table = simulated(np.random.default_rng(seed), {"x": 0.3, "y": -0.3}, 60, both=True)
        rate = board(table).shown_first
        alarms += not rate.low <= 0.5 <= rate.high
    assert alarms <= 11  # 5 expected, three standard errors are 6.5


def test_the_order_of_rows_and_of_names_in_a_row_changes_nothing():
    table = simulated(np.random.default_rng(0), PLANTED, 30, both=True)
    turned = table.assign(
        model_a=table["model_b"],
        model_b=table["model_a"],
        winner=table["winner"].map({"model_a": "model_b", "model_b": "model_a"}),
        order=table["order"].map({"ab": "ba", "ba": "ab"}),
    ).sample(frac=1, random_state=1)
    assert str(board(turned)) == str(board(table))


# what cannot be told, and how it reads


def test_a_model_that_always_wins_has_no_interval():
    found = board(
        rows({("x", "y", "model_a"): 5, ("y", "z", "model_a"): 3, ("z", "y", "model_a"): 2})
    )
    assert found.standings[0].model == "x"
    assert math.isnan(found.standings[0].strength.low)
    assert {one.ranks for one in found.standings} == {(1, 3)}
    assert "strengths have no interval" in found.notes[0]


def test_it_reads_as_a_table():
    lines = str(board(VOTES)).splitlines()
    assert lines[0].split() == ["rank", "model", "strength", "elo", "win", "rate", "n"]
    assert lines[1].startswith("1-2   A      0.443 [0.151, 0.735]     1077  0.640 [")
    assert len(lines) == 4
    assert all(line == line.rstrip() for line in lines)
    told = str(board(both_orders(SWAPPED))).splitlines()
    assert "consistency  all  0.625" in told[3]
    assert "shown first wins  all" in told[4]


def test_the_fit_is_there_for_differences():
    assert isinstance(board(VOTES).fit, BradleyTerry)


GOOD = {"model_a": "x", "model_b": "y", "winner": "tie"}


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        ([], {}, "the column 'model_a' is missing; known: none"),
        ([{"model_a": "x", "model_b": "y"}], {}, "'winner' is missing; known: model_a, model_b"),
        ([GOOD, {**GOOD, "winner": "x"}], {}, "row 2: 'winner' must be one of .*, got 'x'"),
        ([{**GOOD, "order": "first"}], {}, "row 1: 'order' must be one of ab, ba, got 'first'"),
        ([{**GOOD, "model_b": "x"}], {}, "row 1: a model is compared with itself, got 'x' twice"),
        ([{**GOOD, "prompt_id": None}], {}, "row 1: 'prompt_id' is empty"),
        ([{**GOOD, "length_a": "long", "length_b": 2}], {}, "'length_a' must be .*, got 'long'"),
        ([GOOD], {"baseline": "x"}, "the column 'length_a' is missing"),
        ([{**GOOD, "length_a": 1, "length_b": 2}], {"baseline": "z"}, "no model 'z'.*known: x, y"),
        ([GOOD], {"level": 1.0}, "level must lie between"),
    ],
)
def test_what_cannot_be_ranked_is_refused(table, settings, message: str):
    with pytest.raises(UserError, match=message):
        board(table, **settings)
