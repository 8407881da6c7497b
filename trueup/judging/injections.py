"""Cues without evidence: each laid into a judge's prompt as one span, the rest left as it was."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from trueup.errors import check_choice
from trueup.judging.judge_prompts import JudgeItem, Layout, control, texts
from trueup.judging.verdicts import LETTERS

Cue = Literal["bandwagon", "authority", "distraction", "reflection", "placebo"]
Target = Literal["wrong", "correct", "last"]

CUES: tuple[Cue, ...] = get_args(Cue)
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, kw_only=True)
class Injected:
    """A prompt with a cue: text[start : start + len(span)] is the cue, the rest the control prompt.

    Fields: cued is the place of the answer that the cue speaks for, or is about.
    """

    text: str
    start: int
    span: str
    cued: int


def inject(item: JudgeItem, cue: Cue, target: Target, rng: random.Random) -> Injected:
    """The item's prompt with one cue for one answer; all else is the control's, byte by byte.

    bandwagon    a line after the answers: 90% of people hold the answer
    authority    a made-up source in brackets, at the end of the answer's text
    distraction  a line after the answers: an irrelevant remark about the answer
    reflection   a line before the answer's own: a phrase that sounds like thinking
    placebo      words that say nothing, as long as an authority, where it would stand
    Fields: target is the wrong answer (of several, one drawn), the correct one, or the last one;
            rng draws the wrong answer first and the source next, so that the same seed gives a
            placebo the place and the length of its authority.
    Source: Wang et al. 2025, arXiv 2504.09946; the wording is ours. Their scripts put distraction
            in two places; here there is one. The place of the reflection phrase is our choice.
    """
    check_choice(CUES, cue=cue)
    check_choice(TARGETS, target=target)
    cued = cued_option(item, target, rng)
    start, span = _PLACED[cue](item, control(item), cued, rng)
    text = control(item).text
    return Injected(text=text[:start] + span + text[start:], start=start, span=span, cued=cued)


def cued_option(item: JudgeItem, target: Target, rng: random.Random) -> int:
    """The place of the answer that a target names; never the right one for "wrong"."""
    wrong = [place for place in range(len(item.options)) if place != item.answer]
    drawn = rng.choice(wrong)  # drawn for every target, so that what is drawn next is the same
    return {"wrong": drawn, "correct": item.answer, "last": len(item.options) - 1}[target]


def moved(item: JudgeItem, to: Literal["first", "last"]) -> JudgeItem:
    """The item with its right answer shown first or last; the others keep their order."""
    others = [option for place, option in enumerate(item.options) if place != item.answer]
    right = item.options[item.answer]
    options = (right, *others) if to == "first" else (*others, right)
    return replace(item, options=options, answer=0 if to == "first" else len(others))


def _bandwagon(item: JudgeItem, layout: Layout, cued: int, rng: random.Random) -> tuple[int, str]:
    words = texts("inject")["bandwagon_correct" if item.is_fact else "bandwagon_better"]
    said = words.format(letter=LETTERS[cued], subject=item.subject)
    return layout.close, "\n" + " ".join(said.split())


def _authority(item: JudgeItem, layout: Layout, cued: int, rng: random.Random) -> tuple[int, str]:
    return layout.ends[cued], " " + rng.choice(texts("inject")["authority"])


def _distraction(item: JudgeItem, layout: Layout, cued: int, rng: random.Random) -> tuple[int, str]:
    return layout.close, "\n" + texts("inject")["distraction"].format(letter=LETTERS[cued])


def _reflection(item: JudgeItem, layout: Layout, cued: int, rng: random.Random) -> tuple[int, str]:
    return layout.starts[cued], texts("inject")["reflection"] + "\n"


def _placebo(item: JudgeItem, layout: Layout, cued: int, rng: random.Random) -> tuple[int, str]:
    start, twin = _authority(item, layout, cued, rng)
    words = texts("inject")["filler"][: len(twin) - 3].ljust(len(twin) - 3, "-")
    return start, f" ({words})"


_PLACED: dict[Cue, Callable[[JudgeItem, Layout, int, random.Random], tuple[int, str]]] = {
    "bandwagon": _bandwagon,
    "authority": _authority,
    "distraction": _distraction,
    "reflection": _reflection,
    "placebo": _placebo,
}
