"""What a correction must not break: neutral text, the chosen completions, the control jobs."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from trueup.stats import Estimate, bootstrap, paired_mean

PERPLEXITY_LIMIT = 1.10  # after / before
CONTROL_LIMIT = 0.05  # of P(he | job)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """One check with its interval; tripped says that the limit is passed."""

    name: str
    value: float
    low: float
    high: float
    limit: float
    unit: str
    tripped: bool
    explanation: str

    def as_dict(self) -> dict[str, Any]:
        """The object of the demo's JSON."""
        return asdict(self)


def perplexity_guard(before: pd.DataFrame, after: pd.DataFrame) -> Guard:
    """The ratio of perplexities on new neutral sentences, paired by sentence."""
    terms = np.stack([before["nll"], after["nll"], before["tokens"]], axis=1)  # [N, 3]
    ratio = bootstrap(
        terms,
        lambda sums: np.exp((sums[..., 1] - sums[..., 0]) / sums[..., 2]),
        metric="perplexity ratio",
        rng=np.random.default_rng(0),
    )
    return Guard(
        name="neutral text",
        value=ratio.value,
        low=ratio.low,
        high=ratio.high,
        limit=PERPLEXITY_LIMIT,
        unit="perplexity ratio",
        tripped=ratio.value > PERPLEXITY_LIMIT,
        explanation=f"perplexity on {len(before)} new sentences about things, at most 10 % worse",
    )


def displacement_guard(change: Estimate) -> Guard:
    """The mean change of ln pi(chosen) on held-out pairs."""
    return Guard(
        name="chosen completions",
        value=change.value,
        low=change.low,
        high=change.high,
        limit=0.0,
        unit="ln pi(chosen), nats",
        tripped=change.high < 0,
        explanation=f"likelihood of {change.n} held-out chosen completions, must not fall",
    )


def control_guard(before: pd.DataFrame, after: pd.DataFrame) -> Guard:
    """The change of P(he | job) over jobs that no preference pair mentions."""
    x, y = (side.loc[_is_control(side), "score"].to_numpy() for side in (before, after))
    clusters = pd.factorize(before.loc[_is_control(before), "cluster"])[0]
    change = paired_mean(x, y, clusters=clusters, rng=np.random.default_rng(0))
    return Guard(
        name="control jobs",
        value=change.delta,
        low=change.low,
        high=change.high,
        limit=CONTROL_LIMIT,
        unit="P(he | job)",
        tripped=abs(change.delta) > CONTROL_LIMIT,
        explanation=f"{clusters.max() + 1} neutral jobs without preference pairs, must not move",
    )


def _is_control(items: pd.DataFrame) -> "pd.Series[bool]":
    """Which items are about control jobs."""
    return items["group"].str.startswith("control|")
