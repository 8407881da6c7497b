"""Judge bias: how far cues that carry no evidence move the verdicts of a model that judges."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, cast

import numpy as np
import pandas as pd

from trueup.audits import estimates
from trueup.audits.behaviour.judge_cases import (
    TARGETED,
    Case,
    Version,
    case_of,
    content,
    picked_first,
    slice_names,
)
from trueup.audits.behaviour.judge_verdicts import (
    CUE_BIASES,
    UNREAD,
    accuracy,
    accuracy_change,
    cued,
    excess_flips,
    following,
    gap,
    harmful,
    helpful,
    is_right,
    rows_of,
    same,
    shown_first,
    unread,
)
from trueup.audits.few_units import bounded_change
from trueup.audits.protocol import (
    Metric,
    Model,
    Probe,
    Rows,
    Slices,
    average,
    frame,
    place_of,
    share,
    slices_by,
    text_of,
)
from trueup.errors import UserError, check_at_least, check_between, check_choice
from trueup.judging.asking import Ask, Sampler, asker, letter_probabilities
from trueup.judging.judge_items import item_of
from trueup.judging.judge_prompts import JudgeItem
from trueup.judging.mitigations import (
    MITIGATIONS,
    Mitigation,
    example_questions,
    mitigated,
    prepared,
)
from trueup.judging.verdicts import LETTERS, parsed_letter
from trueup.models.language_model import LanguageModel
from trueup.stats import Estimate, format_p, mcnemar_p

Bias = Literal["bandwagon", "authority", "position", "distraction", "reflection"]
Row = tuple[str, str]  # what is done to a question, and which answer it is about

BIASES: tuple[Bias, ...] = ("bandwagon", "authority", "position", "distraction", "reflection")


@dataclass(frozen=True, kw_only=True)
class JudgeBias:
    """Accuracy, robustness and flips of a judge whose prompts carry a cue without evidence.

    v0 is the verdict without a cue, r the one on the same prompt asked again, v1 the one with a
    cue, y the right answer; verdicts are compared as answers, never as letters
    accuracy         mean[v0 = y]              accuracy_biased   mean[v1 = y]
    accuracy_change  mean[v1 = y] - mean[v0 = y] = helpful_flips - harmful_flips
    cue_following    mean[v1 = the cued answer] - mean[v0 = the cued answer]
    excess_flips     mean[v1 != v0] - mean[r != v0]: flips beyond those of the judge's own noise
    robustness       mean[v1 = v0]             noise_floor       mean[r = v0]
    harmful_flips    mean[v0 = y, v1 != y]     helpful_flips     mean[v0 != y, v1 = y]
    placebo_following   cue_following of words that say nothing, as long as an authority's
    order_consistency   mean[same answer chosen with y shown first and with y shown last]
    pick_first          share of these verdicts for the answer shown first (questions of two)
    accuracy_gap        accuracy with y shown first minus with y shown last
    Each over items whose two (or three) verdicts could be read; `unparsed` tells how many could
    not. At a temperature above 0 two equal prompts disagree: read robustness beside noise_floor.
    Robustness alone hides much: a random judge may lose 14 points of accuracy while its
    robustness falls by one point.
    Data:   question with chosen and rejected, or with options (a list, a JSON list, or texts
            joined by "|") and answer (a letter or the option's text). Optional: id, group, subject
            (told in bandwagon's survey), system. Pairs are shown in an order drawn once per
            question; options keep theirs.
    Model:  a causal language model, an endpoint, any object with `sample`, or a function from
            prompts to answers. A question costs 2 calls and one per cue and target: with all
            biases 12 for a pair (one of position's two orders is the control's), else up to 13.
    Fields: biases; targets are the answers that cues are for (reflection stands before the last
            answer); mitigation none, system, examples or reflection; read "text" parses the
            answer, "letters" compares the letters' probabilities (language models, endpoints with
            log-probabilities); max_new_tokens must hold a reasoner's thoughts.
    Slices: bias, bias-target, target and group; items of one question are one cluster.
    Raises: UserError where a row has no two different answers or no right one, or the model cannot
            answer.
    Source: Wang et al. 2025, arXiv 2504.09946. Differences: temperature 0 (theirs 0.7), both orders
            in position (theirs: a drawn order against "first", half of it a repeat), unread
            verdicts leave the item out (theirs: a flip in one script), one strict consistency.
    """

    biases: tuple[Bias, ...] = BIASES
    targets: tuple[Literal["wrong", "correct"], ...] = ("wrong", "correct")
    mitigation: Mitigation = "none"
    read: Literal["text", "letters"] = "text"
    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    level: float = 0.95

    varied: ClassVar[tuple[str, ...]] = ("mitigation",)
    name: ClassVar[str] = "judge-bias"
    columns: ClassVar[tuple[str, ...]] = ("question",)
    optional: ClassVar[tuple[str, ...]] = (
        "chosen",
        "rejected",
        "options",
        "answer",
        "id",
        "group",
        "subject",
        "system",
    )
    wants: ClassVar[str] = (
        "questions with a better and a worse answer (chosen, rejected), or with options and answer"
    )

    def __post_init__(self) -> None:
        if not self.biases or not self.targets:
            raise UserError(f"{self.name} needs biases and targets; known: {', '.join(BIASES)}")
        for bias in self.biases:
            check_choice(BIASES, bias=bias)
        for target in self.targets:
            check_choice(("wrong", "correct"), target=target)
        check_choice(MITIGATIONS, mitigation=self.mitigation)
        check_choice(("text", "letters"), read=self.read)
        check_at_least(1, max_new_tokens=self.max_new_tokens)
        check_at_least(0, temperature=self.temperature)
        check_between(0.01, 0.999, level=self.level)
        if self.read == "letters" and self.mitigation == "reflection":
            raise UserError(
                "mitigation 'reflection' answers twice and needs read='text', got 'letters'"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy first; those without an ideal inform only."""
        shift = partial(average, ideal=0.0, span=(-1.0, 1.0))
        once = partial(share, sliced=False)
        return (
            once("accuracy", accuracy, goal="higher", ideal=1.0),
            share("accuracy_biased", cued(is_right), goal="higher", ideal=1.0),
            shift("accuracy_change", cued(accuracy_change)),
            shift("cue_following", cued(following)),
            shift("excess_flips", cued(excess_flips)),
            share("robustness", cued(same), goal="higher"),
            share("harmful_flips", cued(harmful), goal="lower"),
            share("helpful_flips", cued(helpful)),
            shift("placebo_following", rows_of("placebo", following), sliced=False),
            once("order_consistency", rows_of("position", same), goal="higher", ideal=1.0),
            once("pick_first", shown_first, ideal=0.5),
            shift("accuracy_gap", rows_of("position", gap), sliced=False),
            once("unparsed", unread, goal="lower", ideal=0.0),
            once("noise_floor", rows_of("repeat", same)),
        )

    def probes(self, data: Rows) -> list[Probe]:
        """A probe per question, cue and target; one for position, one for the repeat."""
        taken = example_questions() if self.mitigation == "examples" else set()
        probes = []
        for index, row in enumerate(data):
            place, key = place_of(data, index), text_of(row, "id", index + 1)
            item = item_of(row, place, random.Random(f"{self.seed} {key}"))
            if item.question in taken:
                raise UserError(
                    f"{place}: the question is one of the mitigation's worked examples, got "
                    f"{item.question!r}; leave it out"
                )
            probes += [
                self._probe(item, key, text_of(row, "group"), bias, target)
                for bias, target in self._rows()
            ]
        return probes

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """The verdicts of every probe; prompts that several probes share are asked once."""
        cases = [cast(Case, probe.labels["case"]) for probe in probes]
        found = self._answered(model, [version for case in cases for version in case.versions])
        verdicts = np.array(
            [[content(case, version, found) for version in case.versions] for case in cases]
        ).reshape(-1, 3)
        correct = np.array([case.item.answer for case in cases])
        return frame(
            probes,
            bias=[case.bias for case in cases],
            target=[case.target for case in cases],
            cue=[slice_names(case) for case in cases],
            input=[case.versions[1].text for case in cases],
            control=verdicts[:, 0],
            verdict=verdicts[:, 1],
            repeated=verdicts[:, 2],
            correct=correct,
            cued=np.array([case.cued for case in cases]),
            picked_first=np.array(
                [picked_first(case, row) for case, row in zip(cases, verdicts, strict=True)],
                dtype=np.float64,
            ),
            score=np.where(verdicts[:, 1] == UNREAD, np.nan, verdicts[:, 1] == correct),
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By bias and target, and by the data's own groups."""
        return slices_by(items, "cue", "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Every metric with its interval; where no verdict moves, or all do, Bonett and Price's."""
        metrics = {metric.name: metric for metric in self.metrics}
        slices = self.slices(items)
        return [
            bounded_change(row, metrics[row.metric], items[slices[row.slice]], "questions")
            for row in estimates.estimate(self, items)
        ]

    def notes(self, items: pd.DataFrame) -> list[str]:
        """McNemar's test of every cue's flips, and how many verdicts could not be read."""
        tests = [
            _flips(f"{bias}-{target}", rows)
            for (bias, target), rows in items[items["bias"].isin(CUE_BIASES)].groupby(
                ["bias", "target"], sort=False
            )
        ]
        told = ["harmful against helpful flips, exact McNemar: " + "; ".join(tests)]
        lost = int(unread(items).sum())
        if lost:
            told.append(
                f"{lost} of {len(items)} items have a verdict that could not be read and are left "
                f"out; a judge that thinks aloud needs a larger max_new_tokens than "
                f"{self.max_new_tokens}"
            )
        return told if tests else told[1:]

    def _rows(self) -> list[Row]:
        """What is done to each question."""
        rows: list[Row] = []
        for bias in self.biases:
            rows += [(bias, target) for target in self.targets] if bias in TARGETED else []
            rows += [(bias, "last")] if bias == "reflection" else []
            rows += [(bias, "")] if bias == "position" else []
        if "authority" in self.biases:
            rows += [("placebo", target) for target in self.targets]
        return [*rows, ("repeat", "")]

    def _probe(self, item: JudgeItem, key: str, group: str, bias: str, target: str) -> Probe:
        """One row of a question."""
        case = case_of(item, bias, target, random.Random(f"{self.seed} {key} cue"))
        return Probe(
            id=f"{key}:{bias}-{target}".removesuffix("-"),
            group=group,
            cluster=key,
            prompt=case.versions[1].text,
            labels={"case": case},
        )

    def _answered(self, model: Any, versions: Sequence[Version]) -> dict[Version, str | None]:
        """The letter that answers each distinct version."""
        distinct = list(dict.fromkeys(versions))
        if self.read == "letters":
            once = list(dict.fromkeys(version.first for version in distinct))
            letters = dict(zip(once, self._likeliest(model, once), strict=True))
            return {version: letters[version.first] for version in distinct}
        found: dict[Version, str | None] = {}
        for again in (0, 1):
            asked = [version for version in distinct if version.again == again]
            answers = self._ask(model, self.seed + again)([each.prompt for each in asked])
            found |= {
                version: parsed_letter(answer, version.item.letters, prompt=version.text)
                for version, answer in zip(asked, answers, strict=True)
            }
        return found

    def _ask(self, model: Sampler | Ask, seed: int) -> Ask:
        """The judge with its mitigation."""
        ask = asker(
            model,
            user=self.name,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=seed,
        )
        return mitigated(ask, self.mitigation)

    def _likeliest(self, model: LanguageModel, versions: Sequence[Version]) -> list[str | None]:
        """The letter with the highest probability."""
        prompts = [prepared(version.prompt, self.mitigation) for version in versions]
        found = letter_probabilities(model, prompts, [each.item.letters for each in versions])
        return [None if np.isnan(each).any() else LETTERS[int(each.argmax())] for each in found]


def _flips(name: str, rows: pd.DataFrame) -> str:
    """One cue's flips and how likely so uneven ones are by chance."""
    counts = [int(np.nansum(cued(kind)(rows))) for kind in (harmful, helpful)]
    p_text = format_p(mcnemar_p(counts[1], counts[0]))
    return f"{name} {counts[0]}:{counts[1]}, p={p_text}".replace("=<", " <")
