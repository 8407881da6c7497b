"""Permuted-option voting: binomial truth, judges with a place they like, and where voting fails."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from trueup.judging.verdicts import LETTERS
from trueup.judging.voting import (
    Ballot,
    Voting,
    letter_vote,
    likeliest,
    majority_accuracy,
    permuted_vote,
    undecided_share,
    vote_accuracy,
)

TRUTH = "right"


def ballots(n: int, k: int) -> list[Ballot]:
    """Ballots whose right option has the text "right"; its id is never the first of all."""
    options = {f"o{number}": f"wrong {number}" for number in range(k - 1)} | {"truth": TRUTH}
    return [Ballot(id=f"b{number}", question="Which?", options=options) for number in range(n)]


def biased(b: float, rng: np.random.Generator):
    """With probability b the option shown first, else the right one."""

    def choose(questions: Sequence[str], options: Sequence[Sequence[str]]) -> list[int]:
        blind = rng.random(len(options)) < b
        return [
            0 if is_blind else list(shown).index(TRUTH)
            for is_blind, shown in zip(blind, options, strict=True)
        ]

    return choose


def first(questions: Sequence[str], options: Sequence[Sequence[str]]) -> list[int]:
    return [0] * len(options)


def right_share(b: float, k: int, settings: Voting, n: int = 4000, seed: int = 1) -> float:
    """How often the vote finds the right option."""
    votes = permuted_vote(biased(b, np.random.default_rng(seed)), ballots(n, k), settings)
    return vote_accuracy(votes, {vote.id: "truth" for vote in votes}).value


# 1. identity: the sheet's numbers, section "How to prove it right" 2 and 3

BINOMIAL = [
    (0.6, 3, 0.648),
    (0.6, 5, 0.68256),
    (0.6, 7, 0.710208),
    (0.8, 3, 0.896),
    (0.8, 5, 0.94208),
    (0.8, 7, 0.966656),
]
PLACE = [  # b, k, rounds, majority
    (0.4, 5, 3, 0.758336),
    (0.4, 5, 5, 0.80947374),
    (0.7, 5, 3, 0.410432),
    (0.7, 5, 5, 0.38857533),
    (0.7, 10, 3, 0.309394),
    (0.7, 10, 5, 0.26701222),
]


@pytest.mark.parametrize(("p", "rounds", "expected"), BINOMIAL)
def test_majority_of_independent_rounds(p: float, rounds: int, expected: float):
    by_hand = sum(
        math.comb(rounds, i) * p**i * (1 - p) ** (rounds - i)
        for i in range(rounds // 2 + 1, rounds + 1)
    )
    assert by_hand == pytest.approx(expected, abs=1e-9)
    assert majority_accuracy(p, rounds) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("b", "k", "rounds", "expected"), PLACE)
def test_majority_of_a_judge_with_a_favourite_place(b: float, k: int, rounds: int, expected: float):
    p = 1 - b + b / k  # the right option lies in the favourite place once in k
    assert majority_accuracy(p, rounds) == pytest.approx(expected, abs=1e-6)


# 4. planted effect: the implementation meets these within three standard errors


@pytest.mark.parametrize(("b", "k", "rounds", "expected"), PLACE)
@pytest.mark.parametrize("early_stop", [True, False])
def test_votes_meet_the_binomial(b: float, k: int, rounds: int, expected: float, early_stop: bool):
    n = 4000
    found = right_share(b, k, Voting(rounds=rounds, early_stop=early_stop), n)
    assert found == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / n))


@pytest.mark.parametrize("b", [0.4, 0.7])
def test_one_round_in_a_fixed_order_gets_no_help(b: float):
    # truth not first: p = 1 - b, whatever the number of rounds
    choose, n = biased(b, np.random.default_rng(3)), 4000
    shown = [[f"wrong {i}" for i in range(4)] + [TRUTH]] * n
    found = float(np.mean([place == 4 for place in choose([""] * n, shown)]))
    assert found == pytest.approx(1 - b, abs=3 * math.sqrt(b * (1 - b) / n))


def test_voting_helps_above_one_half_and_harms_below_it():
    once, often = Voting(rounds=1), Voting(rounds=5)
    assert right_share(0.4, 5, often) > right_share(0.4, 5, once) + 0.08  # .68 -> .81
    assert right_share(0.7, 5, often) < right_share(0.7, 5, once) - 0.02  # .44 -> .39
    # plurality asks for no half: it gains where the majority rule loses
    assert right_share(0.7, 5, Voting(rounds=5, rule="plurality")) > 0.44 + 0.05


def test_cyclic_shifts_leave_a_liking_for_a_place_no_share():
    # b = .7, k = 5: each option is first once, so the right one leads as soon as it is seen once
    # more; random orders leave it out of the favourite place now and then
    cyclic = Voting(rounds=None, design="cyclic", rule="plurality")
    drawn = Voting(rounds=5, design="random", rule="plurality")
    assert right_share(0.7, 5, cyclic) > right_share(0.7, 5, drawn)


# white box: letters weighed in every place


class Letters:
    """A model whose log-probability of a letter is its place's bias and its option's worth."""

    def __init__(self, bias: Sequence[float], worth: dict[str, float]) -> None:
        self.bias, self.worth, self.calls = bias, worth, 0

    score_groups = None

    def score(self, prompts, completions):
        self.calls += 1
        logps = []
        for prompt, several in zip(prompts, completions, strict=True):
            text = prompt[-1]["content"]
            lines = [line for line in text.splitlines() if line.startswith("Answer ")]
            worths = [self.worth[line.split(": ", 1)[1].strip('"')] for line in lines]
            logps.append([b + w for b, w, _ in zip(self.bias, worths, several, strict=False)])
        return type("Scores", (), {"logps": logps})()


def test_a_liking_for_letters_cancels_over_all_shifts():
    worth = {"wrong 0": -2.0, "wrong 1": -1.5, "wrong 2": -1.0, TRUTH: -0.9}
    model = Letters([3.0, 0.0, -1.0, 0.5], worth)
    (found,) = letter_vote(model, ballots(1, 4))
    total = sum(math.exp(value) for value in worth.values())
    expected = {"o0": "wrong 0", "o1": "wrong 1", "o2": "wrong 2", "truth": TRUTH}
    for name, text in expected.items():
        assert found[name] == pytest.approx(math.exp(worth[text]) / total, abs=1e-9)
    assert likeliest(found) == "truth"
    assert model.calls == 1  # all shifts of all ballots in one batch


def test_without_shifts_the_liked_letter_wins():
    # control for the test above: in each single order the bias of 3 nats outweighs every worth
    for turn in range(4):
        order = Voting(design="cyclic").order(ballots(1, 4)[0], turn)
        worth = [-0.9 if name == "truth" else -1.5 for name in order]
        assert int(np.argmax(np.array([3.0, 0.0, -1.0, 0.5]) + worth)) == 0


def test_equal_options_stay_equal_however_much_a_letter_is_liked():
    same = dict.fromkeys(["wrong 0", "wrong 1", "wrong 2", TRUTH], -1.0)
    (found,) = letter_vote(Letters([4.0, 1.0, 0.0, -2.0], same), ballots(1, 4))
    assert list(found.values()) == pytest.approx([0.25] * 4, abs=1e-12)
    assert likeliest(found) is None


# 5. negative controls


@pytest.mark.parametrize("k", [2, 3, 5, 10])
@pytest.mark.parametrize("rule", ["majority", "plurality"])
def test_a_judge_that_always_says_a_decides_nothing(k: int, rule):
    votes = permuted_vote(first, ballots(50, k), Voting(rounds=None, design="cyclic", rule=rule))
    assert undecided_share(votes).value == 1.0
    full = Voting(rounds=None, design="cyclic", rule=rule, early_stop=False)
    for vote in permuted_vote(first, ballots(50, k), full):
        assert set(vote.votes.values()) == {1}
        assert vote.rounds == k


def test_without_mapping_back_it_would_always_be_letter_a():
    letters: Counter[str] = Counter()

    def noted(questions, options):
        places = first(questions, options)
        letters.update(LETTERS[place] for place in places)
        return places

    votes = permuted_vote(noted, ballots(200, 5), Voting(rounds=1, rule="plurality"))
    assert set(letters) == {"A"}
    winners = Counter(vote.winner for vote in votes)
    assert len(winners) == 5  # mapped back, each option is A about as often
    assert max(winners.values()) < 200 / 5 + 3 * math.sqrt(200 * 0.2 * 0.8)


def test_a_judge_that_draws_at_random_has_no_favourite():
    rng, n, k = np.random.default_rng(5), 3000, 5
    drawn = Voting(rounds=5, rule="plurality")
    votes = permuted_vote(lambda q, o: rng.integers(0, k, len(o)).tolist(), ballots(n, k), drawn)
    counts = Counter(vote.winner for vote in votes if vote.winner)
    share = sum(counts.values()) / k
    assert max(abs(count - share) for count in counts.values()) < 4 * math.sqrt(share * (1 - 1 / k))


# 4 of the sheet: early stop


@pytest.mark.parametrize("rule", ["majority", "plurality"])
@pytest.mark.parametrize("rounds", [1, 4, 5, 7])
def test_early_stop_and_the_full_run_decide_alike(rule, rounds: int):
    rng, k, n = np.random.default_rng(rounds), 3, 1000
    stream = rng.integers(-1, k, (n, rounds))  # -1 is an abstention
    stream[rng.random((n, rounds)) < 0.3] = 0  # and streams with a leader
    several = ballots(n, k)
    results = []
    for early_stop in (True, False):
        settings = Voting(rounds=rounds, rule=rule, early_stop=early_stop)
        turns = dict.fromkeys(range(n), 0)
        named = [sorted(ballot.options) for ballot in several]

        def replay(questions, options, turns=turns, settings=settings, named=named):
            places: list[int | None] = []
            for question, shown in zip(questions, options, strict=True):
                number = int(question)
                pick = stream[number, turns[number]]
                text = None if pick < 0 else several[number].options[named[number][pick]]
                places.append(None if text is None else list(shown).index(text))
                turns[number] += 1
            return places

        asked = [
            Ballot(id=ballot.id, question=str(number), options=ballot.options)
            for number, ballot in enumerate(several)
        ]
        results.append(permuted_vote(replay, asked, settings))
    early, full = results
    assert [vote.winner for vote in early] == [vote.winner for vote in full]
    assert all(vote.rounds == rounds for vote in full)
    assert all(vote.rounds <= rounds for vote in early)
    if rounds >= 4:
        assert sum(vote.rounds for vote in early) < sum(vote.rounds for vote in full)
    by_hand = [_decided(stream[number], rule) for number in range(n)]
    ids = [sorted(several[0].options)[pick] if pick is not None else None for pick in by_hand]
    assert [vote.winner for vote in full] == ids


def _decided(picks: np.ndarray, rule: str) -> int | None:
    """The decision counted again from the stream."""
    counts = Counter(pick for pick in picks.tolist() if pick >= 0).most_common()
    if not counts:
        return None
    if rule == "majority":
        return counts[0][0] if counts[0][1] > len(picks) / 2 else None
    is_tied = len(counts) > 1 and counts[0][1] == counts[1][1]
    return None if is_tied else counts[0][0]


# 5 of the sheet: permutation invariance


@pytest.mark.parametrize("design", ["random", "cyclic"])
def test_the_order_of_the_options_and_of_the_ballots_changes_nothing(design):
    def judge(questions, options):
        """Likes the second place, else the longest text: its decision depends on the order."""
        return [1 if "wrong 1" in shown[:2] else len(shown) - 1 for shown in options]

    there = ballots(60, 5)
    back = [
        Ballot(id=b.id, question=b.question, options=dict(reversed(b.options.items())))
        for b in reversed(there)
    ]
    settings = Voting(rounds=3, design=design)
    first_run = {vote.id: vote.winner for vote in permuted_vote(judge, there, settings)}
    second_run = {vote.id: vote.winner for vote in permuted_vote(judge, back, settings)}
    assert first_run == second_run
    assert len(set(first_run.values())) > 1
    other_seed = permuted_vote(judge, there, Voting(rounds=3, design=design, seed=1))
    assert {vote.id: vote.winner for vote in other_seed} != first_run


def test_cyclic_shifts_put_each_option_once_in_each_place():
    ballot, settings = ballots(1, 5)[0], Voting(design="cyclic", rounds=10)
    orders = [settings.order(ballot, turn) for turn in range(10)]
    for place in range(5):
        assert Counter(order[place] for order in orders) == dict.fromkeys(ballot.options, 2)
