from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from trueup.api.repeating import reseeded
from trueup.audits import CrowsPairs
from trueup.cli.gate import ESTIMATE_FUNCTIONS, Outcome, Row, parse
from trueup.cli.gate_repeats import POLICIES, RepeatedOutcome, Repeats, decide
from trueup.errors import UserError

GATE = parse("value(a.m) > 0.5", ESTIMATE_FUNCTIONS)


def rows(value: float) -> list[Row]:
    return [{"audit": "a", "metric": "m", "slice": "all", "value": value}]


def decided(repeats: Repeats, trips: Sequence[bool]) -> RepeatedOutcome:
    return repeats.run(lambda number: GATE.check(rows(float(trips[number]))))


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("policy", POLICIES)
def test_stopping_early_never_changes_the_decision(times: int, policy: str):
    rule = {"majority": lambda k: k > times / 2, "all": lambda k: k == times, "any": bool}[policy]
    for trips in product([False, True], repeat=times):
        outcome = decided(Repeats(times=times, policy=policy), trips)
        assert outcome.is_tripped == rule(sum(trips))


@pytest.mark.parametrize(
    ("policy", "trips", "made"),
    [
        ("majority", "TTTFF", 3),
        ("majority", "FFFTT", 3),
        ("majority", "TFTFT", 5),
        ("all", "FTTTT", 1),
        ("all", "TTTTT", 5),
        ("any", "TFFFF", 1),
        ("any", "FFFFF", 5),
    ],
)
def test_repeat_that_could_change_nothing_is_not_made(policy: str, trips: str, made: int):
    outcome = decided(Repeats(times=5, policy=policy), [letter == "T" for letter in trips])
    assert len(outcome.outcomes) == made


@pytest.mark.parametrize(
    ("policy", "share"),
    [
        ("majority", binom.sf(2, 5, 0.1)),  # 0.0086
        ("all", 0.1**5),
        ("any", 1 - 0.9**5),  # 0.41
    ],
)
def test_noise_fails_as_rarely_as_the_policy_says(policy: str, share: float):
    seeds = 2000
    noise = np.random.default_rng(0).random((seeds, 5)) < 0.1
    repeats = Repeats(times=5, policy=policy)
    failed = sum(decided(repeats, trips.tolist()).is_tripped for trips in noise) / seeds
    assert abs(failed - share) < 4 * np.sqrt(share * (1 - share) / seeds) + 1e-9


def test_lean_that_is_there_in_every_repeat_fails_under_every_policy():
    assert all(decided(Repeats(times=5, policy=name), [True] * 5).is_tripped for name in POLICIES)


def test_undefined_number_counts_as_tripped_in_its_repeat():
    values = [float("nan"), 0.0, float("nan")]
    outcome = Repeats(times=3).run(lambda number: GATE.check(rows(values[number])))
    assert outcome.is_tripped


def test_decision_is_told_with_every_number():
    outcome = Repeats(times=3).run(lambda number: GATE.check(rows((0.6, 0.4, 0.7)[number])))
    assert str(outcome) == (
        "gate tripped (majority of 3): it tripped in 2 of 3 repeats: value(a.m) > 0.5"
        " (value(a.m) is 0.6) (value(a.m) is 0.4) (value(a.m) is 0.7)"
    )
    assert outcome.as_dict() == {
        "expression": "value(a.m) > 0.5", "tripped": True, "policy": "majority", "repeat": 3,
        "repeats": [True, False, True],
    }  # fmt: skip


def test_one_repeat_is_the_plain_gate():
    outcome = decide(GATE, Repeats(), lambda _: rows(0.6))
    assert isinstance(outcome, Outcome)
    assert outcome == GATE.check(rows(0.6))


def test_no_gate_measures_nothing():
    def asked(number: int) -> list[Row]:
        raise AssertionError(number)

    assert decide(None, Repeats(times=3), asked) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"times": 0}, "repeat must be at least 1, got 0"),
        ({"policy": "most"}, "repeat_policy must be one of majority, all, any, got 'most'"),
    ],
)
def test_repeats_that_make_no_sense_are_refused(settings: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        Repeats(**settings)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Stands for an audit that samples."""

    seed: int = 7
    name: str = "sampling"


def test_repeats_move_the_seeds_of_audits_that_sample():
    audits: Any = (Sampling(), CrowsPairs())
    assert reseeded(audits, 0) == audits
    assert reseeded(audits, 2) == (Sampling(seed=9), CrowsPairs())


def test_repeating_audits_that_do_not_sample_is_refused():
    with pytest.raises(UserError, match="needs an audit that samples and has a seed, got crows-p"):
        reseeded((CrowsPairs(),), 1)
