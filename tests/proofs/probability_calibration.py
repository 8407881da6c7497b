"""Draws of a calibration world through an audit's real code, for its headline number alone."""

import importlib
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from trueup.audits.estimates import estimate
from trueup.audits.protocol import Audit
from trueup.calibration.protocol import CalibrationWorld
from trueup.stats import Estimate

SEEDS = 20


def world_of(name: str) -> CalibrationWorld:
    """The one world of an audit's file."""
    [world] = importlib.import_module(f"trueup.calibration.{name}").WORLDS
    return world


def estimates_of(
    audit_class: type[Audit], world: CalibrationWorld, planted: float, n: int, seeds: Sequence[int]
) -> list[Estimate]:
    """The headline number of one draw per seed."""
    audit = audit_class(**world.settings)
    [headline] = [metric for metric in audit.metrics if metric.name == world.metric]
    alone = SimpleNamespace(
        name=audit.name,
        level=audit.level,
        metrics=(headline,),
        slices=lambda items: {"all": np.ones(len(items), dtype=bool)},
    )
    found = []
    for seed in seeds:
        draw = world.draw(planted, n, seed)
        items = audit.measure(draw.model, audit.probes(draw.rows))
        found += estimate(alone, items)
    return found


def slope(audit_class: type[Audit], world: CalibrationWorld, n: int) -> float:
    """The slope of the mean estimate over twenty seeds against the planted sizes."""
    means = [
        np.mean([row.value for row in estimates_of(audit_class, world, size, n, range(SEEDS))])
        for size in world.planted
    ]
    return float(np.polyfit(world.planted, means, 1)[0])


def misses(
    audit_class: type[Audit], world: CalibrationWorld, planted: float, n: int, seeds: int
) -> float:
    """The share of seeds whose interval does not hold the planted size.

    An undefined interval makes no claim: it is no false alarm, and no miss.
    """
    rows = estimates_of(audit_class, world, planted, n, range(1000, 1000 + seeds))
    return float(np.mean([row.low > planted or row.high < planted for row in rows]))


def undefined(
    audit_class: type[Audit], world: CalibrationWorld, planted: float, n: int, seeds: int
) -> float:
    """The share of seeds without an interval."""
    rows = estimates_of(audit_class, world, planted, n, range(1000, 1000 + seeds))
    return float(np.mean([np.isnan(row.low) for row in rows]))
