"""Token shift seen by position and by token, from the items of the audit."""

import json

import numpy as np
import pandas as pd

from trueup.stats import mean, proportion


def tokens_of(items: pd.DataFrame) -> pd.DataFrame:
    """A row per token: item, position from 1, token, rank, kl, base_prob."""
    parts = []
    for row in items.itertuples():
        ranks = json.loads(str(row.ranks))
        parts.append(
            pd.DataFrame(
                {
                    "item": row.id,
                    "position": np.arange(1, len(ranks) + 1),
                    "token": json.loads(str(row.pieces)),
                    "rank": ranks,
                    "kl": json.loads(str(row.kls)),
                    "base_prob": json.loads(str(row.base_probs)),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def by_position(items: pd.DataFrame, *, marginal: int = 3, level: float = 0.95) -> pd.DataFrame:
    """A row per position: n answers that reach it, mean kl, rank and base_prob, shifted share.

    The share has Wilson's interval and the divergence Student's, over answers.
    """
    rows = []
    for position, part in tokens_of(items).groupby("position"):
        shifted = proportion(int((part["rank"] > marginal).sum()), len(part), level=level)
        kl = mean(part["kl"], level=level)
        rows.append(
            {
                "position": position,
                "n": len(part),
                "shifted": shifted.value,
                "shifted_low": shifted.low,
                "shifted_high": shifted.high,
                "kl": kl.value,
                "kl_low": kl.low,
                "kl_high": kl.high,
                "rank": float(part["rank"].mean()),
                "base_prob": float(part["base_prob"].mean()),
            }
        )
    return pd.DataFrame(rows)


def token_table(items: pd.DataFrame, *, marginal: int = 3, level: float = 0.95) -> pd.DataFrame:
    """A row per token type: how often it occurs and the share of it that is shifted, with interval.

    The types with the most shifted occurrences come first.
    """
    rows = []
    for token, ranks in tokens_of(items).groupby("token")["rank"]:
        count = int((ranks > marginal).sum())
        found = proportion(count, len(ranks), level=level)
        rows.append((token, len(ranks), count, found.value, found.low, found.high))
    names = ["token", "n", "count", "shifted", "low", "high"]
    table = pd.DataFrame(rows, columns=names)
    return table.sort_values(["count", "token"], ascending=[False, True], ignore_index=True)
