import math
import re
from typing import Any

import numpy as np
import pytest

from tests.report.searches import POOL, TWO_BEAMS, entry, long_trace, steps
from trueup.report.pictures import NARROW, WIDE
from trueup.report.pool_pictures import is_piled_in_full, pool_label, pool_picture
from trueup.report.search_pictures import (
    hover,
    is_drawn_in_full,
    search_label,
    search_picture,
)
from trueup.report.search_trace import Candidate, steps_of, ways_of
from trueup.report.wording import MINUS

CIRCLE = re.compile(r'<circle cx="([^"]+)" cy="([^"]+)" r="([^"]+)"')


def searched(trace: Any, text: str, score: float, width: int = WIDE) -> str:
    found = steps_of(trace)
    return search_picture(found, *ways_of(found, text, score), "label", width)


def pooled(trace: Any, text: str, score: float, width: int = WIDE) -> str:
    [pool] = found = steps_of(trace)
    return pool_picture(pool, ways_of(found, text, score)[0], "label", width)


def circles(svg: str) -> list[tuple[float, float, float]]:
    return [(float(x), float(y), float(r)) for x, y, r in CIRCLE.findall(svg)]


def groups(svg: str) -> dict[str, int]:
    """How many circles there are of each look."""
    found = {}
    for style, inner in re.findall(r'<g style="([^"]*)"[^>]*>(.*?)</g>', svg):
        found[style] = found.get(style, 0) + inner.count("<circle")
    return found


def test_every_candidate_has_a_dot_hollow_where_it_was_dropped() -> None:
    assert groups(searched(TWO_BEAMS, "abc", 3.0)) == {
        "fill:var(--page);stroke:var(--before)": 3,
        "fill:var(--before);stroke:var(--before)": 3,
        "fill:var(--accent);stroke:var(--accent)": 3,
    }


def test_a_better_score_stands_higher_and_a_later_step_further_right() -> None:
    svg = searched(TWO_BEAMS, "abc", 3.0)
    chosen = circles(svg.rpartition("<g ")[2])
    assert [x for x, _, _ in chosen] == sorted(x for x, _, _ in chosen)
    heights = [y for _, y, _ in chosen]  # scores 1, 0.75, 3 on one scale
    assert (heights[1] - heights[0]) / (heights[0] - heights[2]) == pytest.approx(0.125, abs=0.01)


def test_lines_join_what_was_kept() -> None:
    svg = searched(TWO_BEAMS, "abc", 3.0)
    lines = re.findall(r'<path d="(M[^"]*)" style="([^"]*)"', svg)
    assert sum("--accent" in style for _, style in lines) == 1
    [way] = [path for path, style in lines if "--accent" in style]
    assert way.count("L") == 2
    assert sum("--before" in style for _, style in lines) == 1


def test_only_a_wide_picture_tells_on_hover() -> None:
    assert searched(TWO_BEAMS, "abc", 3.0).count("<title>") == 9
    narrow = searched(TWO_BEAMS, "abc", 3.0, NARROW)
    assert "<title>" not in narrow
    assert len(circles(narrow)) == 9


def test_dots_of_equal_scores_stand_side_by_side() -> None:
    trace = steps(
        [entry(letter, 1.0, kept=letter < "d") for letter in "abcdef"],
        [entry("aa", 2.0, kept=True)],
    )
    found = circles(searched(trace, "aa", 2.0))
    apart = [math.dist(a[:2], b[:2]) for n, a in enumerate(found) for b in found[:n]]
    assert min(apart) >= 7


def test_a_score_that_is_no_number_is_not_drawn() -> None:
    trace = steps(
        [entry("a", 1.0, kept=True), entry("b", math.nan), entry("c", -math.inf, kept=True)],
        [entry("ab", 2.0, kept=True), entry("ac", math.inf)],
    )
    assert len(circles(searched(trace, "ab", 2.0))) == 2
    label = search_label(steps_of(trace), {0: 0, 1: 0})
    assert label.startswith("5 candidates in 2 steps, 3 kept; scores from 1.000 to 2.000.")


def test_a_score_far_off_stands_at_the_edge_and_is_told() -> None:
    trace = steps([entry("a", 1.0, kept=True), entry("b", -1e6)], [entry("ab", 2.0, kept=True)])
    assert "1 score far off stands at the edge." in search_label(steps_of(trace), {})
    heights = [y for _, y, _ in circles(searched(trace, "ab", 2.0))]
    assert max(heights) <= 236 - 44
    assert abs(heights[1] - heights[2]) > 20  # the others are not squeezed


def test_the_label_tells_the_search_in_numbers() -> None:
    found = steps_of(TWO_BEAMS)
    assert search_label(found, {0: 0, 1: 0, 2: 0}) == (
        f"9 candidates in 3 steps, 6 kept; scores from {MINUS}4.000 to 3.000. "
        "The one that was chosen has 3.000 at step 3. 1 score far off stands at the edge."
    )
    assert "has 2.000 at step 2 and ends there." in search_label(found, {0: 1, 1: 2})


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_long_search_is_drawn_as_ranges_and_says_so(width: int) -> None:
    trace, text, score = long_trace()
    assert not is_drawn_in_full(steps_of(trace), width)
    svg = searched(trace, text, score, width)
    assert len(svg) < 16_000
    assert f"one bar for up to {3 if width == WIDE else 7} steps" in svg
    assert "2,000 candidates in 200 steps, 600 kept" in search_label(steps_of(trace), {})


def test_a_search_of_middle_length_has_a_bar_for_each_step_and_dots_on_the_way() -> None:
    trace, text, score = long_trace(60, 5, 1)
    svg = searched(trace, text, score)
    assert "one bar for a step" in svg
    assert len(circles(svg)) == 60
    bars = re.findall(r'<path d="(M[^"]*)" style="[^"]*--before', svg)
    assert bars[0].count("M") == 60


def test_twelve_steps_of_three_beams_are_drawn_in_full() -> None:
    assert is_drawn_in_full(steps_of(long_trace(12, 15)[0]), WIDE)


def test_hover_tells_the_texts_end_the_score_and_the_rewards() -> None:
    one = Candidate(text="a long text\n that ends here", score=-1.25, rewards={"words": 6.0})
    assert hover(one) == f"\N{HORIZONTAL ELLIPSIS}that ends here, {MINUS}1.250, words 6"
    same = Candidate(text="short", score=2.0, rewards={"words": 2.0})
    assert hover(same) == "short, 2.000"


def test_texts_are_escaped_and_what_cannot_be_shown_is_replaced() -> None:
    hostile = "<b>&\x00\ud800\x1b"
    trace = steps([entry(hostile, 1.0, kept=True)], [entry(hostile + "x", 2.0, kept=True)])
    svg = searched(trace, "", 2.0)
    assert "&lt;b&gt;&amp;" in svg
    assert "<b>" not in svg
    assert not re.search("[\x00-\x08\x1b\ud800]", svg)


def test_a_pool_piles_equal_scores_up_with_the_chosen_one_filled() -> None:
    svg = pooled(POOL, "one two three", 3.0)
    assert groups(svg) == {
        "fill:var(--page);stroke:var(--before)": 2,
        "fill:var(--accent);stroke:var(--accent)": 1,
    }
    (first, low, _), (second, high, _), (chosen, base, _) = circles(svg)
    assert first == second < chosen
    assert low - high == 9
    assert base == low


def test_a_large_pool_is_drawn_as_bars_whose_heights_are_its_counts() -> None:
    scores = np.repeat([0.0, 1.0, 2.0], [100, 200, 50])
    trace = steps([entry(f"t{n}", s, kept=n == 349) for n, s in enumerate(scores)])
    assert not is_piled_in_full(steps_of(trace)[0], WIDE)
    svg = pooled(trace, "t349", 2.0)
    assert "tallest bar: 200 candidates" in svg
    bars = re.findall(r'd="M \S+ (\S+) L \S+ \S+ L \S+ (\S+) [^"]*" style="[^"]*--hairline', svg)
    heights = [float(foot) - float(top) for foot, top in bars]
    assert [h / max(heights) for h in heights] == pytest.approx([0.5, 1.0, 0.25], abs=0.01)
    assert len(circles(svg)) == 1


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (1, "3 candidates, 1 kept; scores from 2.000 to 3.000. The one that was chosen has 3.000."),
        (0, "The one that was chosen has 2.000; 1 other has more; 1 other has the same."),
    ],
)
def test_a_pools_label_tells_where_the_chosen_one_stands(chosen: int, told: str) -> None:
    assert pool_label(steps_of(POOL)[0], {0: chosen}).endswith(told)


def test_a_pool_of_equals_or_of_one_is_drawn() -> None:
    for count in (1, 5):
        trace = steps([entry("x", 0.0, kept=n == 0) for n in range(count)])
        for width in (WIDE, NARROW):
            assert len(circles(pooled(trace, "x", 0.0, width))) == count
