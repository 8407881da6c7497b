"""What the demo found, as JSON and as a table of 80 columns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueup.demo.guards import Guard
from trueup.stats import Estimate

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True, kw_only=True)
class Line:
    """One job, or all jobs of a kind, before and after."""

    name: str
    planted: float
    corpus: float
    before: Estimate
    after: Estimate
    verdict: str


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The demo's numbers; leans are mean P(he | job) - 1/2 over the leaning jobs.

    Fields: corrected is false where the audit found nothing worth correcting; after then repeats
            before, and there are no guards.
    """

    planted: float
    corpus: float
    before: Estimate
    after: Estimate
    verdict: str
    guards: Sequence[Guard]
    lines: Sequence[Line]
    corrected: bool
    report: Path
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The object that `trueup demo --json` prints."""
        return {
            "planted": self.planted,
            "corpus": self.corpus,
            "before": _bounds(self.before),
            "after": _bounds(self.after),
            "verdict": self.verdict,
            "corrected": self.corrected,
            "guards": [guard.as_dict() for guard in self.guards],
            "report": str(self.report),
            "seconds": round(self.seconds, 1),
        }

    def table(self) -> "Group":
        """What the command prints, for rich."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        table.add_column("jobs")
        for heading in ("planted", "corpus", "before", "after"):
            table.add_column(heading, justify="right")
        table.add_column("verdict")
        for line in self.lines:
            style = "bold" if line.name.endswith("jobs") else ""
            table.add_row(
                line.name,
                _short(line.planted),
                _short(line.corpus),
                _interval(line.before),
                _interval(line.after) if self.corrected else "-",
                line.verdict,
                style=style,
            )
        parts: list[Any] = [
            Text("lean = P(he | job) - 1/2, with 95 % intervals", style="dim"),
            table,
        ]
        parts += [Text(""), *map(_guard_text, self.guards)] if self.guards else []
        return Group(*parts, Text(""), Text(self.sentence()))

    def sentence(self) -> str:
        """The result in one line."""
        if not self.corrected:
            return (
                f"No lean worth correcting was found ({self.before.value:+.3f}); "
                "nothing was changed."
            )
        removed = 1 - abs(self.after.value) / abs(self.before.value)
        tripped = [guard.name for guard in self.guards if guard.tripped]
        guards = f"tripped: {', '.join(tripped)}" if tripped else "no guard tripped"
        return (
            f"Lean {self.before.value:+.3f} -> {self.after.value:+.3f} "
            f"({removed:.0%} removed), {self.verdict}; {guards}."
        )


def _bounds(estimate: Estimate) -> dict[str, float | None]:
    """Value and interval; an undefined bound is null."""
    numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def _interval(estimate: Estimate) -> str:
    """Value and interval, short."""
    low, value, high = map(_short, (estimate.low, estimate.value, estimate.high))
    return f"{value} [{low},{high}]"


def _short(number: float) -> str:
    """Three decimals without the leading zero."""
    return f"{number:+.3f}".replace("0.", ".", 1)


def _guard_text(guard: Guard) -> str:
    """One guard in one line."""
    state = "TRIPPED" if guard.tripped else "ok"
    interval = f"{guard.value:+.3f} [{guard.low:+.3f}, {guard.high:+.3f}]"
    return f"{state:<8}{guard.name:<20}{interval:<25}{guard.unit}"
