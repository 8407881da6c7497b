"""Prompt-level mitigations of a judge's biases: a system prompt, examples, a second look."""

import functools
import random
from collections.abc import Sequence
from typing import Literal, get_args

from trueup.data.messages import Message, Prompt, turns_of, with_system
from trueup.errors import check_choice
from trueup.judging.asking import Ask
from trueup.judging.injections import CUES, inject
from trueup.judging.judge_prompts import JudgeItem, control, texts
from trueup.judging.verdicts import LETTERS, without_reasoning

Mitigation = Literal["none", "system", "examples", "reflection"]
MITIGATIONS: tuple[Mitigation, ...] = get_args(Mitigation)


def mitigated(ask: Ask, mitigation: Mitigation) -> Ask:
    """A judge's `ask` with one mitigation around it.

    system      a targeted system prompt, one sentence per bias, behind the prompt's own
    examples    worked examples as earlier turns: a prompt with the cue, and the right verdict with
                a reason that names the cue and sets it aside
    reflection  a second turn that asks whether a bias moved the verdict; the second verdict counts
    Source: Wang et al. 2025, arXiv 2504.09946; the wording, and one example per bias, are ours.
    """
    check_choice(MITIGATIONS, mitigation=mitigation)
    if mitigation == "reflection":
        return _twice(ask)

    def asked(prompts: Sequence[Prompt]) -> list[str]:
        return ask([prepared(prompt, mitigation) for prompt in prompts])

    return asked


def prepared(prompt: Prompt, mitigation: Mitigation) -> Prompt:
    """The prompt as a mitigation that only adds to it makes it; otherwise as it is."""
    if mitigation == "system":
        return with_system(turns_of(prompt), texts("mitigate")["system"])
    if mitigation == "examples":
        own = turns_of(prompt)
        opening = [turn for turn in own if turn["role"] == "system"]
        return [*opening, *examples(), *own[len(opening) :]]
    return prompt


@functools.cache
def examples() -> tuple[Message, ...]:
    """The worked examples as turns of the user and the judge."""
    result: list[Message] = []
    for one in texts("mitigate")["examples"]:
        item = JudgeItem(
            question=one["question"],
            options=tuple(one["options"]),
            answer=one["answer"],
            is_fact=True,
            subject="science",
        )
        verdict = f"{one['reason']} Answer: {LETTERS[item.answer]}"
        result += [
            {"role": "user", "content": _biased(item, one["bias"])},
            {"role": "assistant", "content": verdict},
        ]
    return tuple(result)


def example_questions() -> set[str]:
    """The questions that the examples give away, and a test must not ask."""
    return {one["question"] for one in texts("mitigate")["examples"]}


def _biased(item: JudgeItem, bias: str) -> str:
    """An example's prompt, its cue for the wrong answer; position and none have no cue."""
    for cue in CUES:
        if cue == bias:
            return inject(item, cue, "wrong", random.Random(item.question)).text
    return control(item).text


def _twice(ask: Ask) -> Ask:
    """Ask, show the judge its answer, and ask again."""
    words = texts("mitigate")

    def asked(prompts: Sequence[Prompt]) -> list[str]:
        firsts = ask(prompts)
        again: list[Prompt] = [
            [
                *turns_of(prompt),
                {
                    "role": "assistant",
                    "content": without_reasoning(first).strip() or words["nothing"],
                },
                {"role": "user", "content": words["check"]},
            ]
            for prompt, first in zip(prompts, firsts, strict=True)
        ]
        return ask(again)

    return asked
