"""PORTIA as an audit: does a judge keep its verdict when two answers change places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from trueup.audits import estimates
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
from trueup.errors import UserError, check_at_least, check_between
from trueup.judging.asking import asker
from trueup.judging.portia import Fallback, PortiaResult, Rule, Stage, asking, portia_judge
from trueup.judging.portia import Portia as Judging
from trueup.judging.portia_prompts import Form, parse_answer
from trueup.judging.portia_rates import agreeing, broken, fixed, tied
from trueup.judging.segmenting import segments
from trueup.judging.splitting import split_sentences
from trueup.judging.verdicts import Verdict
from trueup.stats import Estimate

LABELS: dict[str, Verdict] = {
    **dict.fromkeys(("1", "first", "answer_1"), "first"),
    **dict.fromkeys(("2", "second", "answer_2"), "second"),
    "tie": "tie",
}


@dataclass(frozen=True, kw_only=True)
class Portia:
    """A judge's consistency under swapped answers, plain and with PORTIA's aligned parts.

    consistency_before, _after = share of pairs with the same verdict in both orders
    fix_rate = share of inconsistent pairs that became consistent
    breakage = share of consistent pairs that became inconsistent or changed their verdict
    Beside them, for consistency is no correctness: the share of ties, of verdicts that could not
    be read, the agreement with `label` before and after, and PORTIA's calls per pair.
    Fields: k, stages, form, rule, inconsistent as in `trueup.judging.portia.Portia`; breakage is 0
            by construction unless `stages` leaves "plain" out: the plain verdicts are then asked
            for beside PORTIA's, and not counted among its calls.
    Slices: category; pairs of one question are one cluster.
    Source: Li et al. 2023, arXiv 2310.01432; breakage, ties and unread answers are added [R].
    """

    k: int = 3
    stages: tuple[Stage, ...] = ("plain", "length", "semantic")
    form: Form = "relation"
    rule: Rule = "side"
    inconsistent: Fallback = "tie"
    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    level: float = 0.95

    name: ClassVar[str] = "portia"
    columns: ClassVar[tuple[str, ...]] = ("question", "answer_1", "answer_2")
    optional: ClassVar[tuple[str, ...]] = ("id", "label", "category")
    wants: ClassVar[str] = "pairs of answers"

    def __post_init__(self) -> None:
        check_between(0.01, 0.999, level=self.level)
        check_at_least(1, max_new_tokens=self.max_new_tokens)
        check_at_least(0, temperature=self.temperature)
        self._judging(self.stages)  # checks the other fields

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Consistency after and before PORTIA, then what it cost and what it was worth."""
        return (
            share("consistency_after", partial(_column, "is_consistent_after"), **_HIGH),
            share("consistency_before", partial(_column, "is_consistent_before"), **_HIGH),
            share("fix_rate", _fixed, **_HIGH),
            share("breakage", _broken, **_LOW),
            share("tie_rate", _tied),
            share("unread", _unread, **_LOW),
            share("agreement_before", partial(_agreeing, "before"), **_HIGH),
            share("agreement_after", partial(_agreeing, "after"), **_HIGH),
            average("calls", partial(_column, "calls"), sliced=False),
        )

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per pair of answers."""
        rows = list(data)
        numbers: dict[str, int] = {}
        return [
            self._probe(row, index, place_of(data, index), numbers)
            for index, row in enumerate(rows)
        ]

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """The judge's verdicts on each pair before and after, told for answer 1."""
        ask = asker(
            model,  # type: ignore[arg-type]  # asker refuses a model that cannot answer
            user=self.name,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )
        ask_pair = asking(ask, partial(parse_answer, form=self.form))
        prompts = [probe.prompt for probe in probes]
        firsts, seconds = ([probe.texts[side] for probe in probes] for side in (0, 1))

        def judged(stages: tuple[Stage, ...]) -> list[PortiaResult]:
            return portia_judge(ask_pair, prompts, firsts, seconds, self._judging(stages))

        after = judged(self.stages)
        before = after if "plain" in self.stages else judged(("plain",))
        plain = [result.readings[0] for result in before]
        return frame(
            probes,
            input=[f"{probe.prompt} | {' | '.join(probe.texts)}" for probe in probes],
            label=[probe.labels["label"] for probe in probes],
            before=[reading.verdict or "" for reading in plain],
            after=[result.verdict or "" for result in after],
            is_consistent_before=[reading.consistent for reading in plain],
            is_consistent_after=[result.consistent for result in after],
            stage=[result.stage for result in after],
            calls=[result.calls for result in after],
            longest_part=[_longest_part(*pair) for pair in zip(after, probes, strict=True)],
            score=np.array([result.consistent for result in after], dtype=np.float64),
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By category."""
        return slices_by(items, "group")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Shares of pairs, with intervals."""
        return estimates.estimate(self, items)

    def notes(self, items: pd.DataFrame) -> list[str]:
        """How many pairs could not be cut, and what a reader cannot tell without labels."""
        found = []
        whole = int(((items["stage"] == "plain") & ~items["is_consistent_after"]).sum())
        if whole and self.stages != ("plain",):
            found.append(
                f"{whole} of {len(items)} pairs stay inconsistent uncut: one of the answers is a "
                "single sentence"
            )
        if (items["label"] == "").all():
            found.append(
                "consistency is no correctness: a judge that always says tie has all of it, and "
                "one that tosses coins gains some by being asked again; labels would show it"
            )
        return found

    def _judging(self, stages: tuple[Stage, ...]) -> Judging:
        """PORTIA with this audit's settings."""
        return Judging(
            k=self.k,
            stages=stages,
            form=self.form,
            rule=self.rule,
            inconsistent=self.inconsistent,
        )

    def _probe(
        self, row: Mapping[str, Any], index: int, place: str, numbers: dict[str, int]
    ) -> Probe:
        """One row, checked."""
        label = text_of(row, "label").strip().lower()
        if label and label not in LABELS:
            raise UserError(
                f"{place}: 'label' must be one of {', '.join(LABELS)}, got {row['label']!r}"
            )
        question = str(row["question"])
        number = numbers.setdefault(question, len(numbers) + 1)
        return Probe(
            id=text_of(row, "id", index + 1),
            group=text_of(row, "category"),
            cluster=f"question {number}",
            prompt=question,
            texts=(str(row["answer_1"]), str(row["answer_2"])),
            labels={"label": LABELS[label] if label else ""},
        )


_HIGH: dict[str, Any] = {"ideal": 1.0, "goal": "higher"}
_LOW: dict[str, Any] = {"ideal": 0.0, "goal": "lower"}


def _longest_part(result: PortiaResult, probe: Probe) -> int:
    """Characters of the longest part that the judge saw; 0 where the answers were not cut."""
    if result.cuts is None:
        return 0
    pairs = zip(probe.texts, result.cuts, strict=True)
    return max(len(part) for text, cuts in pairs for part in segments(split_sentences(text), cuts))


def _column(name: str, items: pd.DataFrame) -> ArrayLike:
    """A column as numbers."""
    return items[name].to_numpy(dtype=np.float64)


def _verdicts(items: pd.DataFrame, name: str) -> list[Verdict | None]:
    """A column of verdicts, None for what was not read or not given."""
    return [value or None for value in items[name]]


def _fixed(items: pd.DataFrame) -> ArrayLike:
    return fixed(items["is_consistent_before"], items["is_consistent_after"])


def _broken(items: pd.DataFrame) -> ArrayLike:
    return broken(
        items["is_consistent_before"],
        items["is_consistent_after"],
        _verdicts(items, "before"),
        _verdicts(items, "after"),
    )


def _tied(items: pd.DataFrame) -> ArrayLike:
    return tied(_verdicts(items, "after"))


def _unread(items: pd.DataFrame) -> ArrayLike:
    return (items["after"] == "").to_numpy(dtype=np.float64)


def _agreeing(when: str, items: pd.DataFrame) -> ArrayLike:
    return agreeing(_verdicts(items, when), _verdicts(items, "label"))
