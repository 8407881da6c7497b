"""Samples from a policy: one prefill per prompt for all samples and settings, seeds per sample."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from trueup.errors import UserError, check_at_least, check_between


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


class Rows(Protocol):
    """What is sampled from, a row for each sample: a `DecodingState`, or two that go together.

    Fields: logprobs are the model's own, which samples tell; scores are what tokens are drawn by.
    """

    @property
    def rows(self) -> int:
        """The number of rows."""
        ...

    @property
    def logprobs(self) -> Tensor:
        """Log-probabilities of the next token, [R, V]."""
        ...

    @property
    def scores(self) -> Tensor:
        """Log-probabilities to draw from, up to a constant per row, [R, V]."""
        ...

    def advance(self, tokens: Tensor | Sequence[int]) -> None:
        """Append one token to each row, [R]."""
        ...

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Keep these rows, in this order, with what is known of their next token."""
        ...


@dataclass(frozen=True)
class Cuts:
    """What is cut off a distribution before a token is drawn, a number for every row, [R] each."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor

    @classmethod
    def of(cls, settings: Sequence[Sampling], device: torch.device | None = None) -> "Cuts":
        """Those of one setting per row."""
        return cls(
            torch.tensor([one.temperature for one in settings], dtype=torch.float64, device=device),
            torch.tensor([one.top_k for one in settings], device=device),
            torch.tensor([one.top_p for one in settings], dtype=torch.float64, device=device),
        )

    def rows(self, chosen: Sequence[int]) -> "Cuts":
        """Those of some rows."""
        places = torch.tensor(chosen, device=self.top_k.device)
        return Cuts(self.temperature[places], self.top_k[places], self.top_p[places])


def sample_prompts(
    start: Callable[[list[list[int]]], Rows],
    prompts: Sequence[list[int]],
    tokenizer: Any,
    settings: Sampling,
    *,
    rows: int,
) -> list[list[Sample]]:
    """Sample every prompt `settings.n` times, at most `rows` rows at once: a grid of one setting.

    Every sample has its own stream of random numbers, named by (seed, prompt, its number), and
    the prompts run in an order of their own: the same seed gives the same samples whatever the
    order of the list. The same prompt twice in the list gets different samples.
    """
    found = sample_grid(start, prompts, tokenizer, [settings], rows=rows)
    return [several for [several] in found]


def sample_grid(
    start: Callable[[list[list[int]]], Rows],
    prompts: Sequence[list[int]],
    tokenizer: Any,
    grid: Sequence[Sampling],
    *,
    rows: int,
) -> list[list[list[Sample]]]:
    """Samples of every prompt at every setting, [P][C][n], after one prefill of the prompt.

    The samples of a setting are those of `sample_prompts` with it: what else is in the grid
    changes none of them, so settings that shall not share random numbers have seeds of their own.
    Edges:  a prompt's rows decode together, also where they are more than `rows`.
    Raises: UserError where settings differ in max_new_tokens or stop, or there are none.
    """
    if len({(one.max_new_tokens, one.stop) for one in grid}) != 1:
        raise UserError(
            f"a grid needs settings with one max_new_tokens and one stop, got {len(grid)} settings "
            "that have not"
        )
    seen: Counter[tuple[int, ...]] = Counter()
    jobs: list[tuple[int, list[int], int]] = []
    for index, prompt in enumerate(prompts):
        jobs.append((index, prompt, seen[tuple(prompt)]))
        seen[tuple(prompt)] += 1
    jobs.sort(key=lambda job: (len(job[1]), job[1], job[2]))
    results: list[list[list[Sample]]] = [[] for _ in prompts]
    own = [one for one in grid for _ in range(one.n)]  # the settings of a prompt's rows
    per_batch = max(1, rows // len(own))
    for begin in range(0, len(jobs), per_batch):
        batch = jobs[begin : begin + per_batch]
        uniforms = np.concatenate(
            [uniforms_of(prompt, turn, one) for _, prompt, turn in batch for one in grid]
        )
        state = start([prompt for _, prompt, _ in batch])
        assert state.logprobs is not None  # read before the fork: one head row per prompt
        state.select(torch.arange(len(batch)).repeat_interleave(len(own)))
        samples = iter(_run(state, uniforms, tokenizer, own * len(batch)))
        for index, _, _ in batch:
            results[index] = [[next(samples) for _ in range(one.n)] for one in grid]
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
    state: Rows,
    uniforms: np.ndarray,
    tokenizer: Any,
    settings: Sequence[Sampling],
) -> list[Sample]:
    """Take tokens until every row has ended; rows that ended leave the batch."""
    count = state.rows
    draws = torch.from_numpy(uniforms).to(state.logprobs.device)
    cuts, stop, most = Cuts.of(settings, draws.device), settings[0].stop, settings[0].max_new_tokens
    tokens: list[list[int]] = [[] for _ in range(count)]
    logps: list[list[float]] = [[] for _ in range(count)]
    reasons: list[Literal["eos", "stop", "length"]] = ["length"] * count
    alive = list(range(count))  # which sample each row of the state belongs to
    open_rows = set(alive)
    for step in range(most):
        chosen = draw_rows(state.scores, draws[alive, step], cuts)
        picked = state.logprobs.gather(1, chosen[:, None])[:, 0].tolist()
        for row, (token, logp) in enumerate(zip(chosen.tolist(), picked, strict=True)):
            sample = alive[row]
            if sample not in open_rows:
                continue
            tokens[sample].append(token)
            logps[sample].append(logp)
            ended = _ending(tokens[sample], tokenizer, stop)
            if ended is not None:
                reasons[sample] = ended
                open_rows.discard(sample)
        if not open_rows or step + 1 == most:
            break
        if len(open_rows) <= 0.75 * len(alive):
            kept = [row for row, sample in enumerate(alive) if sample in open_rows]
            state.select(kept)
            cuts = cuts.rows(kept)
            alive = [alive[row] for row in kept]
            chosen = chosen[kept]
        state.advance(chosen)
    return [
        Sample(_text(tokens[row], tokenizer, stop), tokens[row], logps[row], reasons[row])
        for row in range(count)
    ]


def draw(logprobs: Tensor, draws: Tensor, settings: Sampling) -> Tensor:
    """One token per row, [R], all rows at one setting."""
    return draw_rows(logprobs, draws, Cuts.of([settings] * len(logprobs), logprobs.device))


def draw_rows(logprobs: Tensor, draws: Tensor, cuts: Cuts) -> Tensor:
    """One token per row, [R]: the inverse of the cumulated distribution at the row's number.

    Edges:  temperature 0 is the likeliest token, the first of several.
    """
    is_greedy = cuts.temperature == 0
    best = logprobs.argmax(dim=-1)
    if bool(is_greedy.all()):
        return best
    cumulated = torch.softmax(cut_off(logprobs, cuts), dim=-1).cumsum(dim=-1)
    target = draws[:, None] * cumulated[:, -1:]
    last = logprobs.shape[-1] - 1
    drawn = torch.searchsorted(cumulated, target, right=True)[:, 0].clamp_max(last)
    return torch.where(is_greedy, best, drawn)


def cut_off(logprobs: Tensor, cuts: Cuts) -> Tensor:
    """Logits [R, V] of the distributions that are drawn from: temperature, then top-k, then top-p.

    top-k keeps what is as likely as the k-th likeliest token, top-p the smallest set of tokens
    whose probability reaches p, under what top-k has left; the others have -inf.
    Edges:  temperature 0 divides by nothing; top-k 0 and top-p 1 cut nothing off.
    """
    warmth = torch.where(cuts.temperature == 0, 1.0, cuts.temperature).to(logprobs.dtype)
    logits = logprobs / warmth[:, None]
    ranked = ((cuts.top_k > 0) & (cuts.top_k < logits.shape[-1])).nonzero()[:, 0]
    if len(ranked):
        count, part = cuts.top_k[ranked], logits[ranked]
        best = part.topk(int(count.max()), dim=-1).values
        part = part.masked_fill(part < best.gather(1, count[:, None] - 1), -torch.inf)
        logits[ranked] = part
    cored = (cuts.top_p < 1).nonzero()[:, 0]
    if len(cored):
        logits[cored] = _nucleus(logits[cored], cuts.top_p[cored].to(logits.dtype))
    return logits


def _nucleus(logits: Tensor, top_p: Tensor) -> Tensor:
    """Keep the smallest set of tokens whose probability reaches `top_p` [R]."""
    ordered, order = logits.sort(dim=-1, descending=True)
    mass = torch.softmax(ordered, dim=-1)
    dropped = mass.cumsum(dim=-1) - mass >= top_p[:, None]
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
