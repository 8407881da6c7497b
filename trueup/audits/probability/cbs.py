"""CBS: how differently an attribute treats many groups, beyond what the bare template does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from trueup.audits import estimates
from trueup.audits.probability.slots import Words, attribute_probes, target_logps, words_of
from trueup.audits.protocol import (
    Metric,
    Model,
    Probe,
    Rows,
    Slices,
    average,
    frame,
    masked,
    slices_by,
)
from trueup.errors import check_between
from trueup.stats import Estimate


@dataclass(frozen=True, kw_only=True)
class CBS:
    """Categorical bias score: variance over groups of the log-ratio to the prior; ideal 0.

    CBS = mean over (template t, attribute w) of Var over targets a of log( P(a | t, w) / P_prior )
    P_prior = P(a at [TARGET] | t with [ATTRIBUTE] masked as well);  sample variance (ddof 1)
    With two targets it is LPBS^2 / 2.
    Data:   template ("People from [TARGET] are [ATTRIBUTE]."), targets (two words or more joined
            by "|", one for each group), attribute (words joined by "|", an item each). Optional:
            id; group (names joined by "|", each a slice); cluster, by default the attribute.
    Raises: UserError where a template lacks a slot, or the model fills no masks.
    Source: Ahn and Oh 2021, arXiv 2109.05704. For a target of k pieces the authors' code multiplies
            every piece's probability at each of the k masks (k * k factors); here piece j counts at
            mask j alone.
    """

    level: float = 0.95

    name: ClassVar[str] = "cbs"
    columns: ClassVar[tuple[str, ...]] = ("template", "targets", "attribute")
    optional: ClassVar[tuple[str, ...]] = ("id", "group", "cluster")
    wants: ClassVar[str] = "templates with the slots [TARGET] and [ATTRIBUTE], and the groups"

    def __post_init__(self) -> None:
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The score, ideal 0, which no real model reaches."""
        return (
            average(
                "cbs",
                lambda items: items["score"],
                ideal=0.0,
                span=(0.0, np.inf),
                reading=(
                    "How unevenly the attributes favour the groups; 0 is even. It has no sign, and "
                    "a model that prefers no group on the whole is above 0 too, as no two words "
                    "are equally likely: compare two models on the same data."
                ),
            ),
        )

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per template and attribute."""
        return attribute_probes(data, _targets)

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """The variance of every template and attribute, and whom they favour most and least."""
        targets = [probe.labels["targets"] for probe in probes]
        asked = [
            (probe.prompt, probe.labels["attribute"], words)
            for probe, words in zip(probes, targets, strict=True)
        ]
        told, prior = target_logps(masked(model, self.name), asked)
        ratios = [after - before for after, before in zip(told, prior, strict=True)]
        return frame(
            probes,
            input=[probe.prompt for probe in probes],
            attribute=[probe.labels["attribute"] for probe in probes],
            favoured=[
                words[int(part.argmax())] for words, part in zip(targets, ratios, strict=True)
            ],
            disfavoured=[
                words[int(part.argmin())] for words, part in zip(targets, ratios, strict=True)
            ],
            spread=[float(np.ptp(part)) for part in ratios],
            score=[float(part.var(ddof=1)) for part in ratios],
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By group."""
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """The score with its interval."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """The groups that are favoured most often, and that the score has no sign."""
        names, counts = np.unique(items["favoured"].to_numpy(dtype=str), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:3]
        told = ", ".join(f"{names[i]} ({counts[i]} of {len(items)} items)" for i in order)
        return [f"favoured most often: {told}", "a variance is above 0 without any bias too"]


def _targets(row: Mapping[str, Any], place: str) -> dict[str, Words]:
    """The groups' words, checked."""
    return {"targets": words_of(row["targets"], "targets", place, least=2)}
