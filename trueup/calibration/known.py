"""The table of measured calibrations that the package holds: which metric to trust for what."""

import csv
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, cast

from trueup.calibration.curve import Calibration, scaled
from trueup.calibration.verdicts import Word, overall
from trueup.files import replacing

TABLE = Path(__file__).parent / "table.csv"  # written by scripts/calibration_table.py


@dataclass(frozen=True, kw_only=True)
class Known:
    """One metric at one n, as one row of the table; shares and slopes with their 99 % bounds."""

    audit: str
    metric: str
    unit: str
    kind: str
    level: float
    null: float
    farthest: float
    n: int
    draws: int
    slope: float
    slope_low: float
    slope_high: float
    bias: float
    bias_low: float
    bias_high: float
    coverage: float
    coverage_low: float
    coverage_high: float
    false_alarms: float
    false_alarms_low: float
    false_alarms_high: float
    undefined: float
    smallest: float
    verdict: Word


@dataclass(frozen=True)
class KnownMetric:
    """One metric at every n of the table."""

    rows: tuple[Known, ...]

    @property
    def audit(self) -> str:
        """The audit's name."""
        return self.rows[0].audit

    @property
    def name(self) -> str:
        """Audit and metric."""
        return f"{self.audit}.{self.rows[0].metric}"

    @property
    def verdict(self) -> str:
        """The verdict over all n."""
        return overall([(row.n, row.verdict) for row in self.rows])

    def smallest(self, n: int) -> tuple[float, bool]:
        """The smallest lean that is found at n, and whether it was extrapolated."""
        return scaled({row.n: row.smallest for row in self.rows}, n)


def known_metrics(table: Path | None = None) -> list[KnownMetric]:
    """All metrics of the table in its order; none where there is no table."""
    groups: dict[tuple[str, str], list[Known]] = {}
    for row in _read(table or TABLE):
        groups.setdefault((row.audit, row.metric), []).append(row)
    return [KnownMetric(tuple(rows)) for rows in groups.values()]


def warnings_of(audits: Collection[str], table: Path | None = None) -> list[str]:
    """What a report of these audits owes its reader: where the curve says that a number fails.

    A sentence for each n of a metric whose verdict is not trust: false alarms and flat curves
    above all.
    """
    return [
        f"{metric.name} was calibrated on planted leans: "
        + "; ".join(_told(row) for row in metric.rows if row.verdict != "trust")
        + "."
        for metric in known_metrics(table)
        if metric.audit in audits and any(row.verdict != "trust" for row in metric.rows)
    ]


def facts_of(audit: str, table: Path | None = None) -> list[str]:
    """The verdict on each calibrated metric of an audit, with its numbers at the largest n."""
    found = []
    for metric in known_metrics(table):
        if metric.audit == audit:
            last = metric.rows[-1]
            alarms = "" if math.isnan(last.null) else f", false alarms {last.false_alarms:.1%}"
            found.append(
                f"calibration of `{last.metric}`: {metric.verdict}; at n={last.n} slope "
                f"{last.slope:.2f}, coverage {last.coverage:.0%}{alarms}"
            )
    return found


def rows_of(calibration: Calibration) -> list[Known]:
    """A calibration as rows of the table."""
    facts, nan = calibration.facts, math.nan
    return [
        Known(
            audit=facts.audit,
            metric=facts.metric,
            unit=facts.unit,
            kind=facts.kind,
            level=facts.level,
            null=facts.null,
            farthest=calibration.farthest,
            n=each.n,
            draws=sum(point.draws for point in each.points),
            slope=each.slope.value,
            slope_low=each.slope.low,
            slope_high=each.slope.high,
            bias=each.bias.value,
            bias_low=each.bias.low,
            bias_high=each.bias.high,
            coverage=each.coverage.value,
            coverage_low=each.coverage.low,
            coverage_high=each.coverage.high,
            false_alarms=each.false_alarms.value if each.false_alarms else nan,
            false_alarms_low=each.false_alarms.low if each.false_alarms else nan,
            false_alarms_high=each.false_alarms.high if each.false_alarms else nan,
            undefined=each.undefined.value,
            smallest=each.smallest,
            verdict=each.verdict,
        )
        for each in calibration.at
    ]


def write_rows(rows: Iterable[Known], table: Path = TABLE) -> None:
    """Write the table, numbers to five digits."""
    with replacing(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Known)])
        writer.writerows([_cell(value) for value in astuple(row)] for row in rows)


def _told(row: Known) -> str:
    """What fails at one n, in numbers."""
    said: dict[str, str] = {
        "false alarms": f"without a lean its interval excludes the null in {row.false_alarms:.0%} "
        f"of draws [{row.false_alarms_low:.0%}, {row.false_alarms_high:.0%}], where "
        f"{1 - row.level:.0%} are allowed",
        "flat": f"the curve is flat, slope {row.slope:.2f} [{row.slope_low:.2f}, "
        f"{row.slope_high:.2f}]",
        "overstates": f"it overstates the lean, slope {row.slope:.2f}, bias {row.bias:+.3g}",
        "understates": f"it understates the lean, slope {row.slope:.2f}, bias {row.bias:+.3g}",
        "poor intervals": f"its interval holds the planted lean in {row.coverage:.0%} of draws, "
        f"where {row.level:.0%} are promised, and is missing in {row.undefined:.0%}",
    }
    return f"at n={row.n}, {said.get(row.verdict, row.verdict)}"


def _read(table: Path) -> Sequence[Known]:
    """The rows of a table; none where it is not there."""
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return [_parsed(row) for row in csv.DictReader(file)]


def _parsed(row: dict[str, str]) -> Known:
    """One row with its numbers."""
    kinds: dict[Any, Any] = {float: float, int: int}
    values = {field.name: kinds.get(field.type, str)(row[field.name]) for field in fields(Known)}
    return Known(**cast(Any, values))


def _cell(value: Any) -> str:
    """A number to five digits, a text as it is."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
