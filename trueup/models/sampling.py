"""Samples from a policy: one prefill per prompt for all of its samples, seeds per sample."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trueup.errors import check_at_least, check_between
from trueup.models.decoding_state import DecodingState


@dataclass(frozen=True)
class Sample:
    """One sampled completion.

    Fields: logps are the tokens' log-probabilities under the model itself (temperature 1, nothing
            cut off), in nats; reason says what ended it. The end-of-text token is among the tokens
            but not in the text; a stop string is in neither the text nor, where it began a token,
            removed from the tokens.
    """

    text: str
    token_ids: list[int]
    logps: list[float]
    reason: Literal["eos", "stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to sample; temperature 0 is greedy, top_k 0 and top_p 1 cut nothing off."""

    n: int = 1
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, n=self.n, max_new_tokens=self.max_new_tokens)
        check_at_least(0, temperature=self.temperature, top_k=self.top_k)
        check_between(0, 1, top_p=self.top_p)


def sample_prompts(
    start: Callable[[list[list[int]]], DecodingState],
    prompts: Sequence[list[int]],
    tokenizer: Any,
    settings: Sampling,
    *,
    rows: int,
) -> list[list[Sample]]:
    """Sample every prompt `settings.n` times, at most `rows` rows at once.

    Every sample has its own stream of random numbers, named by (seed, prompt, its number), and
    the prompts run in an order of their own: the same seed gives the same samples whatever the
    order of the list. The same prompt twice in the list gets different samples.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    jobs: list[tuple[int, list[int], int]] = []
    for index, prompt in enumerate(prompts):
        jobs.append((index, prompt, seen[tuple(prompt)]))
        seen[tuple(prompt)] += 1
    jobs.sort(key=lambda job: (len(job[1]), job[1], job[2]))
    results: list[list[Sample]] = [[] for _ in prompts]
    per_batch = max(1, rows // settings.n)
    for begin in range(0, len(jobs), per_batch):
        batch = jobs[begin : begin + per_batch]
        uniforms = np.concatenate(
            [uniforms_of(prompt, turn, settings) for _, prompt, turn in batch]
        )
        state = start([prompt for _, prompt, _ in batch])
        first = state.logprobs.repeat_interleave(settings.n, dim=0)  # one head row per prompt
        state.select(torch.arange(len(batch)).repeat_interleave(settings.n))
        samples = _run(state, first, uniforms, tokenizer, settings)
        for number, (index, _, _) in enumerate(batch):
            results[index] = samples[number * settings.n : (number + 1) * settings.n]
    return results


def uniforms_of(prompt: Sequence[int], turn: int, settings: Sampling) -> np.ndarray:
    """Random numbers in [0, 1), [n, steps]; row k depends on seed, prompt and k alone."""
    name = f"{settings.seed}:{','.join(map(str, prompt))}".encode()
    root = int.from_bytes(hashlib.sha256(name).digest()[:8], "big")
    return np.stack(
        [
            np.random.default_rng([root, turn * settings.n + number]).random(
                settings.max_new_tokens, dtype=np.float32
            )
            for number in range(settings.n)
        ]
    )


def _run(
    state: DecodingState,
    logprobs: Tensor,
    uniforms: np.ndarray,
    tokenizer: Any,
    settings: Sampling,
) -> list[Sample]:
    """Take tokens until every row has ended; rows that ended leave the batch."""
    count = state.rows
    device = state.lengths.device
    draws = torch.from_numpy(uniforms).to(device)
    tokens: list[list[int]] = [[] for _ in range(count)]
    logps: list[list[float]] = [[] for _ in range(count)]
    reasons: list[Literal["eos", "stop", "length"]] = ["length"] * count
    alive = list(range(count))  # which sample each row of the state belongs to
    open_rows = set(alive)
    for step in range(settings.max_new_tokens):
        chosen = draw(logprobs, draws[alive, step], settings)
        picked = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
        for row, (token, logp) in enumerate(zip(chosen.tolist(), picked, strict=True)):
            sample = alive[row]
            if sample not in open_rows:
                continue
            tokens[sample].append(token)
            logps[sample].append(logp)
            ended = _ending(tokens[sample], tokenizer, settings.stop)
            if ended is not None:
                reasons[sample] = ended
                open_rows.discard(sample)
        if not open_rows or step + 1 == settings.max_new_tokens:
            break
        if len(open_rows) <= 0.75 * len(alive):
            kept = [row for row, sample in enumerate(alive) if sample in open_rows]
            state.select(kept)
            alive = [alive[row] for row in kept]
            chosen = chosen[kept]
        state.advance(chosen)
        logprobs = state.logprobs
    return [
        Sample(_text(tokens[row], tokenizer, settings.stop), tokens[row], logps[row], reasons[row])
        for row in range(count)
    ]


def draw(logprobs: Tensor, draws: Tensor, settings: Sampling) -> Tensor:
    """One token per row, [R]: the inverse of the cumulated distribution at the row's number."""
    if settings.temperature == 0:
        return logprobs.argmax(dim=-1)
    logits = logprobs / settings.temperature
    if 0 < settings.top_k < logits.shape[-1]:
        least = logits.topk(settings.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if settings.top_p < 1:
        logits = _nucleus(logits, settings.top_p)
    cumulated = torch.softmax(logits, dim=-1).cumsum(dim=-1)
    target = draws[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, target, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of tokens whose probability reaches `top_p`."""
    ordered, order = logits.sort(dim=-1, descending=True)
    mass = torch.softmax(ordered, dim=-1)
    dropped = mass.cumsum(dim=-1) - mass >= top_p
    dropped[:, 0] = False
    return logits.masked_fill(torch.zeros_like(dropped).scatter(1, order, dropped), -torch.inf)


def _ending(
    tokens: list[int], tokenizer: Any, stop: tuple[str, ...]
) -> Literal["eos", "stop"] | None:
    """What ends the sample after its newest token, if anything."""
    if tokens[-1] == tokenizer.eos_token_id:
        return "eos"
    if stop:
        reach = max(map(len, stop)) + 8  # a token is at least a byte, so the stop lies in these
        tail = tokenizer.decode(tokens[-4 * reach :], skip_special_tokens=True)
        if any(text in tail for text in stop):
            return "stop"
    return None


def _text(tokens: list[int], tokenizer: Any, stop: tuple[str, ...]) -> str:
    """The sample's text up to its stop string."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    ends = [text.find(string) for string in stop if string in text]
    return text[: min(ends)] if ends else text
