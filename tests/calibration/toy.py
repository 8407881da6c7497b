"""An audit of known goodness, and the world that plants its lean: shares of a coin's heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from trueup.audits import estimates
from trueup.audits.protocol import Metric, Model, Probe, Rows, Slices, frame, share, slices_by
from trueup.calibration.curve import Calibration, WorldFacts
from trueup.calibration.protocol import Draw
from trueup.calibration.summary import summarized
from trueup.stats import Estimate, proportion

NULL = 0.5


@dataclass(frozen=True, kw_only=True)
class Toy:
    """The share of heads with Wilson's interval, or a worse one.

    Fields: reach multiplies the interval's halves; gain the distance of the share from one half;
            shift is added to the share.
    """

    reach: float = 1.0
    gain: float = 1.0
    shift: float = 0.0
    level: float = 0.95

    name: ClassVar[str] = "toy"
    columns: ClassVar[tuple[str, ...]] = ("heads",)
    optional: ClassVar[tuple[str, ...]] = ()
    wants: ClassVar[str] = "coins"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            share("share", lambda items: items["score"], ideal=NULL),
            share("tails", lambda items: 1 - items["score"]),
        )

    def probes(self, data: Rows) -> list[Probe]:
        return [
            Probe(id=str(index), group="odd" if index % 2 else "even", labels=row)
            for index, row in enumerate(data)
        ]

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        score = [float(probe.labels["heads"]) for probe in probes]
        return frame(probes, input=[probe.id for probe in probes], score=score)

    def slices(self, items: pd.DataFrame) -> Slices:
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        return [self._worse(row) for row in estimates.estimate(self, items)]

    def _worse(self, row: Estimate) -> Estimate:
        """The estimate as this audit reports it."""
        return worse(row, self.reach, self.gain, self.shift)

    def notes(self, items: pd.DataFrame) -> list[str]:
        return []


def worse(row: Estimate, reach: float = 1.0, gain: float = 1.0, shift: float = 0.0) -> Estimate:
    """An estimate with a wrong interval, gain or shift."""
    value = NULL + gain * (row.value - NULL) + shift
    below, above = row.value - row.low, row.high - row.value
    return replace(row, value=value, low=value - reach * below, high=value + reach * above)


class ToyWorld:
    """n coins of a planted share of heads."""

    audit = "toy"
    metric = "share"
    planted: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)
    null = NULL
    settings: Mapping[str, Any] = {}
    kind = "scripted"
    story = "A coin shows heads with the planted probability."
    unit = "coins"
    sizes: tuple[int, ...] = (50, 200)

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        heads = np.random.default_rng(seed).random(n) < planted
        return Draw(None, [{"heads": bool(one)} for one in heads])  # type: ignore[arg-type]


def coins(
    *, draws: int, sizes: tuple[int, ...] = (100, 200), seed: int = 0, **settings: float
) -> pd.DataFrame:
    """What a sweep of the toy audit would leave, drawn all at once."""
    rng = np.random.default_rng(seed)
    parts = []
    for n in sizes:
        found = [worse(row, **settings) for row in shares(n)]
        table = pd.DataFrame([vars(row) for row in found])[["value", "low", "high"]]
        for planted in ToyWorld.planted:
            heads = rng.binomial(n, planted, size=draws if planted == NULL else draws // 4)
            parts.append(table.loc[heads].assign(planted=planted, n=n, metric="share"))
    return pd.concat(parts, ignore_index=True)


@cache
def shares(n: int) -> list[Estimate]:
    """The share of every possible number of heads."""
    return [proportion(heads, n) for heads in range(n + 1)]


def curve_of(items: pd.DataFrame) -> Calibration:
    """The curve of the toy audit."""
    return summarized(WorldFacts.of(ToyWorld(), 0.95), items)
