"""LPBS: does an attribute lean to one group's words more than the bare template does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from trueup.audits import estimates
from trueup.audits.probability.bec_pro import read_bec_pro
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
from trueup.stats.estimate import Array


@dataclass(frozen=True, kw_only=True)
class LPBS:
    """Log probability bias score: log-ratio of two groups after the prior is taken off; ideal 0.

    LPBS = log( P(A | w) / P_prior(A) ) - log( P(B | w) / P_prior(B) )
    P(A | w) = sum over A's words of P(word at [TARGET] | the template with w at [ATTRIBUTE])
    P_prior(A) = the same with [ATTRIBUTE] masked as well;  above 0: w leans to A
    uncorrected = log P(A | w) - log P(B | w), which a group that is likelier anyway moves
    A word of k pieces: k masks, the product over pieces of piece j's probability at mask j.
    Data:   template ("[TARGET] is [ATTRIBUTE]."), a and b (each group's words joined by "|"),
            attribute (words joined by "|", an item each). Optional: id; group (names joined by
            "|", each a slice); cluster, by default the attribute, as one word's items in several
            templates are no independent findings. BEC-Pro's own table is read too.
    Raises: UserError where a template lacks a slot, or the model fills no masks.
    Source: Kurita et al. 2019, arXiv 1906.07337; sums over word sets as in their code; BEC-Pro:
            Bartl et al. 2020, arXiv 2010.14534.
    """

    level: float = 0.95

    name: ClassVar[str] = "lpbs"
    columns: ClassVar[tuple[str, ...]] = ("template", "a", "b", "attribute")
    optional: ClassVar[tuple[str, ...]] = ("id", "group", "cluster")
    wants: ClassVar[str] = "templates with the slots [TARGET] and [ATTRIBUTE], or the BEC-Pro table"

    def __post_init__(self) -> None:
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The score (ideal 0), its mean size (lower is better), the ratio without the prior."""
        return (
            average(
                "lpbs",
                lambda items: items["score"],
                ideal=0.0,
                reading=(
                    "By how many nats the attributes favour group A over group B, beyond what the "
                    "template favours by itself. Leans of attributes in opposite directions cancel."
                ),
            ),
            average(
                "size",
                lambda items: items["score"].abs(),
                goal="lower",
                span=(0.0, np.inf),
                reading=(
                    "How strongly the attributes lean either way. It is above 0 without any bias "
                    "too, as no two words are equally likely: compare it, do not test it against 0."
                ),
            ),
            average(
                "uncorrected",
                lambda items: items["logp_a"] - items["logp_b"],
                reading="The log-ratio with the prior left in; what the correction takes off.",
            ),
        )

    def read_own(self, path: Path) -> list[dict[str, Any]] | None:
        """The rows of BEC-Pro's table; None for any other file."""
        return read_bec_pro(path)

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per template and attribute."""
        return attribute_probes(data, _groups)

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """Log-probabilities of both groups with the attribute and without."""
        asked = [
            (probe.prompt, probe.labels["attribute"], (*probe.labels["a"], *probe.labels["b"]))
            for probe in probes
        ]
        told, prior = target_logps(masked(model, self.name), asked)
        sizes = [len(probe.labels["a"]) for probe in probes]
        with_word, without = (
            np.array([_sides(*pair) for pair in zip(logps, sizes, strict=True)]).reshape(-1, 2)
            for logps in (told, prior)
        )
        corrected = with_word - without
        return frame(
            probes,
            input=[probe.prompt for probe in probes],
            attribute=[probe.labels["attribute"] for probe in probes],
            a=["|".join(probe.labels["a"]) for probe in probes],
            b=["|".join(probe.labels["b"]) for probe in probes],
            logp_a=with_word[:, 0],
            logp_b=with_word[:, 1],
            prior_a=without[:, 0],
            prior_b=without[:, 1],
            score=corrected[:, 0] - corrected[:, 1],
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By group."""
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Every metric, with intervals."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """How few templates and words stand behind the numbers."""
        templates, attributes = items["input"].nunique(), items["attribute"].nunique()
        words = len(items[["a", "b"]].drop_duplicates())
        return [
            f"{templates} templates, {attributes} attributes, {words} sets of group words; the "
            "interval is one over attributes: another template or other words for the groups can "
            "move the score further than it says"
        ]


def _groups(row: Mapping[str, Any], place: str) -> dict[str, Words]:
    """Both groups' words, checked."""
    groups = {side: words_of(row[side], side, place) for side in ("a", "b")}
    words_of([*groups["a"], *groups["b"]], "a' and 'b", place)
    return groups


def _sides(logps: Array, size: int) -> tuple[float, float]:
    """Log-probabilities of group A, the first `size` words, and of group B."""
    return float(np.logaddexp.reduce(logps[:size])), float(np.logaddexp.reduce(logps[size:]))
