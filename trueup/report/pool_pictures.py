"""The picture of a pool: whole completions along their scores, and which of them was chosen."""

from trueup.report.drawing import Drawing, Scale
from trueup.report.pictures import WIDE
from trueup.report.search_pictures import MOST_DOTS, Dot, draw_dots
from trueup.report.search_trace import Step, Way
from trueup.report.wording import number, plural

SIDE, FOOT, TOP = 10, 44, 26  # pixels around the picture
DOT = 9  # pixels of a dot in a pile
TALLEST = 16  # dots that are piled up; beyond, bars are drawn


def is_piled_in_full(pool: Step, width: int) -> bool:
    """Whether every candidate has a dot; else there are bars."""
    tallest = max(map(len, _piles(pool, _along(pool, width))))
    return len(pool) <= MOST_DOTS[width] and tallest <= TALLEST


def pool_picture(pool: Step, chosen: Way, label: str, width: int) -> str:
    """The candidates along their scores, equal ones piled up, the chosen one lowest.

    Where they are too many for dots, bars tell how many there are, and dots which were kept.
    Edges: a candidate whose score is no finite number is not drawn.
    """
    is_full = is_piled_in_full(pool, width)
    scale = _along(pool, width)
    piles = _piles(pool, scale)
    tallest = max(map(len, piles))
    unit = DOT if is_full else DOT * TALLEST / tallest
    base = TOP + unit * tallest
    board = Drawing(width, base + FOOT)
    board.line([scale.left, scale.right], [base, base], tone="before")
    for tick in scale.ticks:
        board.line([scale(tick)] * 2, [base, base + 4], tone="before")
        board.text(scale(tick), base + 15, scale.tick_text(tick), size=11, anchor="middle",
                   tone="muted")  # fmt: skip
    board.text(width - SIDE, base + FOOT - 8, "score", size=11, tone="muted", anchor="end")
    if not is_full:
        board.text(0, 8, f"tallest bar: {plural(tallest, 'candidate')}", size=11, tone="muted")
    dots: list[Dot] = []
    for pile in piles:
        middle = sum(scale(pool[place].score) for place in pile) / len(pile)
        if not is_full:
            left, right = middle - DOT / 2 + 1, middle + DOT / 2 - 1
            top = base - unit * len(pile)
            corners = [(left, base), (right, base), (right, top), (left, top)]
            board.shape(corners, tone="hairline", hollow=False)
        order = sorted(pile, key=lambda place: (place != chosen.get(0), not pool[place].is_kept))
        dots += [
            Dot(
                x=middle,
                y=base - DOT * (height + 0.5) - 1,
                candidate=pool[place],
                is_chosen=place == chosen.get(0),
            )
            for height, place in enumerate(order)
            if is_full or (pool[place].is_kept and height < TALLEST)
        ]
    draw_dots(board, dots)
    return board.svg(label)


def pool_label(pool: Step, chosen: Way) -> str:
    """What the picture shows, in words and numbers."""
    scores = [candidate.score for candidate in pool if candidate.is_known]
    said = f"{plural(len(pool), 'candidate')}, {sum(each.is_kept for each in pool):,} kept"
    if scores:
        said += f"; scores from {number(min(scores))} to {number(max(scores))}"
    if not chosen:
        return said + "."
    score = pool[chosen[0]].score
    better = sum(other > score for other in scores)
    equal = sum(other == score for other in scores) - 1
    said += f". The one that was chosen has {number(score)}"
    said += f"; {plural(better, 'other')} {'has' if better == 1 else 'have'} more" * (better > 0)
    said += f"; {plural(equal, 'other')} {'has' if equal == 1 else 'have'} the same" * (equal > 0)
    return said + "."


def _along(pool: Step, width: int) -> Scale:
    """The scores from left to right."""
    scores = [candidate.score for candidate in pool if candidate.is_known]
    return Scale(scores, [], SIDE, width - SIDE, ticks=6 if width >= WIDE else 4)


def _piles(pool: Step, scale: Scale) -> list[list[int]]:
    """The places of the candidates that fall on one spot, from left to right."""
    piles: dict[int, list[int]] = {}
    for place, candidate in enumerate(pool):
        if candidate.is_known:
            piles.setdefault(round(scale(candidate.score) / DOT), []).append(place)
    return [piles[spot] for spot in sorted(piles)]
