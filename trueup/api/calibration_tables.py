"""Calibration curves as tables that fit 80 columns, for people."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from trueup.api.tables import number, plain_table

if TYPE_CHECKING:
    from trueup.calibration.curve import AtSize, Calibration
    from trueup.stats import Estimate

MOST = 2  # n side by side


def calibration_tables(curves: "Sequence[Calibration]") -> RenderableType:
    """Of each curve its verdict, its numbers at each n, and planted against measured."""
    parts: list[RenderableType] = []
    for curve in curves:
        parts += _curve(curve)
    return Group(*parts)


def _curve(curve: "Calibration") -> list[RenderableType]:
    """One curve."""
    name = Text(f"{curve.name}: ", style="bold")
    name.append(curve.verdict, style="green" if curve.verdict.startswith("trust") else "red")
    parts: list[RenderableType] = [name, Text(curve.facts.story), ""]
    for start in range(0, len(curve.at), MOST):
        parts += [_numbers(curve, curve.at[start : start + MOST]), ""]
    parts += [_points(curve), ""]
    if curve.facts.has_null:
        parts += [_smallest(curve), ""]
    return parts


def _numbers(curve: "Calibration", several: "Sequence[AtSize]") -> RenderableType:
    """The numbers at each n, a column each."""
    title = f"n {curve.facts.unit}, 99% intervals"
    table = plain_table(title, right=[f"n={each.n}" for each in several])
    level = curve.facts.level
    rows: list[tuple[str, Callable[[AtSize], Estimate | None]]] = [
        ("slope, ideal 1", lambda each: each.slope),
        ("bias, ideal 0", lambda each: each.bias),
        (f"coverage, {level:.0%} promised", lambda each: each.coverage),
        (f"false alarms, {1 - level:.0%} allowed", lambda each: each.false_alarms),
        ("draws without interval", lambda each: each.undefined),
    ]
    for name, of in rows:
        found = [of(each) for each in several]
        if any(one is not None for one in found):
            table.add_row(name, *("" if one is None else _short(one) for one in found))
    table.add_row("verdict", *(each.verdict for each in several))
    return table


def _short(row: "Estimate") -> Text:
    """A number and its interval in few characters."""
    low, high = (f"{bound:.3f}" for bound in (row.low, row.high))
    return Text(f"{row.value:.3f} [{low}, {high}]".replace("-0.000", "0.000"))


def _points(curve: "Calibration") -> RenderableType:
    """Planted against measured, with the audit's own interval, at each n."""
    power = ("power",) if curve.facts.has_null else ()
    table = plain_table("n", right=("planted", "measured", "mean interval", "coverage", *power))
    for each in curve.at:
        for point in each.points:
            is_null = point.planted == curve.facts.null
            table.add_row(
                str(each.n) if point is each.points[0] else "",
                number(point.planted),
                number(point.measured.value),
                Text(f"[{number(point.low)}, {number(point.high)}]"),
                f"{point.coverage.value:.2f}",
                *([] if point.alarms is None else ["" if is_null else f"{point.alarms.value:.2f}"]),
            )
    return table


def _smallest(curve: "Calibration") -> RenderableType:
    """The smallest lean that is found, at the n that a reader asks for."""
    from trueup.calibration.curve import ASKED, lean_text

    told = []
    for n in ASKED:
        lean, is_far = curve.smallest(n)
        far = " (extrapolated)" if is_far else ""
        told.append(f"{lean_text(lean, curve.farthest)} at n={n:,}{far}")
    return Text(f"smallest lean found with 80 % power: {', '.join(told)}")
