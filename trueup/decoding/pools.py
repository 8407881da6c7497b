"""Pools of whole completions of a prompt: from any writer, scored, the best first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trueup.data.messages import Prompt
from trueup.decoding.protocol import Decoded
from trueup.errors import UserError
from trueup.models.sampling import Sampling
from trueup.models.writer import Text, Writer


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One completion of a pool.

    Fields: value is what the rewards say and score what the pool is ranked by; notes say more, for
            the trace.
    """

    text: Text
    value: float
    score: float
    parts: Mapping[str, float]
    notes: Mapping[str, Any]


def check_pool(sampling: Sampling, size: int, field: str) -> None:
    """Raise UserError where more is asked of a pool than it holds, or all in it would be one."""
    if sampling.n > size:
        raise UserError(f"n must be at most {field}, {size}, got {sampling.n}")
    if sampling.temperature == 0 and size > 1:
        raise UserError("temperature must be above 0: at 0 all candidates are one text")


def written(
    writer: Writer, prompts: Sequence[Prompt], sampling: Sampling, *, n: int
) -> list[list[Text]]:
    """`n` completions of every prompt."""
    settings: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop": sampling.stop,
        "seed": sampling.seed,
    }
    if sampling.top_k:  # not every writer knows it
        settings["top_k"] = sampling.top_k
    return [list(several) for several in writer.sample(list(prompts), n=n, **settings)]


def best(pool: Sequence[Candidate], count: int) -> list[Decoded]:
    """The `count` best of a pool; ties go to the one that was written first."""
    order = np.argsort([-candidate.score for candidate in pool], kind="stable")[:count].tolist()
    trace = [
        {
            "text": candidate.text.text,
            "h": candidate.value,
            "c": candidate.score,
            "kept": place in order,
            "rewards": dict(candidate.parts),
            **candidate.notes,
        }
        for place, candidate in enumerate(pool)
    ]
    step = {"step": 0, "candidates": trace}
    return [
        decoded(
            pool[place].text,
            score=pool[place].score,
            rewards=dict(pool[place].parts),
            trace=[step],
        )
        for place in order
    ]


def decoded(text: Any, **more: Any) -> Decoded:
    """One completion as a search's answer; a black box tells no tokens."""
    return Decoded(
        text=text.text,
        token_ids=tuple(getattr(text, "token_ids", None) or ()),
        logps=tuple(getattr(text, "logps", None) or ()),
        reason=getattr(text, "reason", "length"),
        **more,
    )
