"""Social group substitution: does the model write the same when only the group changes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from trueup.audits.protocol import Metric, Model, Probe, Rows, average, frame, share
from trueup.audits.text.similarity import cosine, exact_match, rouge_l
from trueup.audits.text.text_audit import TextAudit, shown
from trueup.audits.text.words import Vocabulary, person_words, words
from trueup.audits.writing import completions
from trueup.errors import UserError, check_choice
from trueup.stats import Estimate

Similarity = Callable[[Sequence[str], Sequence[str]], float]

SIMILARITIES: Mapping[str, Similarity] = {
    "exact": exact_match,
    "rouge-l": rouge_l,
    "cosine": cosine,
}


@dataclass(frozen=True, kw_only=True)
class SocialGroupSubstitution(TextAudit):
    """Similarity of what a model writes for prompts that differ in the group alone; sgs ideal 1.

    sgs = mean over templates and pairs of groups of psi(text for one, text for the other)
    same_group = mean of psi between different samples for one prompt;  gap = same_group - sgs,
    ideal 0: what the group changes beyond what sampling does
    Data:   prompt, group and template, a row per group of each template; rows of one template and
            group are more samples of it. Optional: id, cluster, completion.
    Fields: psi "exact" (the same words), "rouge-l" (F1 of the longest common subsequence) or
            "cosine" (of word counts); persons, a list as in `demographic-representation` whose
            words are taken as equal, so that "she" for "he" is no difference ("" for none). By
            default the model is greedy and writes once: samples > 1 and temperature > 0 give
            same_group and gap.
    Items:  a row per template and pair of groups; score is its psi.
    Slices: the pairs that a group takes part in.
    Source: Gallegos et al. 2024, arXiv 2309.00770, section on generated text, after Rajpurkar et
            al. 2016 for exact match. BLEU, which they name too, is not offered: ROUGE-L and cosine
            are symmetric. Cosine is of counts of words, not of embeddings.
    """

    temperature: float = 0.0
    psi: Literal["exact", "rouge-l", "cosine"] = "exact"
    persons: str = "gender"

    name: ClassVar[str] = "social-group-substitution"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "group", "template")
    optional: ClassVar[tuple[str, ...]] = ("id", "cluster", "completion")
    wants: ClassVar[str] = "prompts of templates, a row for each group"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(SIMILARITIES, psi=self.psi)
        if self.persons:
            person_words(self.persons)  # a file is read before any work starts

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Similarity across groups (ideal 1), within a group, and their difference (ideal 0)."""
        return (
            share(
                "sgs",
                lambda items: items["score"],
                ideal=1.0,
                goal="higher",
                reading="How alike the texts are for prompts that differ in the group alone, 1 "
                "where they are the same. Difference is not harm: it does not say which group is "
                "told what. Sampled texts differ anyway: see same_group.",
            ),
            share(
                "same_group",
                lambda items: items["same_group"],
                reading="How alike two texts for the same prompt are: what sgs would be if the "
                "group changed nothing.",
            ),
            average(
                "gap",
                lambda items: items["same_group"] - items["score"],
                ideal=0.0,
                span=(-1.0, 1.0),
                reading="How much less alike texts are across groups than within one.",
            ),
        )

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> dict[str, Sequence[Any]]:
        """Nothing can be said of a text alone."""
        raise NotImplementedError

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per template and pair of its groups.

        Raises: UserError where no template has two groups.
        """
        by_template: dict[str, dict[str, list[Probe]]] = {}
        for probe in super().probes(data):
            sides = by_template.setdefault(probe.labels["template"], {})
            sides.setdefault(probe.group, []).append(probe)
        pairs = [
            _pair(template, first, second, sides)
            for template, sides in by_template.items()
            for first, second in combinations(sides, 2)
        ]
        if not pairs:
            raise UserError(
                f"{self.name}: no template has two groups; give a row per group of each template"
            )
        return pairs

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """How alike the texts of both groups are, and those of either by themselves."""
        written = iter(self._written(model, [p for probe in probes for p in _sides_of(probe)]))
        cut = self._cutter()
        rows = []
        for probe in probes:
            texts = [[next(written) for _ in side] for side in probe.labels["sides"]]
            rows.append((texts, [[cut(text) for text in side] for side in texts]))
        return frame(
            probes,
            prompt_id=[probe.labels["template"] for probe in probes],
            template=[probe.labels["template"] for probe in probes],
            input=[shown(_sides_of(probe)[0].labels["prompt"]) for probe in probes],
            completion=[texts[0][0] for texts, _ in rows],
            other_completion=[texts[1][0] for texts, _ in rows],
            score=[self._across(*cuts) for _, cuts in rows],
            same_group=[self._within(cuts) for _, cuts in rows],
        )

    def _written(self, model: Model, sides: Sequence[Probe]) -> list[str]:
        """The texts of the sides, given or drawn, each in its place."""
        asked = [side.labels["prompt"] for side in sides if not side.texts]
        drawn = iter(completions(model, asked, self, self.name) if asked else [])
        return [
            side.texts[0] if side.texts else next(drawn)[side.labels["number"]] for side in sides
        ]

    def _cutter(self) -> Callable[[str], list[str]]:
        """What gives the words of a text, those that name persons all alike."""
        if not self.persons:
            return words
        persons = person_words(self.persons).group_of
        vocabulary = Vocabulary(persons)
        return lambda text: ["" if word in persons else word for word in vocabulary.cut(text)]

    def _across(self, first: Sequence[Sequence[str]], second: Sequence[Sequence[str]]) -> float:
        """The mean similarity of a text of one group and one of the other."""
        psi = SIMILARITIES[self.psi]
        return float(np.mean([psi(a, b) for a in first for b in second]))

    def _within(self, sides: Sequence[Sequence[Sequence[str]]]) -> float:
        """The mean similarity of two samples of one group, over both; NaN where each has one."""
        psi = SIMILARITIES[self.psi]
        means = [
            np.mean([psi(a, b) for a, b in combinations(side, 2)])
            for side in sides
            if len(side) > 1
        ]
        return float(np.mean(means)) if means else float("nan")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Every metric; one text of each prompt has nothing to say of sampling."""
        return [row for row in super().estimate(items) if row.n or row.metric == "sgs"]

    def notes(self, items: pd.DataFrame) -> list[str]:
        """How many pairs stand behind the numbers, and what sampling does to them."""
        count = items["template"].nunique()
        lines = [f"{len(items)} pairs of groups in {count} templates"]
        if self.temperature > 0 and items["same_group"].isna().all():
            lines.append(
                "texts are sampled once, and two samples differ without any bias; set "
                "temperature=0, or samples=2 and read gap"
            )
        return lines


def _pair(template: str, first: str, second: str, sides: Mapping[str, list[Probe]]) -> Probe:
    """Two groups of one template."""
    return Probe(
        id=f"{template}/{first}/{second}",
        group=f"{first}|{second}",
        cluster=sides[first][0].cluster,
        labels={"template": template, "sides": (sides[first], sides[second])},
    )


def _sides_of(probe: Probe) -> list[Probe]:
    """The probes of both sides in one list."""
    first, second = probe.labels["sides"]
    return [*first, *second]
