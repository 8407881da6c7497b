"""Estimates and comparisons as tables that fit 80 columns, for people."""

import io
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from trueup.audits.comparison import ComparisonRow
    from trueup.stats import Estimate

WIDTH = 80
COLOURS = {"improved": "green", "worse": "red", "no evidence": "dim"}


def estimate_tables(estimates: Iterable["Estimate"]) -> RenderableType:
    """One table per audit: every metric and slice with its interval, n and ideal."""
    parts: list[RenderableType] = []
    for audit, rows in groupby(estimates, key=lambda row: row.audit):
        table = plain_table(audit, "slice", right=("value", "interval", "n", "ideal"))
        metric = ""
        for row in rows:
            value, _, interval = row.numbers().partition(" ")
            shown = Text(row.metric if row.metric != metric else "", style="bold")
            ideal = "" if row.ideal is None else f"{row.ideal:g}"
            table.add_row(shown, Text(row.slice), value, Text(interval), str(row.n), ideal)
            metric = row.metric
        parts.append(table)
    return Group(*parts)


def comparison_tables(rows: Iterable["ComparisonRow"]) -> RenderableType:
    """One table per audit: before, after, the interval of the change, adjusted p, verdict.

    A metric's first row is that of all items; its slices stand below.
    """
    from trueup.stats import format_p

    parts: list[RenderableType] = []
    for audit, group in groupby(rows, key=lambda row: row.audit):
        numbers = ("before", "after", "change", "p", "n")
        table = plain_table(audit, right=numbers, left=("verdict",), gap=1)
        metric = ""
        for row in group:
            shown = Text(f"  {row.slice}") if row.metric == metric else Text(row.metric, "bold")
            metric = row.metric
            table.add_row(
                shown,
                number(row.before),
                number(row.after),
                Text(_interval(row.low, row.high)),
                format_p(row.p_adjusted).replace("< ", "<"),
                str(row.n_pairs),
                Text(row.verdict, style=COLOURS[row.verdict]),
            )
        parts.append(table)
    return Group(*parts)


def plain_table(
    *names: str, right: Sequence[str] = (), left: Sequence[str] = (), gap: int = 2
) -> Table:
    """An empty table without frames: columns of words, then of numbers, then of words."""
    table = Table(box=None, padding=(0, gap, 0, 0), header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold", min_width=6)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    for name in left:
        table.add_column(name, no_wrap=True)
    return table


def as_text(content: RenderableType, width: int = WIDTH) -> str:
    """The content as plain text without colour or trailing blanks."""
    file = io.StringIO()
    Console(file=file, width=width, color_system=None, force_terminal=False).print(content)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def number(value: float) -> str:
    """Three decimals, or three digits where decimals would hide the number."""
    if math.isnan(value):
        return "undefined"
    in_reach = value == 0 or 0.001 <= abs(value) < 10_000
    return f"{value:.3f}" if in_reach else f"{value:.3g}"


def _interval(low: float, high: float) -> str:
    """A change's bounds, signed."""
    if math.isnan(low) and math.isnan(high):
        return "[undefined]"
    return f"[{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    shown = number(value)
    return f"+{shown}" if value > 0 else shown
