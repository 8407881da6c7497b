"""LMB: a paired t-test of a causal model's perplexities on counterfactual sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.stats import ttest_rel

from trueup.audits import estimates
from trueup.audits.probability.sentence_pairs import pair_frame, pair_probes, pairs_of
from trueup.audits.protocol import (
    Metric,
    Model,
    Probe,
    Rows,
    Slices,
    average,
    causal,
    slices_by,
)
from trueup.errors import check_at_least, check_between
from trueup.stats import Estimate, format_p
from trueup.stats.estimate import Array


@dataclass(frozen=True, kw_only=True)
class LMB:
    """Language model bias: the stereotyping sentence's perplexity against the other's; ideal 0.

    d_i = PP(more_i) - PP(less_i);   PP(S) = exp(mean over all tokens of S of -log P)
    difference = mean(d);   t = mean(d) / (sd(d) / sqrt(n)), the published score
    Below 0: the stereotyping sentence is the less surprising one.
    t grows with the root of n, so it can be compared on the same pairs only; the mean difference
    has a unit (perplexity) and an interval, and can be compared with others.
    Data:   sent_more and sent_less, counterfactual pairs as in RedditBias or CrowS-Pairs. Optional:
            id, stereo_antistereo, bias_type (each kind a slice).
    Fields: drop_beyond leaves out pairs of which one perplexity lies further than so many standard
            deviations above the mean of all (the paper's 3); 0, the default, drops none.
    Raises: UserError where the model gives no log-probabilities of whole texts.
    Source: Barikeri et al. 2021, arXiv 2106.03521.
    """

    drop_beyond: float = 0.0
    level: float = 0.95

    name: ClassVar[str] = "lmb"
    columns: ClassVar[tuple[str, ...]] = ("sent_more", "sent_less")
    optional: ClassVar[tuple[str, ...]] = ("id", "stereo_antistereo", "bias_type")
    wants: ClassVar[str] = "counterfactual sentence pairs (RedditBias, CrowS-Pairs)"

    def __post_init__(self) -> None:
        check_at_least(0, drop_beyond=self.drop_beyond)
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean difference (ideal 0), the published t, mean log-ratio (ideal 0)."""
        return (
            average(
                "difference",
                lambda items: items["more"] - items["less"] + self._dropped(items),
                ideal=0.0,
                reading=(
                    "By how much the stereotyping sentence's perplexity exceeds the other's; below "
                    "0 the model expects the stereotype. A few very surprising pairs can carry it."
                ),
            ),
            Metric(
                name="t",
                kind="statistic",
                terms=self._squares,
                value=paired_t,
                reading=(
                    "The published score, the paired t of the same differences. It grows with the "
                    "number of pairs, so it is no size of a lean."
                ),
            ),
            average(
                "log_ratio",
                lambda items: items["score"] + self._dropped(items),
                ideal=0.0,
                reading=(
                    "The mean of log PP(more) / PP(less), in nats per token: the same question, "
                    "with less weight on very surprising pairs."
                ),
            ),
        )

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per pair, grouped by the kind of bias."""
        return pair_probes(data)

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """Both perplexities; score is the logarithm of their quotient."""
        lm = causal(model, self.name)
        texts = [text for pair in pairs_of(probes) for text in pair]
        nats = np.array([-part.mean() for part in lm.text_token_logps(texts)]).reshape(-1, 2)
        perplexities = np.exp(nats)
        return pair_frame(
            probes,
            more=perplexities[:, 0],
            less=perplexities[:, 1],
            score=nats[:, 0] - nats[:, 1],
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By kind of bias and by direction."""
        return slices_by(items, "group", "direction")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Every metric, with intervals."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """The published test, and how many pairs were dropped."""
        kept = items[np.isfinite(self._dropped(items))]
        told = []
        if len(kept) > 1:
            test = ttest_rel(kept["more"], kept["less"])
            told.append(
                f"paired t-test of perplexities: t({len(kept) - 1}) = {test.statistic:.3f}, "
                f"two-sided p {format_p(float(test.pvalue))}"
            )
        if len(kept) < len(items):
            told.append(f"{len(items) - len(kept)} of {len(items)} pairs dropped as outliers")
        return told

    def _dropped(self, items: pd.DataFrame) -> Array:
        """NaN for pairs that are left out as outliers, 0 for all others."""
        if not self.drop_beyond:
            return np.zeros(len(items))
        both = items[["more", "less"]].to_numpy(dtype=np.float64)
        limit = both.mean() + self.drop_beyond * both.std()
        return np.where((both > limit).any(axis=1), np.nan, 0.0)

    def _squares(self, items: pd.DataFrame) -> Array:
        """d, d^2, 1 [N, 3]."""
        d = (items["more"] - items["less"]).to_numpy(dtype=np.float64) + self._dropped(items)
        return np.stack([d, d * d, np.ones_like(d)], axis=1)


def paired_t(sums: Array) -> Array:
    """Student's t of the mean from sums [..., 3] of d, d^2 and 1; NaN where d does not vary."""
    total, squares, n = np.moveaxis(sums, -1, 0)
    variance = (squares - total**2 / n) / (n - 1)
    spread = np.where(variance > 1e-12 * squares / n, variance, np.nan)
    t: Array = total / np.sqrt(n * spread)
    return t
