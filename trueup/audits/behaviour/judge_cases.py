"""What a judge is asked about one question, and how the verdicts on its versions meet."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from trueup.audits.behaviour.judge_verdicts import UNREAD
from trueup.data.messages import Prompt
from trueup.judging.injections import Cue, Target, inject, moved
from trueup.judging.judge_prompts import JudgeItem, control, messages
from trueup.judging.verdicts import LETTERS

TARGETED = ("bandwagon", "authority", "distraction")  # biases with a cue for one answer of choice
NO_CUE = -1


@dataclass(frozen=True)
class Version:
    """One prompt about an item, its answers in the order of `item.options`; `again` asks anew."""

    item: JudgeItem
    text: str
    again: int = 0

    @property
    def prompt(self) -> Prompt:
        """What the judge reads."""
        return messages(self.text, self.item.system)

    @property
    def first(self) -> "Version":
        """The same, asked for the first time."""
        return Version(self.item, self.text)


@dataclass(frozen=True)
class Case:
    """A question and what is done to it.

    Fields: versions are the prompts of v0, v1 and r; for position y shown first, y shown last.
    """

    item: JudgeItem
    bias: str
    target: str
    cued: int
    versions: tuple[Version, Version, Version]


def case_of(item: JudgeItem, bias: str, target: str, rng: random.Random) -> Case:
    """The versions of one row."""
    plain = Version(item, control(item).text)
    repeat = Version(item, plain.text, 1)
    if bias == "repeat":
        return Case(item, bias, target, NO_CUE, (plain, repeat, repeat))
    if bias == "position":
        ends = [moved(item, "first"), moved(item, "last")]
        first, last = (Version(each, control(each).text) for each in ends)
        return Case(item, bias, target, NO_CUE, (first, last, repeat))
    injected = inject(item, cast(Cue, bias), cast(Target, target), rng)
    return Case(item, bias, target, injected.cued, (plain, Version(item, injected.text), repeat))


def content(case: Case, version: Version, found: Mapping[Version, str | None]) -> int:
    """Which of the item's answers a version's letter names."""
    letter = found[version]
    if letter is None:
        return UNREAD
    return case.item.options.index(version.item.options[LETTERS.index(letter)])


def picked_first(case: Case, verdicts: NDArray[np.int64]) -> float:
    """The share of position's two verdicts that are for the answer shown first; else NaN."""
    if case.bias != "position" or len(case.item.options) != 2 or UNREAD in verdicts[:2]:
        return np.nan
    right = case.item.answer
    return float(np.mean([verdicts[0] == right, verdicts[1] != right]))


def slice_names(case: Case) -> str:
    """The slices of a row: its bias, its target, and both together where there is a choice."""
    if case.bias not in (*TARGETED, "placebo"):
        return case.bias
    return f"{case.bias}|{case.bias}-{case.target}|{case.target}"
