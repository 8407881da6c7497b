"""The calibration curve of one metric: what a sweep of planted leans has shown, n by n."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from trueup.calibration.verdicts import Word, overall
from trueup.files import plain
from trueup.stats import Estimate

if TYPE_CHECKING:
    from trueup.calibration.protocol import CalibrationWorld

ASKED = (100, 1000, 10_000)  # the n at which the smallest lean is told


@dataclass(frozen=True, kw_only=True)
class WorldFacts:
    """What a reader must know of a world, as a run keeps it; level is the audit's intervals'."""

    audit: str
    metric: str
    null: float
    kind: str
    story: str
    unit: str
    level: float

    @classmethod
    def of(cls, world: "CalibrationWorld", level: float) -> "WorldFacts":
        """Those of a world."""
        return cls(
            audit=world.audit,
            metric=world.metric,
            null=float(world.null),
            kind=world.kind,
            story=world.story,
            unit=world.unit,
            level=level,
        )

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> "WorldFacts":
        """Those that `as_dict` gave, other keys left out; None stands for no null."""
        own = {field.name: facts[field.name] for field in fields(cls)}
        return cls(**{**own, "null": math.nan if own["null"] is None else own["null"]})

    @property
    def has_null(self) -> bool:
        """Whether there is a size that means no lean."""
        return not math.isnan(self.null)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds them."""
        found: dict[str, Any] = plain(vars(self))
        return found


@dataclass(frozen=True, kw_only=True)
class Point:
    """One planted size at one n.

    Fields: measured is the mean of the reported values, and error its standard error; low and high
            are the mean bounds of the audit's own interval; coverage is how often that holds the
            planted size; alarms is how often it excludes the null: the power, or without a lean
            the false alarms.
    """

    planted: float
    n: int
    draws: int
    measured: Estimate
    error: float
    low: float
    high: float
    coverage: Estimate
    alarms: Estimate | None

    @property
    def place(self) -> str:
        """The name of its slice."""
        return f"n={self.n}, planted={self.planted:g}"


@dataclass(frozen=True, kw_only=True)
class AtSize:
    """The curve at one n.

    Fields: bias is how far the measured lean exceeds the planted one, in the metric's unit, and
            excess the same as a share of the planted lean; undefined is the share of draws without
            an interval; smallest is the lean that is found with 80 % power: infinite where no
            swept size is, NaN where none can be.
    """

    n: int
    points: tuple[Point, ...]
    slope: Estimate
    bias: Estimate
    excess: Estimate
    coverage: Estimate
    false_alarms: Estimate | None
    undefined: Estimate
    smallest: float
    verdict: Word


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What one metric reports where the truth is known, at every n of a sweep."""

    facts: WorldFacts
    at: tuple[AtSize, ...]

    @property
    def name(self) -> str:
        """Audit and metric."""
        return f"{self.facts.audit}.{self.facts.metric}"

    @property
    def verdict(self) -> str:
        """The verdict over all n."""
        return overall([(each.n, each.verdict) for each in self.at])

    @property
    def farthest(self) -> float:
        """The largest planted distance from the null."""
        return max(abs(point.planted - self.facts.null) for point in self.at[-1].points)

    def smallest(self, n: int) -> tuple[float, bool]:
        """The smallest lean that is found at n, and whether it was extrapolated.

        smallest(n) = smallest(swept) sqrt(swept / n), from the nearest swept n
        """
        return scaled({each.n: each.smallest for each in self.at}, n)

    def estimates(self) -> list[Estimate]:
        """The rows of metrics.json."""
        return [
            replace(row, audit=self.facts.audit, metric=f"{self.facts.metric}.{row.metric}")
            for each in self.at
            for row in _rows(each)
        ]

    def as_dict(self) -> dict[str, Any]:
        """The curve as `--json` holds it: verdicts and smallest leans, the numbers by name."""
        return {
            **self.facts.as_dict(),
            "verdict": self.verdict,
            "at": [_told(each) for each in self.at],
            "smallest": [
                {"n": n, "lean": lean, "extrapolated": is_far}
                for n in ASKED
                for lean, is_far in [self.smallest(n)]
            ],
        }


def scaled(smallest: Mapping[int, float], n: int) -> tuple[float, bool]:
    """The smallest lean at n from those at swept n, and whether n was not swept."""
    nearest = min(smallest, key=lambda swept: abs(math.log(swept / n)))
    return smallest[nearest] * math.sqrt(nearest / n), nearest != n


def lean_text(lean: float, farthest: float) -> str:
    """A smallest lean in two digits; also where it lies beyond what was planted, or nowhere."""
    if math.isinf(lean):
        return f"> {farthest:.2g}"
    return "none" if math.isnan(lean) else f"{lean:.2g}"


def _rows(each: AtSize) -> list[Estimate]:
    """One n's estimates, those of its points with their planted sizes."""
    own = [each.slope, each.bias, each.coverage, each.false_alarms, each.undefined]
    inner = [
        replace(one, slice=point.place)
        for point in each.points
        for one in (point.measured, point.coverage, point.alarms)
        if one is not None and one is not each.false_alarms
    ]
    return [one for one in own if one is not None] + inner


def _told(each: AtSize) -> dict[str, Any]:
    """One n in plain numbers, intervals beside them."""
    return {
        "n": each.n,
        "verdict": each.verdict,
        "slope": _numbers(each.slope),
        "bias": _numbers(each.bias),
        "coverage": _numbers(each.coverage),
        "false_alarms": _numbers(each.false_alarms),
        "undefined": _numbers(each.undefined),
        "smallest": each.smallest,
        "points": [
            {
                "planted": point.planted,
                "draws": point.draws,
                "measured": _numbers(point.measured),
                "interval": [point.low, point.high],
                "coverage": _numbers(point.coverage),
                "alarms": _numbers(point.alarms),
            }
            for point in each.points
        ],
    }


def _numbers(row: Estimate | None) -> dict[str, float] | None:
    """An estimate's value and bounds."""
    return None if row is None else {"value": row.value, "low": row.low, "high": row.high}
