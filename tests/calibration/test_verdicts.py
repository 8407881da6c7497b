"""The rules that turn numbers into a word, one by one at their bounds."""

import math
from typing import Any

import pytest

from trueup.calibration.verdicts import RULES, Word, is_trusted, overall, verdict_at
from trueup.stats import Estimate


def number(value: float, half: float) -> Estimate:
    return Estimate(
        metric="x", value=value, low=value - half, high=value + half, n=100, method="by hand"
    )


GOOD: dict[str, Any] = {
    "slope": number(1.0, 0.05),
    "excess": number(0.0, 0.05),
    "false_alarms": number(0.05, 0.03),
    "coverage": number(0.95, 0.03),
    "undefined": number(0.0, 0.01),
    "level": 0.95,
}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "trust"),
        ({"false_alarms": None}, "trust"),
        ({"slope": number(0.19, 0.01)}, "flat"),
        ({"slope": number(0.6, 0.61)}, "flat"),
        ({"slope": number(-1.0, 0.1)}, "flat"),
        ({"slope": number(1.0, math.nan)}, "too few draws"),
        ({"false_alarms": number(0.09, 0.035)}, "false alarms"),
        ({"false_alarms": number(0.09, 0.045)}, "trust"),
        ({"excess": number(0.2, 0.05)}, "overstates"),
        ({"excess": number(0.2, 0.15)}, "trust"),
        ({"excess": number(-0.2, 0.05)}, "understates"),
        ({"slope": number(1.2, 0.05)}, "overstates"),
        ({"slope": number(0.8, 0.05)}, "understates"),
        ({"slope": number(0.8, 0.15)}, "trust"),
        ({"coverage": number(0.9, 0.04)}, "poor intervals"),
        ({"coverage": number(0.9, 0.06)}, "trust"),
        ({"undefined": number(0.2, 0.05)}, "poor intervals"),
        ({"level": 0.8, "coverage": number(0.8, 0.03), "false_alarms": number(0.2, 0.03)}, "trust"),
        ({"slope": number(0.1, 0.01), "false_alarms": number(0.9, 0.05)}, "flat"),
    ],
)
def test_the_first_rule_that_holds_gives_the_word(changes: dict[str, Any], word: Word):
    assert verdict_at(**{**GOOD, **changes}) == word


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ([(100, "trust"), (1000, "trust")], "trust"),
        ([(1000, "trust"), (100, "understates")], "trust from n=1000"),
        ([(30, "flat"), (100, "flat"), (1000, "trust")], "trust from n=1000"),
        ([(30, "false alarms"), (100, "trust"), (1000, "trust")], "trust from n=100"),
        ([(100, "trust"), (1000, "false alarms")], "false alarms"),
        ([(100, "flat"), (1000, "understates")], "understates"),
    ],
)
def test_the_largest_n_decides(words: list[tuple[int, Word]], verdict: str):
    assert overall(words) == verdict
    assert is_trusted(verdict) == verdict.startswith("trust")


def test_every_word_that_a_page_shows_has_its_rule():
    assert set(RULES) == set(Word.__args__) - {"too few draws"}  # type: ignore[attr-defined]
