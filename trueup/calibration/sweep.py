"""The sweep of a world: planted size by sample size by seed, each cell one audit with its truth."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from math import isnan
from typing import Any, cast

import numpy as np
import pandas as pd

from trueup.audits.protocol import Audit, chunks
from trueup.calibration.protocol import CalibrationWorld
from trueup.errors import UserError, check_at_least

SHARE = 4  # a size with a lean gets a draw for every so many without one: power needs fewer
FEWEST = 10  # draws of any cell of the sweep
TOGETHER = 10  # draws that a run saves at once


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is swept.

    Fields: planted are the sizes in order, the null always among them; sizes are the n; seeds are
            the draws without a lean at each n; a size with a lean gets a quarter of them, at least
            ten; seed is where chance starts.
    """

    planted: tuple[float, ...]
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One draw: so large a lean, so many units, from this seed."""

    planted: float
    n: int
    seed: int

    def id_of(self, world: CalibrationWorld) -> str:
        """The name of its row."""
        return f"{world.metric} {self.planted!r} {self.n} {self.seed}"


def plan_of(
    world: CalibrationWorld,
    *,
    sizes: Sequence[int] = (),
    seeds: Sequence[int] = (200,),
    planted: Sequence[float] = (),
    seed: int = 0,
) -> Plan:
    """The plan that was asked for; what is left out is the world's own.

    Fields: seeds are one number for all n, or one for each.
    Raises: UserError where a number is too small, or seeds are neither one nor as many as the n.
    """
    chosen = tuple(dict.fromkeys(sizes or world.sizes))
    for n in chosen:
        check_at_least(2, n=n)
    for count in seeds:
        check_at_least(FEWEST, seeds=count)
    counts = tuple(seeds) * (len(chosen) if len(seeds) == 1 else 1)
    if len(counts) != len(chosen):
        raise UserError(
            f"seeds are given {len(seeds)} times for {len(chosen)} sizes n; give one number for "
            "all, or one for each"
        )
    leans = {float(size) for size in planted or world.planted}
    leans |= set() if isnan(world.null) else {float(world.null)}
    if len(leans) < 2:
        raise UserError(f"planted must name a size other than {world.null:g}, got {planted}")
    return Plan(planted=tuple(sorted(leans)), sizes=chosen, seeds=counts, seed=seed)


def cells_of(world: CalibrationWorld, plan: Plan) -> list[Cell]:
    """Every draw of the plan, each from a seed of its own, the null first within each n."""
    ordered = sorted(plan.planted, key=lambda size: size != world.null)
    return [
        Cell(planted=size, n=n, seed=_seed(plan.seed, world, size, n, number))
        for n, seeds in zip(plan.sizes, plan.seeds, strict=True)
        for size in ordered
        for number in range(seeds if size == world.null else max(FEWEST, seeds // SHARE))
    ]


def measured(audit: Audit, world: CalibrationWorld, cells: Sequence[Cell]) -> pd.DataFrame:
    """One row per cell: the planted size, and what the audit reports of it.

    The audit runs as it does for a user: probes, scores in chunks, its own estimate; other metrics
    and slices are left out, which changes no number of this one.
    """
    headline = alone(audit, world.metric)
    rows = []
    for cell in cells:
        draw = world.draw(cell.planted, cell.n, cell.seed)
        scored = [headline.measure(draw.model, part) for part in chunks(headline.probes(draw.rows))]
        found = headline.estimate(pd.concat(scored, ignore_index=True))
        [row] = [one for one in found if (one.metric, one.slice) == (world.metric, "all")]
        rows.append(
            {
                "id": cell.id_of(world),
                "audit": audit.name,
                "metric": world.metric,
                "planted": cell.planted,
                "n": cell.n,
                "seed": cell.seed,
                "value": row.value,
                "low": row.low,
                "high": row.high,
            }
        )
    return pd.DataFrame(rows)


def blocks_of(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """The cells in order, as many at a time as a run saves together."""
    for start in range(0, len(cells), TOGETHER):
        yield list(cells[start : start + TOGETHER])


def alone(audit: Audit, metric: str) -> Audit:
    """The audit with this one metric, and all items as its only slice.

    Raises: UserError where the audit has no such metric.
    """
    chosen = tuple(one for one in audit.metrics if one.name == metric)
    if not chosen:
        known = ", ".join(one.name for one in audit.metrics)
        raise UserError(f"{audit.name} has no metric {metric!r}; known: {known}")
    kind = type(audit)
    narrow = {"metrics": chosen, "slices": _all_items, "__doc__": kind.__doc__}
    settings = {field.name: getattr(audit, field.name) for field in fields(cast(Any, audit))}
    return cast(Audit, type(kind.__name__, (kind,), narrow)(**settings))


def _all_items(_: Audit, items: pd.DataFrame) -> dict[str, Any]:
    """The slice of all items."""
    return {"all": np.ones(len(items), dtype=np.bool_)}


def _seed(seed: int, world: CalibrationWorld, planted: float, n: int, number: int) -> int:
    """A seed that no other cell shares."""
    words = f"{seed} {world.audit} {world.metric} {planted!r} {n} {number}"
    return zlib.crc32(words.encode())
