"""The picture of a search: the score of every candidate over the steps, and what was kept."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trueup.report.drawing import Drawing, Scale, Tone
from trueup.report.pictures import NARROW, WIDE, axes
from trueup.report.search_trace import Candidate, Node, Step, Way, spans
from trueup.report.wording import number, plain_text, plural

HEIGHT = 236
LEFT, RIGHT, FOOT, TOP = 52, 10, 44, 26  # pixels around the picture
MOST_DOTS = {WIDE: 180, NARROW: 120}  # of one picture; beyond, ranges are drawn
NEAREST = 7  # pixels between steps; below, ranges are drawn
RANGE = 9  # pixels of a range of steps
APART = 7.2  # pixels between dots of one step, which stand side by side where they would overlap
MOST_LINE = 64  # dots on the chosen line among ranges
ENDING = 14  # characters of a candidate's text that are told on hover
ROUND = (1, 2, 5)


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A candidate in the picture."""

    x: float
    y: float
    candidate: Candidate
    is_chosen: bool


def is_drawn_in_full(steps: Sequence[Step], width: int) -> bool:
    """Whether every candidate has a dot; else there are ranges."""
    return sum(map(len, steps)) <= MOST_DOTS[width] and _pitch(len(steps), width) >= NEAREST


def search_picture(
    steps: Sequence[Step], chosen: Way, others: Sequence[Way], label: str, width: int
) -> str:
    """The scores of all candidates over the steps, the kept ones joined, the chosen way above.

    Where they are too many for dots, a thin bar is the range of what was considered in a step or
    several, a thick one that of what was kept.
    Edges: a candidate whose score is no finite number is not drawn; scores far off stand at the
           edge.
    """
    board = Drawing(width, HEIGHT)
    across, up = _across(len(steps), width), _up(steps)
    axes(board, across, up)
    board.text(0, 8, "score", size=11, tone="muted")
    board.text(width - RIGHT, HEIGHT - 8, "step", size=11, tone="muted", anchor="end")
    if is_drawn_in_full(steps, width):
        _draw_ways(board, across, up, steps, chosen, others)
    else:
        _draw_ranges(board, across, up, steps, chosen)
    return board.svg(label)


def search_label(steps: Sequence[Step], chosen: Way) -> str:
    """What the picture shows, in words and numbers."""
    every = [candidate for step in steps for candidate in step]
    scores = [candidate.score for candidate in every if candidate.is_known]
    said = f"{plural(len(every), 'candidate')} in {plural(len(steps), 'step')}"
    said += f", {sum(candidate.is_kept for candidate in every):,} kept"
    if scores:
        said += f"; scores from {number(min(scores))} to {number(max(scores))}"
    if chosen:
        end = max(chosen)
        ended = " and ends there" if end + 1 < len(steps) else ""
        said += f". The one that was chosen has {number(steps[end][chosen[end]].score)}"
        said += f" at step {end + 1:,}{ended}"
    up = _up(steps)
    off = sum(up.clip(score)[1] for score in scores)
    if off:
        said += f". {plural(off, 'score')} far off {'stands' if off == 1 else 'stand'} at the edge"
    return said + "."


def hover(candidate: Candidate) -> str:
    """How a candidate is told on hover: the ending of its text, its score and its rewards."""
    text = " ".join(candidate.text.split())
    ending = text if len(text) <= ENDING else "\N{HORIZONTAL ELLIPSIS}" + text[-ENDING:].lstrip()
    told = [ending, number(candidate.score)]
    if list(candidate.rewards.values()) != [candidate.score]:
        told += [
            f"{plain_text(name, ENDING)} {value:.4g}" for name, value in candidate.rewards.items()
        ]
    return ", ".join(told)


def draw_dots(board: Drawing, dots: Sequence[Dot]) -> None:
    """Rings for what was dropped, discs for what was kept, the chosen ones above all.

    On a narrow board, which is a phone's, nothing is told on hover.
    """
    looks: Sequence[tuple[bool, bool, Tone, float]] = (
        (False, False, "before", 2.8),
        (True, False, "before", 3.0),
        (True, True, "accent", 3.6),
    )
    for is_kept, is_chosen, tone, radius in looks:
        alike = [
            dot
            for dot in dots
            if dot.is_chosen == is_chosen and (is_chosen or dot.candidate.is_kept == is_kept)
        ]
        if alike:
            titles = [hover(dot.candidate) for dot in alike] if board.width >= WIDE else []
            points = [(dot.x, dot.y) for dot in alike]
            board.dots(points, titles, tone=tone, radius=radius, hollow=not is_kept)


def _up(steps: Sequence[Step]) -> Scale:
    """The scores from the foot upwards: of what was kept, and of the rest as much as has room."""
    known = [candidate for step in steps for candidate in step if candidate.is_known]
    kept = [candidate.score for candidate in known if candidate.is_kept]
    every = [candidate.score for candidate in known]
    return Scale(kept or every, every, HEIGHT - FOOT, TOP, ticks=5)


def _across(n_steps: int, width: int) -> Scale:
    """The steps from left to right, counted from 1."""
    scale = Scale([1.0, float(n_steps)], [], LEFT, width - RIGHT)
    scale.low, scale.high = 0.5, n_steps + 0.5
    most = 12 if width >= WIDE else 6
    sizes = (unit * 10**power for power in range(12) for unit in ROUND)
    size = next(size for size in sizes if n_steps / size <= most)
    scale.ticks = [float(tick) for tick in range(size, n_steps + 1, size)]
    return scale


def _pitch(n_steps: int, width: int) -> float:
    """The pixels from one step to the next."""
    return (width - LEFT - RIGHT) / n_steps


def _draw_ways(
    board: Drawing,
    across: Scale,
    up: Scale,
    steps: Sequence[Step],
    chosen: Way,
    others: Sequence[Way],
) -> None:
    """A dot for every candidate, and lines between those that were kept."""
    dots: dict[Node, Dot] = {}
    room = _pitch(len(steps), int(board.width)) / 2 - APART
    for number_of, step in enumerate(steps):
        own = chosen.get(number_of)
        order = _order(step, own)
        heights = [up.clip(step[place].score)[0] for place in order]
        for place, y, side in zip(order, heights, _sides(heights, room), strict=True):
            x = across(number_of + 1) + side
            dots[number_of, place] = Dot(x=x, y=y, candidate=step[place], is_chosen=place == own)
    for way in others:
        _draw_way(board, [dots[node] for node in way.items() if node in dots], "before", 1.2)
    _draw_way(board, [dots[node] for node in chosen.items() if node in dots], "accent", 2)
    draw_dots(board, list(dots.values()))


def _order(step: Step, own: int | None) -> list[int]:
    """The places of the candidates that are drawn: the chosen one, the kept ones, the others."""
    known = [place for place, candidate in enumerate(step) if candidate.is_known]
    return sorted(known, key=lambda place: (place != own, not step[place].is_kept))


def _draw_way(board: Drawing, dots: Sequence[Dot], tone: Tone, width: float) -> None:
    """A line from dot to dot."""
    board.line([dot.x for dot in dots], [dot.y for dot in dots], tone=tone, width=width)


def _sides(heights: Sequence[float], room: float) -> list[float]:
    """How far each dot of a step stands aside, so that it hides none that came before it."""
    shifts = [0.0]
    for n in range(1, int(max(room, 0) / APART) + 1):
        shifts += [APART * n, -APART * n]
    placed: list[tuple[float, float]] = []
    for y in heights:
        free = (
            side
            for side in shifts
            if all(math.dist((side, y), dot) >= 0.99 * APART for dot in placed)
        )
        placed.append((next(free, 0.0), y))
    return [side for side, _ in placed]


def _draw_ranges(
    board: Drawing, across: Scale, up: Scale, steps: Sequence[Step], chosen: Way
) -> None:
    """Bars for what was considered and kept in each step, or in several, and the chosen line."""
    parts = spans(len(steps), int(board.width - LEFT - RIGHT) // RANGE)
    for is_kept, width in ((False, 1.2), (True, 4.0)):
        xs: list[float] = []
        ys: list[float] = []
        for start, end in parts:
            heights = [
                up.clip(candidate.score)[0]
                for step in steps[start:end]
                for candidate in step
                if candidate.is_known and (candidate.is_kept or not is_kept)
            ]
            if heights:
                xs += [across((start + 1 + end) / 2)] * 2 + [math.nan]
                ys += [min(heights), max(heights), math.nan]
        board.line(xs, ys, tone="before", width=width)
    most = max(end - start for start, end in parts)
    held = "a step" if most == 1 else f"up to {plural(most, 'step')}"
    board.text(board.width - RIGHT, 8, f"one bar for {held}", size=11, tone="muted", anchor="end")
    dots = list(_line_dots(across, up, steps, chosen, parts))
    _draw_way(board, dots, "accent", 2)
    if len(dots) <= MOST_LINE:
        draw_dots(board, dots)


def _line_dots(
    across: Scale,
    up: Scale,
    steps: Sequence[Step],
    chosen: Way,
    parts: Sequence[tuple[int, int]],
) -> Iterator[Dot]:
    """The last candidate of the chosen way in each range of steps."""
    for start, end in parts:
        on_way = [step for step in range(start, end) if step in chosen]
        last = steps[on_way[-1]][chosen[on_way[-1]]] if on_way else None
        if last is not None and last.is_known:
            x, y = across((start + 1 + end) / 2), up.clip(last.score)[0]
            yield Dot(x=x, y=y, candidate=last, is_chosen=True)
