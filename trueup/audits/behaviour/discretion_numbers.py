"""The discretion audit's numbers, as functions of its items."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from trueup.audits.behaviour.discretion_measures import (
    KINDS,
    defiance,
    discretion_discrepancy,
    principle_priority,
    win_terms,
)
from trueup.audits.protocol import Metric, counted_rows, share
from trueup.stats import Estimate, Labels
from trueup.stats.estimate import Array, level_of
from trueup.stats.resampling import chunks

COLUMN = "principle:"  # before a principle's name in the items
RESAMPLES = 999

_DA = (
    "How often the annotator goes against all principles that speak, where they agree. It says "
    "nothing of conflicts, and it is only as right as the oracle that read the principles."
)
_DD = (
    "The share of pairs of principles that the annotator ranks the other way round than the "
    "human: 0.5 is unrelated. Sampling noise makes it larger, so judge it by its interval, which "
    "is wide on purpose and holds 0 where the orders may be the same."
)
_HUMAN = "The human's own arbitrariness on the same comparisons, to read the annotator's beside it."
_UNDECIDED = (
    "Comparisons in which the annotator preferred neither, or changed its mind with the order of "
    "the responses. They count for nothing else."
)
_KIND = (
    "The share of comparisons in which the principles leave a choice (indifference, conflict) or "
    "none (consensus). It depends on the principles and on the oracle, not on the annotator."
)


def names_of(items: pd.DataFrame) -> list[str]:
    """The principles of the items."""
    return [name.removeprefix(COLUMN) for name in items.columns if name.startswith(COLUMN)]


def table_of(items: pd.DataFrame) -> Array:
    """The principles' preferences, [N, m]."""
    return items[[COLUMN + name for name in names_of(items)]].to_numpy(dtype=np.float64)


def is_paired(items: pd.DataFrame) -> NDArray[np.bool_]:
    """Which comparisons both annotator and human have a preference in, [N]."""
    product = items["preference"].to_numpy(float) * items["human"].to_numpy(float)
    return np.asarray(np.isin(product, (-1.0, 1.0)))


def _defied(who: str) -> Callable[[pd.DataFrame], ArrayLike]:
    """Items -> 1 where this annotator goes against a consensus, NaN without one."""
    return lambda items: defiance(items["consensus"], items[who])


def _undecided(items: pd.DataFrame) -> ArrayLike:
    """1 where the annotator has no preference, [N]."""
    return (~np.isin(items["preference"].to_numpy(float), (-1.0, 1.0))).astype(np.float64)


def _is_kind(kind: str, items: pd.DataFrame) -> ArrayLike:
    """1 for comparisons of this kind, [N]."""
    return (items["kind"] == kind).to_numpy(dtype=np.float64)


def _both_wins(items: pd.DataFrame) -> Array:
    """Which principle beats which, by the annotator and by the human, [N, 2 m m].

    NaN for comparisons without a conflict, or in which either has no preference.
    """
    table = table_of(items)
    size = table.shape[1]
    sides = [win_terms(table, items[who].to_numpy(float)) for who in ("preference", "human")]
    terms = np.concatenate([side.reshape(len(items), size * size) for side in sides], axis=1)
    counted = is_paired(items) & (items["kind"] == "conflict").to_numpy()
    return np.where(counted[:, None], terms, np.nan)


def _priorities(sums: Array) -> Array:
    """Annotator's and human's priorities from sums [..., 2 m m], [..., 2, m]."""
    size = round((sums.shape[-1] / 2) ** 0.5)
    return principle_priority(sums.reshape(*sums.shape[:-1], 2, size, size))


def _discrepancy_of_sums(sums: Array) -> Array:
    """DD from sums [..., 2 m m]."""
    priorities = _priorities(sums)
    return discretion_discrepancy(priorities[..., 0, :], priorities[..., 1, :])


def _discrepancy_interval(
    items: pd.DataFrame, rng: np.random.Generator, labels: Labels
) -> Estimate:
    """DD -+ how far both orders move together in resamples of the comparisons."""
    terms = _both_wins(items)
    rows = terms[counted_rows(terms)]
    count, centre = len(rows), _priorities(rows.sum(axis=0))
    even = np.full(count, 1 / count)
    moved = [
        discretion_discrepancy(
            _priorities(rng.multinomial(count, even, size=size) @ rows), centre
        ).sum(axis=-1)
        for size in chunks(RESAMPLES, max(rows.shape))
    ]
    known = np.concatenate(moved)
    known = known[np.isfinite(known)]
    reach = float(np.quantile(known, level_of(labels))) if len(known) and count > 1 else np.nan
    point = float(_discrepancy_of_sums(rows.sum(axis=0)))
    return Estimate(
        value=point,
        low=float(np.clip(point - reach, 0, 1)),
        high=float(np.clip(point + reach, 0, 1)),
        n=count,
        method=f"how far both orders move, bootstrap, {RESAMPLES} resamples",
        **labels,
    )


def ranked(wins: Array, names: Sequence[str]) -> str:
    """Principles by priority, the highest first; those without a conflict last."""
    priority, games = principle_priority(wins), (wins + wins.T).sum(axis=1)
    order = sorted(range(len(names)), key=lambda i: (np.isnan(priority[i]), -priority[i]))
    return ", ".join(f"{names[i]} {priority[i]:+.2f} ({games[i]:.0f})" for i in order)


METRICS: tuple[Metric, ...] = (
    share("arbitrariness", _defied("preference"), ideal=0.0, goal="lower", reading=_DA),
    Metric(
        name="discrepancy",
        kind="statistic",
        terms=_both_wins,
        value=_discrepancy_of_sums,
        ideal=0.0,
        goal="lower",
        span=(0.0, 1.0),
        interval=_discrepancy_interval,
        reading=_DD,
    ),
    share("human_arbitrariness", _defied("human"), reading=_HUMAN),
    share("undecided", _undecided, goal="lower", ideal=0.0, reading=_UNDECIDED),
    *(share(kind, partial(_is_kind, kind), reading=_KIND) for kind in KINDS),
)
