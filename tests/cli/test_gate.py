import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueup.cli.gate import COMPARISON_FUNCTIONS, ESTIMATE_FUNCTIONS, parse
from trueup.errors import UserError


def estimate(
    metric: str = "share", part: str = "all", **numbers: float | None
) -> dict[str, object]:
    values = {"value": 0.6, "low": 0.5, "high": 0.7, "n": 20, "ideal": 0.5} | numbers
    return {"audit": "crows-pairs", "metric": metric, "slice": part, **values}


ROWS = [
    estimate(),
    estimate(part="age (old)", low=math.nan, high=math.nan),
    estimate("log_ratio", value=-2.0, low=-3.0, high=-1.0),
]
CHANGE = {
    "audit": "crows-pairs", "metric": "share", "slice": "all", "before": 0.7, "after": 0.6,
    "delta": -0.1, "low": -0.2, "high": -0.01, "p_value": 0.01, "p_adjusted": 0.04,
    "n_pairs": 50, "verdict": "improved",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "trips"),
    [
        ("low(crows-pairs.share) > 0.1", True),
        ("low(crows-pairs.share) > 0.5", False),
        ("low(crows-pairs.share) >= 0.5", True),
        ("0.1 < low( crows-pairs.share )", True),
        ("high(crows-pairs.share@all) == 0.7", True),
        ("abs(crows-pairs.log_ratio) > 1.9", True),
        ("value(crows-pairs.log_ratio) > -1e-3", False),
        ("n(crows-pairs.share) != 20", False),
        ("1 > 2 or 3 > 2", True),
        ("1 > 2 and 3 > 2 or 3 > 2", True),
        ("1 > 2 and (3 > 2 or 3 > 2)", False),
        ("(0.1 < 2) and (1<2)", True),
        ("low(crows-pairs.share) < high(crows-pairs.share)", True),
    ],
)
def test_expression_means_what_it_says(text: str, trips: bool):
    assert parse(text, ESTIMATE_FUNCTIONS).check(ROWS).is_tripped is trips


@pytest.mark.parametrize(
    ("text", "trips"),
    [
        ("count(improved) > 0", True),
        ("count(worse) > 0", False),
        ("count(no evidence) == 0", True),
        ("after(crows-pairs.share) > 0.65", False),
        ("before(crows-pairs.share) > 0.65", True),
        ("value(crows-pairs.share) < 0", True),
        ("abs(crows-pairs.share) > 0.05 and p(crows-pairs.share) < 0.05", True),
        ("n(crows-pairs.share) < 50", False),
    ],
)
def test_comparisons_have_words_of_their_own(text: str, trips: bool):
    assert parse(text, COMPARISON_FUNCTIONS).check([CHANGE]).is_tripped is trips


@pytest.mark.parametrize(
    ("text", "trips"),
    [
        ('low("crows-pairs.share@age (old)") > 3', True),
        ('low("crows-pairs.share@age (old)") > 3 and 1 > 2', False),
        ('low("crows-pairs.share@age (old)") > 3 or 2 > 1', True),
    ],
)
def test_undefined_number_trips_unless_the_rest_decides(text: str, trips: bool):
    outcome = parse(text, ESTIMATE_FUNCTIONS).check(ROWS)
    assert outcome.is_tripped is trips
    assert "low(crows-pairs.share@age (old)) is undefined" in str(outcome)


@pytest.mark.parametrize(
    ("low", "high", "trips"),
    [(0.51, 0.7, True), (0.5, 0.7, False), (0.3, 0.7, False), (0.3, 0.49, True), (0.3, 0.5, False)],
)
def test_beyond_is_how_far_the_interval_lies_off_the_ideal(low: float, high: float, trips: bool):
    rows = [estimate(value=(low + high) / 2, low=low, high=high)]
    near = parse("beyond(crows-pairs.share) > 0", ESTIMATE_FUNCTIONS)
    assert near.check(rows).is_tripped is trips
    far = parse("beyond(crows-pairs.share) > 0.009", ESTIMATE_FUNCTIONS)
    assert far.check(rows).is_tripped is trips


@pytest.mark.parametrize("bounds", [(math.nan, 0.7), (0.4, math.nan)])
def test_beyond_without_both_bounds_is_undefined_and_trips(bounds: tuple[float, float]):
    rows = [estimate(low=bounds[0], high=bounds[1])]
    outcome = parse("beyond(crows-pairs.share) > 1", ESTIMATE_FUNCTIONS).check(rows)
    assert outcome.is_tripped
    assert "undefined" in str(outcome)


@pytest.mark.parametrize("value", [0.25, 0.75])
def test_gap_is_the_distance_from_the_ideal_on_either_side(value: float):
    gate = parse("gap(crows-pairs.share) >= 0.25", ESTIMATE_FUNCTIONS)
    assert gate.check([estimate(value=value)]).is_tripped
    assert not gate.check([estimate(value=0.5 + (value - 0.5) / 2)]).is_tripped


@pytest.mark.parametrize("function", ["gap", "beyond"])
def test_distance_from_an_ideal_needs_one(function: str):
    gate = parse(f"{function}(crows-pairs.share) > 0", ESTIMATE_FUNCTIONS)
    said = "gap\\(\\) and beyond\\(\\) need a metric with an ideal, got crows-pairs.share"
    with pytest.raises(UserError, match=said):
        gate.check([estimate(ideal=None)])
    with pytest.raises(UserError, match=said):
        gate.check_ideals({("crows-pairs", "share"): None})
    gate.check_ideals({("crows-pairs", "share"): 0.5, ("crows-pairs", "other"): None})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' ends where a number"),
        ("low(crows-pairs.share) >", "ends where a number or FUNCTION(AUDIT.METRIC) should follow"),
        ("low(crows-pairs.share)", "ends where one of >= <= == != > < should follow"),
        ("1 > 2 3", "column 7: expected the end, got '3'"),
        ("(1 > 2", "ends where ')' should follow"),
        ("1 > 2)", "column 6: expected the end, got ')'"),
        ("and > 1", "column 1: expected a number or FUNCTION(AUDIT.METRIC), got 'and'"),
        ("low(x) > 1", "low() needs AUDIT.METRIC or AUDIT.METRIC@SLICE, got 'x'"),
        ("lo(a.b) > 1", "no function 'lo'; did you mean 'low'?"),
        ("__import__('os').system('true') > 1", "cannot read \".system('true') > 1\""),
        ("count(worse) > 0", "no function 'count'"),
        ("$ > 1", "column 1: cannot read '$ > 1'"),
        ("(" * 51 + "1 > 2" + ")" * 51, "more than 50 parentheses"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, said: str):
    with pytest.raises(UserError) as caught:
        parse(text, ESTIMATE_FUNCTIONS)
    assert str(caught.value).startswith("--fail-if: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("low(crows-pairs.shar) > 1", "did you mean 'crows-pairs.share'?"),
        ("low(bbq.s_amb) > 1", "no metric 'bbq.s_amb'; "),
        ("low(crows-pairs.share@age) > 1", "no slice of crows-pairs.share 'age'; "),
    ],
)
def test_name_that_is_not_there_is_an_error(text: str, said: str):
    with pytest.raises(UserError, match="--fail-if: no ") as caught:
        parse(text, ESTIMATE_FUNCTIONS).check(ROWS)
    assert said in str(caught.value)


@given(st.text(alphabet="lowhighabs(). <>=!andor0123@\"'-+e_", max_size=40))
def test_any_text_is_read_or_refused(text: str):
    with contextlib.suppress(UserError):
        parse(text, ESTIMATE_FUNCTIONS)
