"""The pictures of a calibration: planted against measured, and power over the planted size."""

from typing import TYPE_CHECKING

from trueup.report.drawing import Drawing, Scale, Tone
from trueup.report.pictures import NARROW, axes
from trueup.report.wording import count, is_number, number, plural

if TYPE_CHECKING:
    from trueup.calibration.curve import AtSize, Calibration

HEIGHT = 264
LEFT, RIGHT, FOOT, TOP = 52, 12, 44, 22  # pixels around the picture
ENOUGH = 0.8  # the power that a study is planned for


def measured_picture(curve: "Calibration", each: "AtSize") -> str:
    """The mean measured value of each planted size, with the audit's mean interval, at one n.

    A metric that measures what was planted stands on the dashed diagonal.
    """
    board = Drawing(NARROW, HEIGHT)
    across, up = _scales(curve)
    axes(board, across, up)
    ends = [max(across.low, up.low), min(across.high, up.high)]
    board.line([across(x) for x in ends], [up(y) for y in ends], tone="ink", dashed=True)
    for point in each.points:
        x = across(point.planted)
        if is_number(point.low) and is_number(point.high):
            bottom, top = up.clip(point.low)[0], up.clip(point.high)[0]
            board.line([x, x], [bottom, top], tone="accent", width=2.4)
        if is_number(point.measured.value):
            board.dot(x, up.clip(point.measured.value)[0], tone="accent", hollow=False)
    _named(board, "measured", "planted")
    said = "; ".join(
        f"{number(point.planted)} planted, {number(point.measured.value)} measured"
        for point in each.points
    )
    return board.svg(f"{curve.name} at n={count(each.n)}: {said}.")


def power_picture(curve: "Calibration") -> str:
    """How often the interval excludes the null, over the planted size, a line for each n."""
    board = Drawing(NARROW, HEIGHT)
    across, _ = _scales(curve)
    up = Scale([0.0, 1.0], [], HEIGHT - FOOT, TOP, ticks=5)
    up.ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    axes(board, across, up)
    left, right = across.left, across.right
    board.line([left, right], [up(ENOUGH)] * 2, tone="ink", dashed=True)
    allowed = 1 - curve.facts.level
    board.line([left, right], [up(allowed)] * 2, tone="ink", dashed=True)
    for each in curve.at:
        tone: Tone = "accent" if each is curve.at[-1] else "before"
        known = [(p.planted, p.alarms.value) for p in each.points if p.alarms is not None]
        xs, ys = [across(x) for x, _ in known], [up(y) for _, y in known]
        board.line(xs, ys, tone=tone, width=1.8)
        for x, y in zip(xs, ys, strict=True):
            board.dot(x, y, tone=tone, radius=3.5, hollow=each is not curve.at[-1])
    _named(board, "share of draws that exclude the null", "planted")
    sizes = " and ".join(f"n={count(each.n)}" for each in curve.at)
    return board.svg(f"Power of {curve.name} at {sizes}, for {_sizes(curve)}.")


def _sizes(curve: "Calibration") -> str:
    """How many sizes were planted."""
    return plural(len(curve.at[-1].points), "planted size")


def _scales(curve: "Calibration") -> tuple[Scale, Scale]:
    """Planted sizes across and measured ones up, the same at every n."""
    points = [point for each in curve.at for point in each.points]
    planted = [point.planted for point in points]
    values = [point.measured.value for point in points if is_number(point.measured.value)]
    ends = [end for point in points for end in (point.low, point.high) if is_number(end)]
    across = Scale(planted, [], LEFT, NARROW - RIGHT, ticks=5)
    return across, Scale(planted + values, ends, HEIGHT - FOOT, TOP, ticks=5)


def _named(board: Drawing, up: str, across: str) -> None:
    """The names of both axes."""
    board.text(0, 8, up, size=11, tone="muted")
    board.text(board.width - RIGHT, HEIGHT - 8, across, size=11, tone="muted", anchor="end")
