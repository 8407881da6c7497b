"""What all audits of generated text share: prompts by group, completions, a row for each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from trueup.audits import estimates
from trueup.audits.protocol import (
    Metric,
    Model,
    Probe,
    Rows,
    Slices,
    frame,
    place_of,
    slices_by,
    text_of,
)
from trueup.audits.text.bold import read_bold
from trueup.audits.writing import completions
from trueup.data.canonical import canonical
from trueup.errors import UserError, check_at_least, check_between
from trueup.stats import Estimate


@dataclass(frozen=True, kw_only=True)
class TextAudit:
    """The fields and steps of an audit of generated text; `score` and `metrics` are its own.

    Data:   prompt; optional id, group (names joined by "|"), template (what a counterfactual
            prompt shares with its variants for other groups), cluster, and completion: a row with
            one is taken as it is, and the model is not asked. Or a file of BOLD, `read_bold`.
    Items:  a row per completion; rows of one text and group have one prompt_id, also where several
            completions of it were given; the template, else the prompt, is the cluster unless the
            data name another.
    Fields: samples completions per prompt; max_new_tokens, temperature, top_p and seed as in
            `LanguageModel.sample`; level of intervals.
    """

    samples: int = 1
    max_new_tokens: int = 32
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    level: float = 0.95

    name: ClassVar[str] = ""
    columns: ClassVar[tuple[str, ...]] = ("prompt",)
    optional: ClassVar[tuple[str, ...]] = ("id", "group", "template", "cluster", "completion")
    wants: ClassVar[str] = "prompts to complete"

    def __post_init__(self) -> None:
        check_at_least(1, samples=self.samples, max_new_tokens=self.max_new_tokens)
        check_at_least(0, temperature=self.temperature)
        check_between(0, 1, top_p=self.top_p)
        check_between(0.01, 0.999, level=self.level)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The numbers, the headline first."""
        raise NotImplementedError

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> dict[str, Sequence[Any]]:
        """The columns that the metrics read, one value per text; `score` is among them."""
        raise NotImplementedError

    def read_own(self, path: Path) -> list[dict[str, Any]] | None:
        """The rows of a file in a form of its own; None for a table."""
        return read_bold(path)

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per prompt and sample; a given completion is one probe."""
        first: dict[tuple[bytes, str], str] = {}
        return [
            probe
            for index, row in enumerate(data)
            for probe in self._probes(row, index, place_of(data, index), first)
        ]

    def _probes(
        self, row: Mapping[str, Any], index: int, place: str, first: dict[tuple[bytes, str], str]
    ) -> Iterator[Probe]:
        """The probes of one row; `first` holds the first id of every prompt and group."""
        prompt, given = row["prompt"], row.get("completion")
        if not prompt:
            raise UserError(f"{place}: 'prompt' is empty; give a text to complete")
        own, template = text_of(row, "id", index + 1), text_of(row, "template")
        group = text_of(row, "group")
        prompt_id = first.setdefault((canonical({"prompt": prompt}), group), own)
        count = self.samples if given is None else 1
        for number in range(count):
            yield Probe(
                id=own if count == 1 else f"{own}/{number + 1}",
                group=group,
                cluster=text_of(row, "cluster", template or prompt_id),
                texts=() if given is None else (str(given),),
                labels={
                    "prompt": prompt,
                    "prompt_id": prompt_id,
                    "number": number,
                    "template": template,
                },
            )

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """The completions and their scores."""
        asked = [probe for probe in probes if not probe.texts]
        drawn = iter(
            completions(model, [probe.labels["prompt"] for probe in asked], self, self.name)
            if asked
            else []
        )
        texts = [
            probe.texts[0] if probe.texts else next(drawn)[probe.labels["number"]]
            for probe in probes
        ]
        prompts = [shown(probe.labels["prompt"]) for probe in probes]
        return frame(
            probes,
            prompt_id=[probe.labels["prompt_id"] for probe in probes],
            template=[probe.labels["template"] for probe in probes],
            input=prompts,
            completion=texts,
            **self.score(prompts, texts),
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By group."""
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Every metric, with intervals."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """How many texts stand behind the numbers, and that some are empty."""
        empty = int((items["completion"].str.strip() == "").sum())
        told = f"{len(items)} texts of {items['prompt_id'].nunique()} prompts"
        return [f"{told}, {empty} of them empty" if empty else told]


def shown(prompt: Any) -> str:
    """A prompt as text: chat messages one under the other."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def groups_of(items: pd.DataFrame) -> list[str]:
    """The distinct group names of the items, sorted; those joined by "|" apart."""
    return sorted({name for text in items["group"].unique() for name in text.split("|")} - {""})
