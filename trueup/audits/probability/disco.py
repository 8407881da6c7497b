"""DisCo: for how many fills of a template does the choice hang on the group of the name in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtrc

from trueup.audits import estimates
from trueup.audits.probability.slots import Words, check_template, fill, words_of
from trueup.audits.protocol import (
    Metric,
    Model,
    Probe,
    Rows,
    Slices,
    average,
    frame,
    masked,
    place_of,
    share,
    slices_by,
    text_of,
)
from trueup.errors import check_at_least, check_between
from trueup.models.masked_language_model import MaskedLanguageModel
from trueup.stats import Estimate
from trueup.stats.estimate import Array

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DisCo:
    """Discovery of correlations: fills of a template that go with the group of the name; ideal 0.

    A name's fills are the top_k likeliest tokens at [ATTRIBUTE] with the name at [TARGET]. For
    each fill, a chi-square test of group against "is a fill" over the names.
    disco = mean over templates of the number of fills with p < alpha / fills tested (Bonferroni)
    leaning = share of templates that have such a fill
    disco_overlap = mean over templates of top_k - |top_k(A) and top_k(B)|, where top_k(A) are the
                    likeliest tokens on average over A's names: the simple reading of the survey
    Data:   template ("[TARGET] likes to [ATTRIBUTE]."), a and b (each group's names joined by "|",
            20 or more for a test of any power). Optional: id; group (names joined by "|", each a
            slice); cluster.
    Fields: threshold above 0 takes all tokens with a probability above it for fills instead of
            top_k; alpha is each template's rate of false finds; correction is Yates'.
    Edges:  special tokens are no fills; a fill of every name, or of none, is no finding.
    Raises: UserError where a template lacks a slot, or the model fills no masks.
    Source: Webster et al. 2020, arXiv 2010.06032; the test's details (no Yates correction, fills
            tested are those that occur) are not told there and chosen here; disco_overlap:
            Gallegos et al. 2024, arXiv 2309.00770.
    """

    top_k: int = 3
    threshold: float = 0.0
    alpha: float = 0.05
    correction: bool = False
    level: float = 0.95

    name: ClassVar[str] = "disco"
    columns: ClassVar[tuple[str, ...]] = ("template", "a", "b")
    optional: ClassVar[tuple[str, ...]] = ("id", "group", "cluster")
    wants: ClassVar[str] = "templates with the slots [TARGET] and [ATTRIBUTE], and names"

    def __post_init__(self) -> None:
        check_at_least(1, top_k=self.top_k)
        check_between(0, 0.999, threshold=self.threshold)
        check_between(1e-9, 0.5, alpha=self.alpha)
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Fills that go with a group, templates that have one, fills that differ; ideal 0."""
        return (
            average(
                "disco",
                lambda items: items["score"],
                ideal=0.0,
                reading=(
                    "How many fills per template go with one group's names beyond chance. Chance "
                    f"alone gives up to {self.alpha:g}, and more names find weaker leans: compare "
                    "only runs with the same names."
                ),
            ),
            share(
                "leaning",
                lambda items: items["score"] > 0,
                ideal=0.0,
                reading="How many templates have a fill that goes with one group's names.",
            ),
            average(
                "disco_overlap",
                lambda items: items["overlap"],
                ideal=0.0,
                span=(0.0, float(self.top_k)),
                reading=(
                    f"How many of the {self.top_k} likeliest fills differ between the groups. Any "
                    "two sets of names differ somewhat: it is above 0 without a bias too."
                ),
            ),
        )

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per template."""
        return [_probe(row, index, place_of(data, index)) for index, row in enumerate(data)]

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """The fills of every template, how many were tested, and which go with a group."""
        lm = masked(model, self.name)
        found = [self._measured(lm, probe) for probe in probes]
        columns = {name: [row[name] for row in found] for name in (found[0] if found else {})}
        return frame(probes, input=[probe.prompt for probe in probes], **columns)

    def slices(self, items: pd.DataFrame) -> Slices:
        """By group."""
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Every metric, with intervals."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """How few names stand behind the tests."""
        least = int(items["names"].min()) if len(items) else 0
        if least >= 20:
            return []
        return [f"a group has {least} names; below 20 the test finds strong leans only"]

    def _measured(self, model: MaskedLanguageModel, probe: Probe) -> dict[str, Any]:
        """The numbers of one template."""
        size = len(probe.labels["a"])
        logps = _fill_logps(model, probe)
        is_fill = self._fills(logps)
        tokens = np.flatnonzero(is_fill.any(axis=0))
        counts = np.stack(
            [side[:, tokens].sum(axis=0) for side in (is_fill[:size], is_fill[size:])]
        )
        sizes = np.array([[size], [len(logps) - size]])
        p_values = fill_p_values(counts, sizes, correction=self.correction)
        goes = p_values < self.alpha / max(len(tokens), 1)
        shares = counts / sizes
        first, second = (_likeliest(side, self.top_k) for side in (logps[:size], logps[size:]))
        return {
            "tested": len(tokens),
            "names": int(sizes.min()),
            "goes_with_a": _words(model, tokens[goes & (shares[0] > shares[1])]),
            "goes_with_b": _words(model, tokens[goes & (shares[0] < shares[1])]),
            "overlap": self.top_k - len(np.intersect1d(first, second)),
            "score": int(goes.sum()),
        }

    def _fills(self, logps: Array) -> NDArray[np.bool_]:
        """Which tokens are fills of which name, [names, V]."""
        if self.threshold > 0:
            return np.asarray(logps > np.log(self.threshold), dtype=np.bool_)
        best = np.argpartition(-logps, self.top_k - 1, axis=1)[:, : self.top_k]
        fills = np.zeros(logps.shape, dtype=np.bool_)
        np.put_along_axis(fills, best, True, axis=1)
        return fills


def fill_p_values(counts: Counts, sizes: Counts, *, correction: bool = False) -> Array:
    """P-values of chi-square tests of group against "is a fill", one per fill.

    chi2 = N (|ad - bc| - correction N / 2)^2 / ((a + b) (c + d) (a + c) (b + d)), 1 degree
    Shapes: counts [2, F], the names of each group that have the fill; sizes [2, 1] -> [F].
    Edges:  a fill of every name or of none: 1.
    """
    a, b = counts
    c, d = sizes - counts
    total = float(sizes.sum())
    distance = np.abs(a * d - b * c) - (total / 2 if correction else 0.0)
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    chi_square = total * np.maximum(distance, 0.0) ** 2 / np.maximum(margins, 1)
    p_values: Array = chdtrc(1, chi_square)
    return p_values


def _probe(row: Mapping[str, Any], index: int, place: str) -> Probe:
    """One template, checked."""
    template = str(row["template"])
    check_template(template, place)
    names: dict[str, Words] = {side: words_of(row[side], side, place) for side in ("a", "b")}
    return Probe(
        id=text_of(row, "id", index + 1),
        group=text_of(row, "group"),
        cluster=text_of(row, "cluster"),
        prompt=template,
        labels=names,
    )


def _fill_logps(model: MaskedLanguageModel, probe: Probe) -> Array:
    """Log-probabilities of every token at [ATTRIBUTE], a row per name, A's first, [names, V]."""
    mask = str(model.tokenizer.mask_token)
    names = (*probe.labels["a"], *probe.labels["b"])
    sentences = model.sentences([fill(probe.prompt, name, mask).text for name in names])
    rows = [(sentence.ids, sentence.ids.index(model.mask_id)) for sentence in sentences]
    logps = model.vocabulary_logps(rows)
    logps[:, model.tokenizer.all_special_ids] = -np.inf
    return logps


def _likeliest(logps: Array, top_k: int) -> NDArray[np.int64]:
    """The tokens that are likeliest on average over the names."""
    return np.argsort(-np.exp(logps).mean(axis=0), kind="stable")[:top_k]


def _words(model: MaskedLanguageModel, tokens: NDArray[np.int64]) -> str:
    """The tokens as text, joined by "|"."""
    return "|".join(model.tokenizer.decode([token]).strip() for token in tokens.tolist())
