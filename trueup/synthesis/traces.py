"""Pairs for reasoning models: best and worst answers of samples with a trace and without one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trueup.errors import UserError

END_OF_TRACE = "</think>"  # as R1, its distillations and Qwen3 write it


@dataclass(frozen=True, kw_only=True)
class TracedSample:
    """One sample of a prompt, and what a reward model says of its answer.

    Fields: text as generated, the trace with its tags included; reward is of the answer alone
            (`answer_after_trace`), None where there is no answer to reward.
    """

    text: str
    reward: float | None


def answer_after_trace(text: str, end_of_trace: str = END_OF_TRACE) -> str | None:
    """What follows the last end of a trace; None where the trace never ends or nothing follows."""
    _, found, answer = text.rpartition(end_of_trace)
    return answer.strip() or None if found else None


def traced_rows(
    *,
    prompts: Sequence[str],
    thinking: Sequence[Sequence[TracedSample]],
    no_thinking: Sequence[Sequence[TracedSample]],
    end_of_trace: str = END_OF_TRACE,
) -> list[dict[str, str | None]]:
    """One row per prompt with a pair: best and worst by reward, of each way of sampling its own.

    Rows:   prompt, chosen, rejected (trace and answer, untouched), chosen_no_think and
            rejected_no_think; both columns of a pair that could not be made are None.
    Edges:  a thinking sample without an answer is dropped, as is a blank one of the other kind.
            Equal rewards make no pair; of several best or worst samples the first is taken. A
            prompt with neither pair makes no row.
    Raises: UserError where the three differ in length, or an answer has no finite reward.
    Source: arXiv 2510.05095, which takes 5 samples of each kind and ranks the answers only.
    """
    counts = len(prompts), len(thinking), len(no_thinking)
    if len(set(counts)) > 1:
        raise UserError(f"prompts, thinking and no_thinking must be equally many, got {counts}")
    rows = []
    for number, prompt in enumerate(prompts):
        answered = [s for s in thinking[number] if answer_after_trace(s.text, end_of_trace)]
        plain = [s for s in no_thinking[number] if s.text.strip()]
        traced = _best_and_worst(answered, f"thinking[{number}]")
        empty = _best_and_worst(plain, f"no_thinking[{number}]")
        if traced or empty:
            chosen, rejected = traced or (None, None)
            chosen_no_think, rejected_no_think = empty or (None, None)
            rows.append(
                {
                    "prompt": prompt,
                    "chosen": chosen,
                    "rejected": rejected,
                    "chosen_no_think": chosen_no_think,
                    "rejected_no_think": rejected_no_think,
                }
            )
    return rows


def _best_and_worst(samples: Sequence[TracedSample], place: str) -> tuple[str, str] | None:
    """The texts of the highest and the lowest reward; None where none is higher than another."""
    rewards = [_finite(sample.reward, place) for sample in samples]
    if not rewards or max(rewards) == min(rewards):
        return None
    best, worst = rewards.index(max(rewards)), rewards.index(min(rewards))
    return samples[best].text, samples[worst].text


def _finite(reward: float | None, place: str) -> float:
    if reward is None or not math.isfinite(reward):
        raise UserError(f"{place}: the reward of an answer must be a finite number, got {reward}")
    return reward
