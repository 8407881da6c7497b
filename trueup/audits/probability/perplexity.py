"""Perplexity on plain texts: the guard that says whether a model still speaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from trueup.audits import estimates
from trueup.audits.protocol import (
    Metric,
    Model,
    Probe,
    Rows,
    Slices,
    causal,
    frame,
    slices_by,
    text_of,
)
from trueup.errors import UserError, check_between
from trueup.stats import Estimate
from trueup.stats.estimate import Array


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Perplexity over all tokens of the texts; lower is better.

    perplexity = exp(sum over texts of -log P(text) / sum over texts of tokens)
    The first token is predicted from the tokenizer's opening token, or not scored without one.
    Only models with one tokenizer can be compared: the unit is the token.
    Data:   text; optional id, group (each a slice), cluster (the document of a passage).
    Raises: UserError where a text is longer than the model's context, or has no token to score.
    """

    level: float = 0.95

    name: ClassVar[str] = "perplexity"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    optional: ClassVar[tuple[str, ...]] = ("id", "group", "cluster")
    wants: ClassVar[str] = "plain texts"

    def __post_init__(self) -> None:
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Perplexity, which has no ideal."""
        return (
            Metric(
                name="perplexity",
                kind="statistic",
                terms=_terms,
                value=_perplexity,
                goal="lower",
                reading="How many tokens the model wavers between on average. It guards against a "
                "correction that breaks the language; between tokenizers it says nothing.",
            ),
        )

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per text."""
        return [
            Probe(
                id=text_of(row, "id", index + 1),
                group=text_of(row, "group"),
                cluster=text_of(row, "cluster"),
                texts=(str(row["text"]),),
            )
            for index, row in enumerate(data)
        ]

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """Negative log-likelihood and scored tokens of every text; score is their quotient."""
        lm = causal(model, self.name)
        texts = [probe.texts[0] for probe in probes]
        room = lm.max_length - len(lm.encoder.context())
        for probe, ids in zip(probes, lm.encoder.tokens(texts), strict=True):
            if len(ids) > room:
                raise UserError(
                    f"perplexity text {probe.id} has {len(ids)} tokens, but the model reads "
                    f"{room}; split it"
                )
        logps = lm.text_token_logps(texts)
        nll = np.array([-part.sum() for part in logps])
        tokens = np.array([len(part) for part in logps], dtype=np.float64)
        return frame(probes, input=texts, nll=nll, tokens=tokens, score=nll / tokens)

    def slices(self, items: pd.DataFrame) -> Slices:
        """By group."""
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Perplexity with the bootstrap's interval over texts."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """How many tokens were scored."""
        return [f"{int(items['tokens'].sum())} tokens of {len(items)} texts"]


def _terms(items: pd.DataFrame) -> Array:
    """Negative log-likelihood and tokens, [N, 2]."""
    return items[["nll", "tokens"]].to_numpy(dtype=np.float64)


def _perplexity(sums: Array) -> Array:
    """The exponential of nats per token."""
    result: Array = np.exp(sums[..., 0] / sums[..., 1])
    return result
