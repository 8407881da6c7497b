"""Discretion: the sheet's toy matrix, closed forms, planted orders, annotators without a lean."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import kendalltau
from sklearn.linear_model import LogisticRegression

from tests.proofs.probability_calibration import misses, slope, world_of
from trueup.audits.behaviour.discretion import Discretion, stated_preferences
from trueup.audits.behaviour.discretion_measures import (
    agreement_types,
    consensus,
    discretion_arbitrariness,
    discretion_discrepancy,
    is_separated,
    principle_priority,
    principle_supremacy,
    principle_wins,
    win_terms,
)
from trueup.models.no_model import NoModel
from trueup.stats import Estimate, bradley_terry

O = np.nan  # noqa: E741  # neither
TOY = np.array(
    [
        (1, 1, O), (1, -1, O), (1, -1, 1), (-1, 1, O), (O, O, O), (-1, -1, O),
        (O, 1, -1), (1, O, -1), (-1, O, 1), (O, -1, 1), (1, -1, -1), (O, 1, O),
    ]
)  # fmt: skip
A = np.array([1, 1, 1, 1, 1, 1, -1, 1, -1, 1, -1, O])
EVEN = (-1.0, -0.5, 0.0, 0.5, 1.0)
WORLD = world_of("discretion")


def drawn_table(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    return rng.choice([-1.0, O, 1.0], size=(n, m))


def drawn_annotator(rng: np.random.Generator, table: np.ndarray, w: Sequence[float]) -> np.ndarray:
    """a ~ sigmoid(sum_j w_j P_ij)."""
    chance = expit(np.nansum(table * np.asarray(w), axis=1))
    return np.where(rng.random(len(table)) < chance, 1.0, -1.0)


# 1. identity: the sheet's toy matrix, section 7.1


def test_toy_kinds():
    kinds = agreement_types(TOY).tolist()
    counts = [kinds.count(kind) for kind in ("indifference", "conflict", "consensus")]
    assert counts == [1, 8, 3]


def test_toy_arbitrariness_leaves_out_the_row_without_a_preference():
    assert discretion_arbitrariness(TOY, A) == 1 / 2


def test_zero_counts_as_no_preference():
    assert discretion_arbitrariness(TOY, np.where(np.isnan(A), 0.0, A)) == 1 / 2


def test_toy_wins_and_supremacy():
    wins = principle_wins(TOY, A)
    assert wins.tolist() == [[0, 2, 2], [2, 0, 0], [1, 3, 0]]
    assert (wins + wins.T).tolist() == [[0, 4, 3], [4, 0, 3], [3, 3, 0]]
    supremacy = principle_supremacy(TOY, A)
    assert supremacy[[0, 0, 1], [1, 2, 2]].tolist() == [0.5, 2 / 3, 0.0]
    assert np.isnan(np.diag(supremacy)).all()


def test_wins_are_the_sums_of_the_rows_terms():
    assert win_terms(TOY, A).sum(axis=0).tolist() == principle_wins(TOY, A).tolist()


def test_toy_priorities_and_those_of_the_opposite_annotator():
    priority = principle_priority(principle_wins(TOY, A))
    np.testing.assert_allclose(priority, [0.15108534, -0.63028470, 0.47919937], atol=5e-9)
    opposite = principle_priority(principle_wins(TOY, -A))
    np.testing.assert_allclose(opposite, -priority, atol=1e-12)
    assert discretion_discrepancy(priority, priority) == 0
    assert discretion_discrepancy(priority, opposite) == 1


# 1. closed forms, section 7.2 and 7.3


def test_two_principles_differ_by_the_log_odds():
    priority = principle_priority([[0, 3], [1, 0]])
    np.testing.assert_allclose(priority, [0.549306144, -0.549306144], atol=5e-10)
    assert priority[0] - priority[1] == pytest.approx(np.log(3), abs=1e-12)


def test_three_principles_of_the_sheet():
    priority = principle_priority([[0, 3, 4], [1, 0, 2], [1, 2, 0]])
    np.testing.assert_allclose(priority, [0.83249723, -0.37611904, -0.45637819], atol=5e-9)


def test_first_order_condition_holds_at_the_optimum(rng: np.random.Generator):
    wins = rng.poisson(4, size=(21, 21)) * (1.0 - np.eye(21))
    w = principle_priority(wins)
    expected = ((wins + wins.T) * expit(w[:, None] - w)).sum(axis=1)
    np.testing.assert_allclose(expected, wins.sum(axis=1), atol=1e-10)


@pytest.mark.parametrize(
    ("second", "value"), [([1, 2, 4, 3], 1 / 6), ([4, 3, 2, 1], 1.0), ([1, 2, 3, 4], 0.0)]
)
def test_discrepancy_is_the_share_of_discordant_pairs(second: list[int], value: float):
    assert discretion_discrepancy([1, 2, 3, 4], second) == pytest.approx(value, abs=1e-15)


def test_discrepancy_of_five():
    assert discretion_discrepancy([1, 2, 3, 4, 5], [2, 1, 3, 5, 4]) == pytest.approx(0.2)


# 2. differential: equal to peers


def test_priorities_are_those_of_trueups_bradley_terry_and_of_sklearn(rng: np.random.Generator):
    wins = rng.poisson(5, size=(6, 6)) * (1.0 - np.eye(6))
    i, j = np.nonzero(wins)
    ours = principle_priority(wins)
    battles = [(str(a), str(b), 1.0) for a, b in zip(i, j, strict=True)]
    np.testing.assert_allclose(
        bradley_terry(battles, weights=wins[i, j]).strengths, ours, atol=1e-9
    )
    design = np.eye(6)[i] - np.eye(6)[j]
    # both signs of every game, as sklearn wants two classes
    fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    fit.fit(
        np.vstack([design, -design]),
        np.repeat([1, 0], len(design)),
        sample_weight=np.tile(wins[i, j], 2),
    )
    peer = fit.coef_[0]
    np.testing.assert_allclose(peer - peer.mean(), ours, atol=1e-5)


def test_discrepancy_is_scipys_tau_with_ties_and_infinities():
    first = np.array([np.inf, np.inf, 0.3, -0.2, -np.inf, 0.1])
    second = np.array([0.5, np.inf, 0.2, 0.2, -np.inf, -1.0])
    tau = kendalltau(np.clip(first, -9, 9), np.clip(second, -9, 9)).statistic
    assert discretion_discrepancy(first, second) == pytest.approx((1 - tau) / 2, abs=1e-12)


def test_many_tables_at_once_are_the_single_ones(rng: np.random.Generator):
    wins = rng.poisson(0.7, size=(40, 5, 5)) * (1.0 - np.eye(5))
    together = principle_priority(wins)
    alone = np.array([principle_priority(each) for each in wins])
    np.testing.assert_allclose(together, alone, atol=1e-9)


# 1. identities, section 7.4


@pytest.fixture
def table(rng: np.random.Generator) -> np.ndarray:
    return drawn_table(rng, 300, 5)


def test_opposite_annotators_share_the_consensus_out(table: np.ndarray, rng: np.random.Generator):
    a = rng.choice([-1.0, 1.0], size=len(table))
    both = discretion_arbitrariness(table, a) + discretion_arbitrariness(table, -a)
    assert both == pytest.approx(1, abs=1e-15)


def test_the_majority_of_principles_is_never_arbitrary(table: np.ndarray):
    assert discretion_arbitrariness(table, np.sign(np.nansum(table, axis=1))) == 0


def test_changed_signs_of_everything_change_nothing(table: np.ndarray, rng: np.random.Generator):
    a = rng.choice([-1.0, 1.0], size=len(table))
    assert (agreement_types(table) == agreement_types(-table)).all()
    assert discretion_arbitrariness(table, a) == discretion_arbitrariness(-table, -a)
    assert (principle_wins(table, a) == principle_wins(-table, -a)).all()


def test_a_silent_principle_changes_nothing_but_its_own_priority(
    table: np.ndarray, rng: np.random.Generator
):
    a = rng.choice([-1.0, 1.0], size=len(table))
    more = np.column_stack([table, np.full(len(table), O)])
    assert (agreement_types(more) == agreement_types(table)).all()
    priority = principle_priority(principle_wins(more, a))
    assert np.isnan(priority[-1])  # neither always winner nor always loser
    np.testing.assert_allclose(priority[:-1], principle_priority(principle_wins(table, a)))


def test_rows_twice_and_principles_in_another_order(table: np.ndarray, rng: np.random.Generator):
    a = rng.choice([-1.0, 1.0], size=len(table))
    priority = principle_priority(principle_wins(table, a))
    twice = principle_priority(principle_wins(np.vstack([table, table]), np.tile(a, 2)))
    np.testing.assert_allclose(twice, priority, atol=1e-9)
    order = [3, 0, 4, 1, 2]
    moved = principle_priority(principle_wins(table[:, order], a))
    np.testing.assert_allclose(moved, priority[order], atol=1e-9)


def test_two_blocks_of_which_one_always_wins_stay_finite_and_are_told():
    wins = np.array([[0, 2, 3, 3], [2, 0, 3, 3], [0, 0, 0, 2], [0, 0, 2, 0.0]])
    priority = principle_priority(wins)
    assert is_separated(wins)
    assert np.isfinite(priority).all()
    assert priority[:2].min() > priority[2:].max() + 5
    assert not is_separated([[0, 3, 4], [1, 0, 2], [1, 2, 0]])


def test_the_second_order_is_subtracted():
    # the trap of section 5: "A over B" in both orders says nothing, A then B is a preference
    masses = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4], [0.4, 0.35, 0.45]])
    stated = stated_preferences(masses)
    np.testing.assert_array_equal(stated, [1, -1, O, O])
    np.testing.assert_array_equal(stated_preferences(np.array([[0.4, 0.3, 0.35]])), [1])
    np.testing.assert_array_equal(stated_preferences(np.array([[0.3, 0.3, 0.0]])), [O])
    np.testing.assert_array_equal(stated_preferences(np.zeros((1, 3))), [O])


# 4. planted effect, section 7.5


def test_a_planted_order_is_recovered_and_another_is_unrelated():
    same, other = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        w = rng.permutation(EVEN)
        table = drawn_table(rng, 5000, 5)
        priority = principle_priority(principle_wins(table, drawn_annotator(rng, table, w)))
        same.append(float(discretion_discrepancy(priority, w)))
        other.append(float(discretion_discrepancy(priority, rng.permutation(EVEN))))
    assert np.mean(np.array(same) == 0) > 0.95
    assert np.mean(other) == pytest.approx(0.5, abs=0.05)  # negative control


def test_a_follower_of_one_principle_has_it_without_bound(rng: np.random.Generator):
    table = drawn_table(rng, 500, 5)
    a = table[:, 0]
    assert principle_priority(principle_wins(table, a))[0] == np.inf
    assert (principle_supremacy(table, a)[0, 1:] == 1).all()


# 5. negative control: an annotator that tosses coins


def test_a_coin_has_no_priorities_and_half_arbitrariness():
    rng = np.random.default_rng(40)
    table = drawn_table(rng, 4000, 5)
    outside, means = 0, []
    for _ in range(200):
        a = rng.choice([-1.0, 1.0], size=len(table))
        n = int((~np.isnan(consensus(table))).sum())
        outside += abs(discretion_arbitrariness(table, a) - 0.5) > 2 * 0.5 / np.sqrt(n)
        means.append(principle_priority(principle_wins(table, a)))
    assert outside / 200 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    errors = np.std(means, axis=0)
    assert (np.abs(np.mean(means, axis=0)) < 3 * errors / np.sqrt(200)).all()


def given_rows(table: np.ndarray, human: np.ndarray, a: np.ndarray) -> list[dict[str, object]]:
    """Rows with all preferences, for which no model is asked."""
    return [
        {
            "prompt": "q",
            "chosen": f"c{i}",
            "rejected": f"r{i}",
            "human": human[i],
            "preference": a[i],
        }
        | {f"p{j}": each for j, each in enumerate(row)}
        for i, row in enumerate(table.tolist())
    ]


def _cell(preference: float) -> int | None:
    """A preference as a file holds it."""
    return None if np.isnan(preference) else int(preference)


def numbers(table: np.ndarray, human: np.ndarray, a: np.ndarray) -> dict[str, Estimate]:
    audit = Discretion(given=tuple(f"p{j}" for j in range(table.shape[1])))
    items = audit.measure(NoModel(), audit.probes(given_rows(table, human, a)))
    return {row.metric: row for row in audit.estimate(items) if row.slice == "all"}


def test_the_audit_of_given_preferences_is_the_functions(rng: np.random.Generator):
    table = drawn_table(rng, 400, 4)
    a, human = rng.choice([-1.0, O, 1.0], size=400), rng.choice([-1.0, 0.0, 1.0], size=400)
    found = numbers(table, human, a)
    assert found["arbitrariness"].value == discretion_arbitrariness(table, a)
    assert found["human_arbitrariness"].value == discretion_arbitrariness(table, human)
    assert found["undecided"].value == np.isnan(a).mean()
    paired = np.abs(a * human) == 1
    w1, w2 = (principle_priority(principle_wins(table[paired], x[paired])) for x in (a, human))
    assert found["discrepancy"].value == pytest.approx(float(discretion_discrepancy(w1, w2)))
    assert found["conflict"].value == (agreement_types(table) == "conflict").mean()


@pytest.mark.parametrize(("size", "n", "seeds"), [(5, 200, 40), (12, 400, 10)])
def test_discrepancy_of_two_annotators_of_one_order_raises_no_alarm(size: int, n: int, seeds: int):
    w = np.linspace(-1, 1, size)
    alarms = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        table = drawn_table(rng, n, size)
        human, a = (drawn_annotator(rng, table, w) for _ in range(2))
        alarms += numbers(table, human, a)["discrepancy"].low > 0
    assert alarms / seeds <= 0.05


def test_discrepancy_finds_a_reversed_order(rng: np.random.Generator):
    w = np.linspace(-1, 1, 5)
    table = drawn_table(rng, 1000, 5)
    found = numbers(table, drawn_annotator(rng, table, w), drawn_annotator(rng, table, -w))
    assert found["discrepancy"].value > 0.9
    assert found["discrepancy"].low > 0.5


# calibration


def test_arbitrariness_follows_the_planted_share():
    assert slope(Discretion, WORLD, 80) == pytest.approx(1, abs=0.1)


def test_intervals_hold_the_planted_share():
    assert misses(Discretion, WORLD, 0.35, 60, 100) <= 0.1


def test_a_model_with_the_consensus_raises_no_alarm():
    assert misses(Discretion, WORLD, WORLD.null, 20, 200) == 0
