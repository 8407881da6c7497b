"""A leaderboard from judged pairs: strengths, ranks that stay open, win rates, agreement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from trueup.errors import check_between
from trueup.judging.comparison_table import ITEM, checked, clusters_of, items_of
from trueup.stats import (
    BradleyTerry,
    Estimate,
    LengthControlled,
    agreement,
    bradley_terry,
    lc_winrate,
    mean,
    proportion,
)
from trueup.stats.estimate import Array


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One model's line.

    Fields: strength is in nats against the mean of all models; ranks are the best and the worst
            that the data leave open, see `BradleyTerry.ranks`; win_rate is over all of its pairs,
            ties half; against_baseline holds its win rates, in percent, against the baseline, the
            length-controlled one among them.
    """

    model: str
    strength: Estimate
    elo: float
    ranks: tuple[int, int]
    win_rate: Estimate
    against_baseline: LengthControlled | None = None


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Models from strongest to weakest, and how far their judges can be trusted.

    Fields: fit gives the difference of any two models; consistency is the share of pairs with the
            same outcome in both orders, shown_first how often the answer shown first wins (0.5
            without a liking for it); agreement is between judges, by coefficient; each is None or
            empty where the table cannot tell. notes say what a reader must know.
    """

    standings: tuple[Standing, ...]
    fit: BradleyTerry
    n: int
    consistency: Estimate | None = None
    shown_first: Estimate | None = None
    agreement: Mapping[str, Estimate] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [("rank", "model", "strength", "elo", "win rate", "n", "length-controlled win rate")]
        for one in self.standings:
            low, high = one.ranks
            controlled = one.against_baseline
            rows.append(
                (
                    str(low) if low == high else f"{low}-{high}",
                    one.model,
                    one.strength.numbers(),
                    f"{one.elo:.0f}",
                    one.win_rate.numbers(),
                    str(one.win_rate.n),
                    controlled.controlled.numbers() if controlled else "",
                )
            )
        told = [self.consistency, self.shown_first, *self.agreement.values()]
        return "\n".join([*_aligned(rows), *(str(one) for one in told if one), *self.notes])


def leaderboard(
    comparisons: pd.DataFrame | Sequence[Mapping[str, Any]],
    *,
    rng: np.random.Generator,
    baseline: str | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> Leaderboard:
    """Rank models from judged pairs of their answers.

    Columns: model_a, model_b, winner ("model_a", "model_b", "tie"); where there are: prompt_id,
             which pairs orders and judges and is the unit that is resampled; order ("ab" or "ba":
             whose answer stood first); judge; length_a, length_b.
    A pair judged in both orders is one item: its outcomes are averaged before anything else.
    strength: Bradley-Terry on these items, sandwich by prompt. Win rates: Student, or Wilson where
    every item was won or lost; the cluster bootstrap where prompts hold several items.
    Fields: baseline names the model against which length-controlled win rates are told, from the
            two lengths; resamples are those of every bootstrap.
    Edges:  a model that always wins or was never compared: its bounds are NaN, and a note says so.
    Raises: UserError where a column is missing or a cell holds what it cannot.
    Source: Chiang et al. 2024, arXiv 2403.04132 (Bradley-Terry, ranks); Dubois et al. 2024,
            arXiv 2404.04475 (length control); averaging orders and clustering by prompt are
            ours [R].
    """
    check_between(0.01, 0.999, level=level)
    table = checked(pd.DataFrame(comparisons), baseline)
    items = items_of(table)
    clusters = clusters_of(items)
    fit = bradley_terry(
        list(zip(items["one"], items["other"], items["won"], strict=True)), clusters=clusters
    )
    settings = _Settings(rng, resamples, level)
    ranks, elo = fit.ranks(level=level), fit.elo()
    standings = [
        Standing(
            model=name,
            strength=fit.strength(name, level=level),
            elo=elo[name],
            ranks=ranks[name],
            win_rate=_win_rate(items, name, settings),
            against_baseline=_against(items, name, baseline, settings) if baseline else None,
        )
        for name in fit.names
    ]
    return Leaderboard(
        standings=tuple(sorted(standings, key=lambda one: -one.strength.value)),
        fit=fit,
        n=len(items),
        consistency=_consistency(items, settings),
        shown_first=_shown_first(table, settings),
        agreement=_agreement(items, settings),
        notes=tuple(_notes(fit, table)),
    )


@dataclass(frozen=True)
class _Settings:
    """How uncertainty is told."""

    rng: np.random.Generator
    resamples: int
    level: float


def _rate(numbers: Array, items: pd.DataFrame, metric: str, name: str, how: _Settings) -> Estimate:
    """The mean of numbers in [0, 1] over items, with the interval that fits them."""
    labels: dict[str, Any] = {"metric": metric, "slice": name, "level": how.level, "ideal": None}
    clusters = clusters_of(items)
    if clusters is None and np.isin(numbers, (0.0, 1.0)).all():
        return proportion(int(numbers.sum()), len(numbers), **labels)
    return mean(numbers, clusters=clusters, rng=how.rng, resamples=how.resamples, **labels)


def _win_rate(items: pd.DataFrame, name: str, how: _Settings) -> Estimate:
    """A model's mean outcome over all of its items."""
    own, won = _own(items, name)
    return _rate(won, own, "win rate", name, how)


def _own(items: pd.DataFrame, name: str, other: str | None = None) -> tuple[pd.DataFrame, Array]:
    """A model's items (those with another one only), and its outcome in each."""
    is_one, is_other = items["one"] == name, items["other"] == name
    kept = is_one | is_other
    if other is not None:
        kept &= (items["one"] == other) | (items["other"] == other)
    own = items[kept]
    won = own["won"].to_numpy(dtype=np.float64)
    return own, np.where(own["one"] == name, won, 1 - won)


def _against(
    items: pd.DataFrame, name: str, baseline: str, how: _Settings
) -> LengthControlled | None:
    """A model's win rates against the baseline; None for itself and where they never met."""
    own, won = _own(items, name, baseline)
    if name == baseline or own.empty:
        return None
    longer = own["longer_by"].to_numpy(dtype=np.float64)
    return lc_winrate(
        won,
        np.where(own["one"] == name, -longer, longer),
        rng=how.rng,
        clusters=clusters_of(own),
        resamples=how.resamples,
        level=how.level,
    )


def _consistency(items: pd.DataFrame, how: _Settings) -> Estimate | None:
    """The share of pairs with the same outcome in both orders."""
    if "orders" not in items or not (items["orders"] == 2).any():
        return None
    both = items[items["orders"] == 2]
    is_same = (both["least"] == both["most"]).to_numpy().astype(np.float64)
    return _rate(is_same, both, "consistency", "all", how)


def _shown_first(table: pd.DataFrame, how: _Settings) -> Estimate | None:
    """How often the answer shown first wins, the two orders of a pair taken together."""
    if "first_won" not in table:
        return None
    pairs = table.groupby(ITEM)["first_won"].mean().reset_index()
    return _rate(pairs["first_won"].to_numpy(float), pairs, "shown first wins", "all", how)


def _agreement(items: pd.DataFrame, how: _Settings) -> dict[str, Estimate]:
    """The judges' agreement on who won the pairs that several of them judged."""
    if items["judge"].nunique() < 2:
        return {}
    wide = items.pivot_table(index=["prompt", "one", "other"], columns="judge", values="won")
    wide = wide[wide.notna().sum(axis=1) > 1]
    if wide.empty:
        return {}
    ratings = np.sign(wide.to_numpy(dtype=np.float64).T - 0.5)  # [judges, pairs]
    clusters = clusters_of(wide.reset_index())
    return agreement(
        ratings, rng=how.rng, clusters=clusters, resamples=how.resamples, level=how.level
    )


def _notes(fit: BradleyTerry, table: pd.DataFrame) -> list[str]:
    """What the numbers alone do not say."""
    found = []
    if fit.is_separated:
        found.append(
            "some models won or lost all their comparisons with the others, or never met them: "
            "strengths have no interval and ranks stay open"
        )
    if "is_first" in table and (table.groupby(["one", "other"])["is_first"].nunique() == 1).all():
        found.append(
            "any two models were shown in one order only: a liking for a place passes for strength"
        )
    return found


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows with their columns under one another; a column without content is left out."""
    kept = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in kept]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*kept, strict=True)
    ]
