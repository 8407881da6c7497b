import itertools
import math
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.sample import comparison, estimate
from trueup.report.drawing import Drawing, Scale
from trueup.report.pictures import NARROW, WIDE, Mark, arrows, curves, forest
from trueup.report.wording import MINUS

ANY = st.floats(allow_nan=True, allow_infinity=True)
WIDTHS = [WIDE, NARROW]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def coordinates(svg: str) -> list[float]:
    found = []
    for path in ElementTree.fromstring(svg).iter("path"):
        found += [float(word) for word in path.get("d", "").split() if not word.isalpha()]
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_text_stays_text_and_colours_are_the_pages(width: int) -> None:
    svg = forest([Mark(label="nurse", row=estimate(0.3), planted=0.31)], 0.0, "Lean", width)
    assert "nurse" in texts(svg)
    assert any("0.300 [0.270, 0.330]" in text for text in texts(svg))
    assert "var(--accent)" in svg
    assert "#0a0a0" not in svg
    assert 'role="img"' in svg
    assert 'aria-label="Lean"' in svg


@pytest.mark.parametrize(
    "label", ["$x^2$ $", "</text><script>", "\x00\ud800", "護士 👩‍⚕️ مهندس", ""]
)
@pytest.mark.parametrize("width", WIDTHS)
def test_any_name_is_drawn_as_it_stands(label: str, width: int) -> None:
    svg = forest([Mark(label=label, row=estimate(0.3))], 0.0, label, width)
    shown = label.replace("\x00", "�").replace("\ud800", "�")
    assert shown in texts(svg)


def test_a_long_name_is_cut_in_its_middle() -> None:
    svg = forest([Mark(label="a" * 40 + "z" * 40, row=estimate(0.3))], 0.0, "", WIDE)
    (label,) = [text for text in texts(svg) if "…" in text]
    assert label == "a" * 13 + "…" + "z" * 13


def test_an_undefined_interval_is_said_and_not_drawn() -> None:
    row = estimate(0.3) | {"low": math.nan, "high": math.nan, "n": 1}
    svg = forest([Mark(label="one", row=row)], 0.0, "", WIDE)
    assert "0.300 undefined (n=1)" in texts(svg)
    drawn = ElementTree.fromstring(svg).findall("path[@style]")
    assert not [path for path in drawn if "stroke-width: 2.4" in path.get("style", "")]


def test_an_interval_that_would_squeeze_the_rest_goes_on_at_the_edge() -> None:
    marks = [Mark(label="a", row=estimate(0.30)), Mark(label="b", row=estimate(0.31, 50.0))]
    svg = forest(marks, 0.0, "", WIDE)
    assert max(coordinates(svg)) <= WIDE
    assert min(coordinates(svg)) >= 0
    assert f"0.310 [{MINUS}49.69, 50.31] n=72" in texts(svg)


@pytest.mark.parametrize("width", WIDTHS)
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(ANY, ANY, ANY, st.integers(0, 10**9)), min_size=1, max_size=3))
def test_no_number_breaks_a_forest_or_leaves_the_board(
    width: int, rows: list[tuple[float, float, float, int]]
) -> None:
    marks = [
        Mark(label="x", row=estimate(value, n=n) | {"low": low, "high": high})
        for value, low, high, n in rows
    ]
    svg = forest(marks, 0.0, "", width)
    assert all(
        -8 <= number <= width + 8 or math.isclose(number, 0) for number in coordinates(svg)[::2]
    )


@pytest.mark.parametrize("width", WIDTHS)
@settings(max_examples=60, deadline=None)
@given(before=ANY, after=ANY, low=ANY, high=ANY)
def test_no_number_breaks_the_arrows(
    width: int, before: float, after: float, low: float, high: float
) -> None:
    row = comparison(0.0, 0.1) | {"before": before, "after": after, "low": low, "high": high}
    assert "all" in texts(arrows([row], None, {}, "", width))


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [("improved", "accent"), ("worse", "bad"), ("no evidence", "muted")],
)
def test_a_verdict_is_told_in_words_beside_its_colour(verdict: str, tone: str) -> None:
    svg = arrows([comparison(0.3, 0.0, verdict=verdict)], 0.0, {}, "", WIDE)
    (word,) = [t for t in ElementTree.fromstring(svg).iter("text") if t.text == verdict]
    assert word.get("style") == f"fill: var(--{tone})"


def test_a_curve_of_many_steps_is_small_and_skips_what_is_no_number() -> None:
    values = np.sin(np.arange(100_000) / 9000)
    values[5:500] = np.nan
    values[900] = np.inf
    svg = curves(pd.DataFrame({"step": np.arange(100_000), "loss": values}), "loss", "", NARROW)
    assert len(svg) < 30_000
    assert "nan" not in svg
    assert "inf" not in svg


def test_a_curve_of_one_step_is_a_dot() -> None:
    svg = curves(pd.DataFrame({"step": [7], "loss": [0.5]}), "loss", "", NARROW)
    assert "C " in svg


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-3e-9, 4e-9), (2.352, 2.361), (-5e7, 2e8), (0.3, 0.3), (0, 0)]
)
def test_ticks_lie_on_the_scale_and_read_back_as_what_they_are(low: float, high: float) -> None:
    scale = Scale([low, high], [], 0, 500)
    assert scale(scale.low) == 0
    assert scale(scale.high) == pytest.approx(500)
    assert 2 <= len(scale.ticks) <= 8
    read = [float(scale.tick_text(t).replace(MINUS, "-").replace(",", "")) for t in scale.ticks]
    assert read == pytest.approx(scale.ticks, abs=0.02 * (scale.ticks[1] - scale.ticks[0]))
    assert all(a < b for a, b in itertools.pairwise(read))


def test_what_is_drawn_later_lies_above() -> None:
    board = Drawing(100, 100)
    board.dot(50, 50, tone="accent", hollow=False)
    board.line([0, 100], [50, 50], tone="bad")
    styles = [path.get("style", "") for path in ElementTree.fromstring(board.svg("")).iter("path")]
    assert ["bad" in style for style in styles] == [False, True]


def test_drawing_leaves_matplotlibs_settings_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    forest([Mark(label="nurse", row=estimate(0.3))], 0.0, "Lean", WIDE)
    assert dict(matplotlib.rcParams) == before
