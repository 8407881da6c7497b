"""Guidelines written by a teacher: is an input risky, and what must an answer to its kind heed."""

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from trueup.data.messages import Message
from trueup.judging.asking import Ask

_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_LINE = re.compile(r"\s*(?:[-*•]\s+|\d+[.)]\s*)?\**([^:*]{1,80}?)\**\s*:\**\s*(\S.*?)\**\s*")


@dataclass(frozen=True)
class Written:
    """What a teacher wrote for one input."""

    input: str
    is_risky: bool
    guidelines: list[str]


def write_guidelines(inputs: Sequence[str], teacher: Ask) -> list[Written]:
    """The teacher's guidelines for every input, in two rounds of one call per input.

    The first asks whether the input is risky. If so the second goes on in the same conversation
    and asks for guidelines for safety and quality; if not it is a fresh one, which knows nothing
    of the first, and asks for quality alone.
    Source: Luo et al. 2024, arXiv 2403.11838, with fewer worked examples, which are ours.
    """
    questions = [_question("detect", text) for text in inputs]
    analyses = teacher([[{"role": "user", "content": question}] for question in questions])
    verdicts = [is_risky(analysis) for analysis in analyses]
    conversations = [
        _going_on(question, analysis)
        if risky
        else [{"role": "user", "content": _question("quality", text)}]
        for text, question, analysis, risky in zip(
            inputs, questions, analyses, verdicts, strict=True
        )
    ]
    answers = teacher(conversations)
    return [
        Written(text, risky, parse_guidelines(answer))
        for text, risky, answer in zip(inputs, verdicts, answers, strict=True)
    ]


def is_risky(analysis: str) -> bool:
    """The last yes or no of an analysis; an analysis without either counts as a yes."""
    found = _VERDICT.findall(analysis)
    return not found or found[-1].lower() == "yes"


def parse_guidelines(answer: str) -> list[str]:
    """The lines "Title: text" of an answer, without numbers, bullets and bold marks."""
    lines = (_LINE.fullmatch(line) for line in answer.splitlines())
    return [f"{line[1].strip()}: {line[2].strip()}" for line in lines if line and line[1].strip()]


def _question(task: str, text: str) -> str:
    """The task, its worked examples, and the input."""
    parts = words()[task]
    examples = "".join(_shown(each["input"], each["answer"]) for each in parts["exemplars"])
    return f"{parts['ask'].strip()}\n{examples}\nInput: {text}\nAnswer:"


def _going_on(question: str, analysis: str) -> list[Message]:
    """The detection's conversation, then the question for guidelines."""
    parts = words()["safety"]
    examples = "".join(_shown(each["input"], each["answer"]) for each in parts["exemplars"])
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": analysis},
        {"role": "user", "content": f"{parts['ask'].strip()}\n{examples}"},
    ]


def _shown(text: str, answer: str) -> str:
    """One worked example."""
    return f"\nInput: {text}\nAnswer:\n{answer.strip()}\n"


@functools.cache
def words() -> Mapping[str, Any]:
    """The texts of guide_align.toml."""
    text = files("trueup.decoding").joinpath("guide_align.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
