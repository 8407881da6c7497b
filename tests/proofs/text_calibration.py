"""Draws of a text audit's calibration world through its real code, for its headline number."""

import importlib
from types import SimpleNamespace

import numpy as np
import pandas as pd

from trueup.audits.estimates import estimate, generator
from trueup.audits.protocol import counted_rows
from trueup.audits.text.text_audit import TextAudit
from trueup.calibration.protocol import CalibrationWorld
from trueup.stats import Estimate, Labels
from trueup.stats.resampling import quietly

SEEDS = 20
FALSE_ALARMS = 0.096  # 5 % and three standard errors of 200 seeds


def world_of(name: str) -> CalibrationWorld:
    """The one world of an audit's file."""
    [world] = importlib.import_module(f"trueup.calibration.{name}").WORLDS
    return world


def items_of(
    audit: TextAudit, world: CalibrationWorld, planted: float, n: int, seed: int
) -> pd.DataFrame:
    """The items of one draw."""
    draw = world.draw(planted, n, seed)
    return audit.measure(draw.model, audit.probes(draw.rows))


def headline_of(audit: TextAudit, name: str, items: pd.DataFrame) -> Estimate:
    """The number of this name, with its interval."""
    [headline] = [metric for metric in audit.metrics if metric.name == name]
    if headline.interval is not None:
        labels = Labels(audit=audit.name, metric=headline.name, slice="all", level=audit.level)
        return headline.interval(items, generator(audit.name, headline.name), labels)
    alone = SimpleNamespace(
        name=audit.name,
        level=audit.level,
        metrics=(headline,),
        slices=lambda items: {"all": np.ones(len(items), dtype=bool)},
    )
    [row] = estimate(alone, items)
    return row


def value_of(audit: TextAudit, name: str, items: pd.DataFrame) -> float:
    """The number of this name alone."""
    [headline] = [metric for metric in audit.metrics if metric.name == name]
    terms = headline.terms(items)
    return float(quietly(headline.value, terms[counted_rows(terms)].sum(axis=0)))


def slope(
    audit_class: type[TextAudit], world: CalibrationWorld, n: int, seeds: int = SEEDS
) -> float:
    """The slope of the mean estimate over the seeds against the planted sizes."""
    audit = audit_class(**world.settings)
    means = [
        np.mean(
            [
                value_of(audit, world.metric, items_of(audit, world, size, n, seed))
                for seed in range(seeds)
            ]
        )
        for size in world.planted
    ]
    return float(np.polyfit(world.planted, means, 1)[0])


def misses(
    audit_class: type[TextAudit], world: CalibrationWorld, planted: float, n: int, seeds: int
) -> float:
    """The share of seeds whose interval does not hold the planted size; an undefined one misses."""
    audit = audit_class(**world.settings)
    rows = [
        headline_of(audit, world.metric, items_of(audit, world, planted, n, seed))
        for seed in range(1000, 1000 + seeds)
    ]
    return float(np.mean([not row.low <= planted <= row.high for row in rows]))
