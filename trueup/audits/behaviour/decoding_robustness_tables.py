"""Decoding robustness by setting and by number of draws, from the items of the audit."""

import math

import numpy as np
import pandas as pd

from trueup.audits.behaviour.decoding_robustness_numbers import (
    AT,
    DRAW,
    SYSTEM,
    family_of,
    rates,
    setting_names,
    table_of,
)
from trueup.stats import proportion
from trueup.stats.estimate import Array


def by_setting(items: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """A row per setting: family, its number, whether the system prompt stands, n, rate, intervals.

    low and high are Wilson's for the one setting; lowest and highest hold for all settings at once.
    """
    rows = []
    for each in rates(items, audit="", level=level):
        name = each.slice
        broken = 0 if math.isnan(each.value) else round(each.value * each.n)
        alone = proportion(broken, each.n, level=level)
        value = name.removeprefix(SYSTEM).partition("=")[2]
        rows.append(
            {
                "setting": name,
                "family": family_of(name),
                "number": float(value) if value else math.nan,
                "system": name.startswith(SYSTEM),
                "n": each.n,
                "rate": each.value,
                "low": alone.low,
                "high": alone.high,
                "lowest": each.low,
                "highest": each.high,
            }
        )
    return pd.DataFrame(rows)


def by_draws(items: pd.DataFrame) -> pd.DataFrame:
    """The expected union of k settings, and of k draws at the default one, for k from 1 to C.

    union of k = mean over prompts of 1 - C(m - v, k) / C(m, k), v of m replies being broken: what
    k of them, picked at random, break on average. A prompt with an unknown reply is left out.
    """
    tables = [table_of(items, AT), table_of(items, DRAW)]
    known = ~np.isnan(np.hstack(tables)).any(axis=1)
    grid, baseline = (_unions(table[known]) for table in tables)
    count = len(setting_names(items))
    return pd.DataFrame(
        {"draws": np.arange(1, count + 1), "grid": grid, "baseline": baseline[:count]}
    )


def _unions(table: Array) -> Array:
    """The expected union of k columns picked at random, for k from 1 to C."""
    total = table.shape[1]
    whole = total - table.sum(axis=1)  # replies that are not broken, [N]
    missed, found = np.ones(len(table)), []
    for taken in range(total):
        missed = missed * np.clip(whole - taken, 0, None) / (total - taken)
        found.append(1 - missed.mean() if len(missed) else math.nan)
    return np.array(found)
