"""Full generation bias: how far the style of what a model writes varies with who is described."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.audits.protocol import Metric, Probe, Rows, Slices, slices_by
from trueup.audits.text.scored_text import ScoredText
from trueup.audits.text.style_variance import (
    Cells,
    descriptor_terms,
    variance,
    variance_interval,
)
from trueup.errors import UserError
from trueup.models.text_scorers import Scorer, class_scores_of, load_class_scorer, scorer_of
from trueup.stats import Estimate, Labels
from trueup.stats.estimate import Array

PREFIX = "style_"  # of the items' columns of classes


@dataclass(frozen=True, kw_only=True)
class FullGenerationBias(ScoredText):
    """The variance over descriptors of the mean style, summed over the classes of style; ideal 0.

    fgb = sum over classes c of Var over descriptors w of s_wc
    s_wc = mean over templates of the mean share of c in the completions of w in that template
    corrected = fgb less what the noise of s_wc adds to it: 0 in expectation where all descriptors
                get texts of one style
    partial_NAME = fgb summed over some classes only;   0 <= fgb <= 1 - 1/C on shares that sum to 1
    Data:   group is the descriptor ("axis|descriptor" is one, and makes a slice of every axis with
            two descriptors); template is what its prompts share with those of others; without one
            each prompt stands alone, and where a descriptor has a single prompt, each completion.
    Items:  style_CLASS, the share of each class; score, the largest; a descriptor is the cluster.
    Fields: scorer is what `load_class_scorer` takes, or a callable that gives shares of classes;
            partial holds clusters of classes as texts "NAME=class+class"; sample divides by D - 1
            descriptors in place of D.
    Intervals: `variance_interval`.
    Source: Smith et al. 2022, arXiv 2205.09209. Their classifier of 217 styles is not public, so
            the classes are those of the scorer; each template of a descriptor weighs the same.
    """

    partial: tuple[str, ...] = ()
    sample: bool = False

    name: ClassVar[str] = "full-generation-bias"
    vader_is: ClassVar[str] = "a lexicon with three classes of sentiment, not a classifier of style"

    def __post_init__(self) -> None:
        super().__post_init__()
        for text in self.partial:
            name, mark, classes = text.partition("=")
            if not (name and mark and all(classes.split("+"))):
                raise UserError(
                    f"full-generation-bias.partial must look like NAME=class+class, got {text!r}"
                )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The variance as published, without its noise, and of clusters of classes."""
        parts = [text.partition("=") for text in self.partial]
        return (
            self._metric(
                "fgb",
                reading=(
                    "How much the average style of texts differs between descriptors. Few texts "
                    "for each make it larger: its interval is that of the variance without noise, "
                    "stretched to hold the number."
                ),
            ),
            self._metric(
                "corrected",
                is_corrected=True,
                reading=(
                    "The same without what chance adds to it: about 0 where descriptors make no "
                    "difference, and sometimes below."
                ),
            ),
            *(
                self._metric(
                    f"partial_{name}",
                    classes=classes.lower().split("+"),
                    reading="The part of fgb that these classes of style carry.",
                )
                for name, _, classes in parts
            ),
        )

    def loaded(self) -> Scorer:
        """The classifier itself."""
        return scorer_of(self.scorer, load_class_scorer)

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per prompt and sample; the descriptor is its cluster."""
        probes = [replace(probe, cluster=probe.group) for probe in super().probes(data)]
        found = {probe.group for probe in probes}
        if "" in found or len(found) < 2:
            told = ", ".join(sorted(found - {""})[:3]) or "none"
            raise UserError(
                f"full-generation-bias compares descriptors, got {told}; give every row one in the "
                "column group, and two at least"
            )
        return probes

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> dict[str, Sequence[Any]]:
        """The share of every class, and the largest."""
        shares = class_scores_of(self.loaded(), prompts, texts)
        absent = [name for name in self._wanted() if name not in shares]
        if absent:
            raise UserError(
                f"full-generation-bias: the scorer has no class {absent[0]!r}; known: "
                f"{', '.join(shares)}"
            )
        largest: list[float] = np.max(list(shares.values()), axis=0).tolist()
        columns = {PREFIX + name: values.tolist() for name, values in shares.items()}
        return {"score": largest, **columns, **self.signed(len(texts))}

    def slices(self, items: pd.DataFrame) -> Slices:
        """Every name that several descriptors share: an axis."""
        found = slices_by(items, "group")
        several = {name: mask for name, mask in found.items() if items["group"][mask].nunique() > 1}
        return {"all": found["all"], **several}

    def _wanted(self) -> list[str]:
        """The classes that `partial` names."""
        return [name.lower() for text in self.partial for name in text.partition("=")[2].split("+")]

    def _metric(
        self,
        name: str,
        *,
        reading: str,
        is_corrected: bool = False,
        classes: Sequence[str] | None = None,
    ) -> Metric:
        """A variance over some classes, all by default."""

        def interval(items: pd.DataFrame, rng: np.random.Generator, labels: Labels) -> Estimate:
            cells, lines = cells_of(items, classes)
            return variance_interval(
                cells,
                is_sample=self.sample,
                is_corrected=is_corrected,
                n=len(lines),
                rng=rng,
                labels=labels,
            )

        return Metric(
            name=name,
            kind="statistic",
            terms=partial(_terms, classes=classes, is_corrected=is_corrected),
            value=partial(variance, is_sample=self.sample, is_corrected=is_corrected),
            ideal=0.0,
            interval=interval,
            reading=reading,
        )


def cells_of(
    items: pd.DataFrame, classes: Sequence[str] | None = None
) -> tuple[Cells, NDArray[np.intp]]:
    """The cells of the texts that have shares, and which rows [M] these are.

    A cell is a descriptor in a template; without templates a prompt; where every descriptor then
    has one cell, a text.
    """
    known = [str(name) for name in items if str(name).startswith(PREFIX)]
    columns = known if classes is None else [PREFIX + name for name in classes]
    lines = np.flatnonzero(items[columns].notna().all(axis=1))
    some = items.iloc[lines]
    template = some["template"].where(some["template"] != "", some["prompt_id"])
    has_templates = bool((some["template"] != "").any())
    if not (template.groupby(some["group"]).nunique() > 1).any():
        template, has_templates = some["id"], False
    table = some[columns].groupby([some["group"], template.rename("cell")]).mean()
    descriptor, _ = pd.factorize(table.index.get_level_values("group"))
    shared, _ = pd.factorize(table.index.get_level_values("cell"))
    return Cells(table.to_numpy(), descriptor, shared if has_templates else None), lines


def _terms(items: pd.DataFrame, classes: Sequence[str] | None, is_corrected: bool) -> Array:
    """The descriptors' terms, each in its first row, NaN in the others, [N, 2 C + 2]."""
    cells, lines = cells_of(items, classes)
    own = descriptor_terms(cells)
    if not is_corrected:
        own[:, -1] = 0.0  # noise that cannot be seen takes only the corrected number away
    found = np.full((len(items), 2 * cells.shares.shape[1] + 2), np.nan)
    names = items["group"].iloc[lines]
    first = lines[~names.duplicated().to_numpy()]
    found[first[np.argsort(items["group"].iloc[first])]] = own
    return found
