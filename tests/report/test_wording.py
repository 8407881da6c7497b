import math

import numpy as np
import pytest

from tests.report.sample import comparison, estimate
from trueup.report import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.3931, "0.393"),
        (-0.3931, f"{wording.MINUS}0.393"),
        (0, "0.000"),
        (0.00031, "0.0003"),
        (2.4e-7, "2.4e-07"),
        (14.237, "14.24"),
        (1508.4, "1,508"),
        (math.inf, "∞"),
        (-math.inf, f"{wording.MINUS}∞"),
        (math.nan, "undefined"),
        (None, "undefined"),
        (np.float64(0.5), "0.500"),
        (np.int64(3), "3.000"),
    ],
)
def test_a_number_is_never_rounded_to_nothing(value: float | None, text: str) -> None:
    assert wording.number(value) == text


def test_a_sign_is_given_where_it_is_asked_for() -> None:
    assert wording.number(0.25, signed=True) == "+0.250"
    assert wording.number(0.0, signed=True) == "0.000"


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0, "< 1e-4"),
        (9.9e-5, "< 1e-4"),
        (1e-4, "0.0001"),
        (0.00052, "0.0005"),
        (0.0412, "0.041"),
        (1.0, "1.000"),
        (math.nan, "undefined"),
    ],
)
def test_a_p_value_is_never_zero(p: float, text: str) -> None:
    assert wording.p_value(p) == text


def test_an_undefined_interval_says_why() -> None:
    assert wording.bounds(math.nan, math.nan, 1) == "undefined (n=1)"
    assert wording.bounds(0.1, math.nan, 4) == "[0.100, undefined]"


def test_the_ends_of_a_narrow_interval_do_not_look_equal() -> None:
    row = estimate(0.99841, 0.0002)
    assert wording.value_of(row) == "0.9984"
    assert wording.bounds(row["low"], row["high"], 9) == "[0.9982, 0.9986]"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"low": 0.1, "high": 0.3}, "above the ideal 0"),
        ({"value": -0.2, "low": -0.3, "high": -0.1}, "below the ideal 0"),
        ({"low": -0.1, "high": 0.5}, "consistent with the ideal 0"),
        ({"low": math.nan, "high": math.nan}, "too few items to say"),
        ({"ideal": None}, "for information"),
    ],
)
def test_an_estimate_stands_where_its_interval_says(changes: dict[str, float], words: str) -> None:
    assert wording.standing(estimate(0.2) | changes)[0] == words


def test_sentences_count_what_the_rows_say() -> None:
    rows = [comparison(0.3, 0.0), comparison(0.0, 0.01), comparison(0.0, 0.3, verdict="worse")]
    assert wording.comparison_sentences(rows) == [
        "Of 3 comparisons, 1 improved, 1 got worse and 1 show no evidence of a change;"
        " the p values are adjusted for all 3 together."
    ]
    nan = math.nan
    estimates = [estimate(0.3), estimate(0.0), estimate(1.0) | {"low": nan, "high": nan, "n": 1}]
    assert wording.estimate_sentences(estimates) == [
        "1 of 2 estimates with an ideal value has an interval that excludes it;"
        " chance alone would give about 0.1.",
        "1 estimate had too few items for an interval.",
    ]
    assert wording.guard_sentences([{"name": "a", "tripped": False}]) == ["The guard held."]
    assert wording.guard_sentences([{"name": "a", "tripped": True}, {"name": "b"}]) == [
        "1 of 2 guards tripped: a."
    ]


def test_nested_settings_are_told_as_dotted_keys() -> None:
    settings = {"a": {"b": 1, "c": {}}, "d": [1, "x"], "e": None}
    assert dict(wording.flat(settings)) == {"a.b": "1", "a.c": "none", "d": "1, x", "e": "none"}
