"""The report's pictures: estimates on a scale, changes as arrows, training as curves.

Every picture is made for two widths; the style sheet shows the one that fits, so that its text is
as large on a phone as on a desk.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trueup.report.drawing import Drawing, Scale, Tone
from trueup.report.wording import bounds, count, is_number, number, plural, value_of

if TYPE_CHECKING:
    import pandas as pd

WIDE, NARROW = 760, 350
LABEL_WIDTH, VALUE_WIDTH = 178, 214  # of a wide picture's columns
VERDICT_WIDTH = 76
AXIS_HEIGHT = 34
ARROW_TONES: dict[str, Tone] = {"improved": "accent", "worse": "bad", "no evidence": "before"}
MOST_POINTS = 400  # of a curve; more are averaged in bins
SMOOTHED = 20  # a smoothed point holds its neighbours within 1/20 of the curve, on either side


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One line of a picture: an estimate of a slice, perhaps with the one before and the truth."""

    label: str
    row: Mapping[str, Any]
    before: Mapping[str, Any] | None = None
    planted: float | None = None

    def rows(self) -> list[Mapping[str, Any]]:
        """The estimates to draw, the earlier one first."""
        return [self.row] if self.before is None else [self.before, self.row]


def forest(marks: Sequence[Mark], ideal: float | None, label: str, width: int) -> str:
    """Each slice's value with its interval on one scale, the ideal as a line.

    Edges: an interval that would squeeze the rest ends in an arrow head at the edge; an undefined
           one is left out of the drawing and said in the text.
    """
    is_wide = width >= WIDE
    heights = [_mark_height(mark, is_wide) for mark in marks]
    board = Drawing(width, sum(heights) + AXIS_HEIGHT + 8)
    rows = [row for mark in marks for row in mark.rows()]
    truths = [mark.planted for mark in marks if mark.planted is not None]
    values = [float(row["value"]) for row in rows]
    ends = [float(row[key]) for row in rows for key in ("low", "high")]
    scale = _scale(width, values + truths, ends, ideal, VALUE_WIDTH)
    tops = [8.0 + sum(heights[:index]) for index in range(len(heights))]
    bands = [
        (top + 4 + 16 * len(mark.rows()), top + height - 8)
        for mark, top, height in zip(marks, tops, heights, strict=True)
    ]
    _grid(board, scale, ideal, [(4, board.height - AXIS_HEIGHT + 4)] if is_wide else bands)
    for mark, top, height in zip(marks, tops, heights, strict=True):
        _draw_mark(board, scale, mark, top, height, is_wide)
    return board.svg(label)


def arrows(
    rows: Sequence[Mapping[str, Any]],
    ideal: float | None,
    planted: Mapping[str, float],
    label: str,
    width: int,
) -> str:
    """Each slice's way from before to after on one scale, with the change and its interval."""
    is_wide = width >= WIDE
    height = 30 if is_wide else 50
    board = Drawing(width, height * len(rows) + AXIS_HEIGHT + 8)
    values = [float(row[key]) for row in rows for key in ("before", "after")]
    shown = [planted[row["slice"]] for row in rows if row["slice"] in planted]
    scale = _scale(width, values + shown, [], ideal, VALUE_WIDTH + VERDICT_WIDTH)
    tops = [8.0 + height * index for index in range(len(rows))]
    bands = [(top + 22, top + height - 3) for top in tops]
    _grid(board, scale, ideal, [(4, board.height - AXIS_HEIGHT + 4)] if is_wide else bands)
    for top, row in zip(tops, rows, strict=True):
        middle = top + height / 2 if is_wide else top + 35
        text_y = middle if is_wide else top + 12
        board.text(0, text_y, _short(str(row["slice"]), 27 if is_wide else 20), kind="label")
        change = f"{number(row['delta'], signed=True)} "
        change += bounds(row["low"], row["high"], row["n_pairs"], signed=True)
        board.text(width, text_y, change, anchor="end", size=12, kind="figures")
        tone = ARROW_TONES.get(row["verdict"], "before")
        if is_wide:
            left = width - VALUE_WIDTH - VERDICT_WIDTH + 20
            word_tone: Tone = "muted" if tone == "before" else tone
            board.text(left, text_y, row["verdict"], size=12, tone=word_tone)
        if row["slice"] in planted:
            _draw_truth(board, scale(planted[row["slice"]]), middle - 10, middle + 10)
        _draw_arrow(board, scale, row, middle, tone)
    return board.svg(label)


def curves(steps: "pd.DataFrame", column: str, label: str, width: int) -> str:
    """One signal of the training over its steps, averaged in bins where there are many."""
    height = 150
    board = Drawing(width, height)
    xs, ys = _points(steps, column)
    across = Scale(xs, [], 46, width - 8, ticks=4)
    across.low, across.high = min(xs), max(max(xs), min(xs) + 1)
    across.ticks = [tick for tick in across.ticks if across.low <= tick <= across.high]
    up = Scale(ys, [], height - 26, 10, ticks=3)
    axes(board, across, up)
    px, py = [across(x) for x in xs], [up.clip(y)[0] for y in ys]
    if len(xs) >= 2 * SMOOTHED:
        board.line(px, py, tone="before", width=0.7)
        py = _smoothed(py)
    board.line(px, py, tone="accent", width=1.8)
    if len(xs) == 1:
        board.dot(across(xs[0]), up(ys[0]), tone="accent", hollow=False)
    return board.svg(label)


def axes(board: Drawing, across: Scale, up: Scale) -> None:
    """The ticks of two scales at the left and at the foot, and hairlines across the picture."""
    for tick in up.ticks:
        board.line([across.left, across.right], [up(tick)] * 2, tone="hairline")
        board.text(across.left - 6, up(tick), up.tick_text(tick), anchor="end", size=11,
                   tone="muted")  # fmt: skip
    for tick in across.ticks:
        board.text(across(tick), up.left + 16, across.tick_text(tick), size=11, anchor="middle",
                   tone="muted")  # fmt: skip


def forest_label(name: str, marks: Sequence[Mark], ideal: float | None) -> str:
    """What the picture shows, spoken."""
    first = marks[0].row
    said = f"{name}: {plural(len(marks), 'slice')}, each with its interval"
    said += f"; ideal {number(ideal)}" if is_number(ideal) else ""
    interval = bounds(first["low"], first["high"], first["n"])
    return f"{said}. {marks[0].label} is {number(first['value'])} {interval}. All numbers follow."


def arrows_label(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What the picture shows, spoken."""
    first = rows[0]
    way = f"from {number(first['before'])} to {number(first['after'])}"
    return f"{name}: change per slice. {first['slice']} went {way}. All numbers follow."


def _scale(
    width: int, must: list[float], may: list[float], ideal: float | None, beside: float
) -> Scale:
    """The scale between a wide picture's label and value columns; all of a narrow picture."""
    goal = [float(ideal)] if ideal is not None and is_number(ideal) else []
    if width >= WIDE:
        return Scale(must + goal, may, LABEL_WIDTH + 12, width - beside - 16, ticks=5)
    return Scale(must + goal, may, 8, width - 8, ticks=4)


def _mark_height(mark: Mark, is_wide: bool) -> float:
    """The height of one line; a narrow picture has the numbers above the marks."""
    lines = len(mark.rows())
    return 16 + 18 * lines if is_wide else 22 + 30 * lines


def _grid(
    board: Drawing, scale: Scale, ideal: float | None, bands: Sequence[tuple[float, float]]
) -> None:
    """Ticks along the foot, and in every band hairlines and the ideal, away from the texts."""
    foot = board.height - AXIS_HEIGHT + 4
    for tick in scale.ticks:
        board.text(scale(tick), foot + 13, scale.tick_text(tick), size=11, anchor="middle",
                   tone="muted")  # fmt: skip
    for top, bottom in bands:
        for tick in scale.ticks:
            board.line([scale(tick)] * 2, [top, bottom], tone="hairline")
        if ideal is not None and is_number(ideal):
            x = scale.clip(ideal)[0]
            board.line([x, x], [top, bottom], tone="ink", width=1.2, dashed=True)


def _draw_mark(
    board: Drawing, scale: Scale, mark: Mark, top: float, height: float, is_wide: bool
) -> None:
    """One slice: its name, its interval or two, and its numbers."""
    rows = mark.rows()
    label_y = top + height / 2 if is_wide else top + 12
    board.text(0, label_y, _short(mark.label, 27 if is_wide else 20), kind="label")
    step = 18 if is_wide else 14
    first = top + 17 if is_wide else top + 18 + 16 * len(rows)
    if mark.planted is not None:
        last = first + step * (len(rows) - 1)
        _draw_truth(board, scale(mark.planted), first - 9, last + 9)
    for index, row in enumerate(rows):
        is_old = mark.before is not None and index == 0
        middle = first + step * index
        numbers = f"{value_of(row)} {bounds(row['low'], row['high'], row['n'])}"
        if is_number(row["low"]) or is_number(row["high"]):
            numbers += f" n={count(row['n'])}"
        board.text(board.width, middle if is_wide else top + 12 + 16 * index, numbers,
                   anchor="end", size=12, tone="muted" if is_old else "ink",
                   kind="figures")  # fmt: skip
        _draw_interval(board, scale, row, middle, "before" if is_old else "accent", is_old)


def _draw_interval(
    board: Drawing, scale: Scale, row: Mapping[str, Any], y: float, tone: Tone, hollow: bool
) -> None:
    """The interval as a bar with arrow heads where it goes on, and the value as a dot."""
    if is_number(row["low"]) and is_number(row["high"]):
        (left, goes_left), (right, goes_right) = scale.clip(row["low"]), scale.clip(row["high"])
        board.line([left, right], [y, y], tone=tone, width=2.4)
        for x, goes_on, way in ((left, goes_left, 1), (right, goes_right, -1)):
            if goes_on:
                board.shape([(x, y), (x + 6 * way, y - 4), (x + 6 * way, y + 4)], tone=tone,
                            hollow=False)  # fmt: skip
    if is_number(row["value"]):
        board.dot(scale.clip(row["value"])[0], y, tone=tone, hollow=hollow)


def _draw_arrow(board: Drawing, scale: Scale, row: Mapping[str, Any], y: float, tone: Tone) -> None:
    """A ring for before, a disc for after, and the way between."""
    if not is_number(row["before"]) or not is_number(row["after"]):
        return
    start, end = scale.clip(row["before"])[0], scale.clip(row["after"])[0]
    if abs(end - start) > 24:
        way = math.copysign(1.0, end - start)
        tip = end - 6 * way
        board.line([start, tip - 3 * way], [y, y], tone=tone, width=1.6)
        board.shape([(tip, y), (tip - 7 * way, y - 4), (tip - 7 * way, y + 4)], tone=tone,
                    hollow=False)  # fmt: skip
    elif start != end:
        board.line([start, end], [y, y], tone=tone, width=1.6)
    board.dot(start, y, tone="before", hollow=True)
    board.dot(end, y, tone=tone, hollow=False)


def _draw_truth(board: Drawing, x: float, top: float, bottom: float) -> None:
    """The planted truth, behind what was measured."""
    board.line([x, x], [top, bottom], tone="ink", width=3)


def _short(text: str, longest: int) -> str:
    """The text, cut in its middle where its column is too narrow."""
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    head = longest // 2
    return text[:head].rstrip() + "\N{HORIZONTAL ELLIPSIS}" + text[-(longest - head - 1) :].lstrip()


def _smoothed(values: list[float]) -> list[float]:
    """The mean of each value and its neighbours, fewer of them at the ends."""
    reach = max(1, len(values) // SMOOTHED)
    near = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in near]


def _points(steps: "pd.DataFrame", column: str) -> tuple[list[float], list[float]]:
    """The steps that have a number, averaged in at most `MOST_POINTS` bins."""
    import numpy as np

    table = steps[["step", column]].to_numpy(dtype=np.float64)
    table = table[np.isfinite(table).all(axis=1)]
    bins = np.array_split(table, min(MOST_POINTS, len(table)))
    means = np.array([part.mean(axis=0) for part in bins])
    return means[:, 0].tolist(), means[:, 1].tolist()
