"""Beam search on a decoding state: the likeliest texts of fixed width, forked and never re-read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from trueup.models.decoding_state import DecodingState


@dataclass(frozen=True)
class Beam:
    """One text that is being written or is complete.

    Fields: token_ids with the end-of-text token where it has come; logps of each token, in nats.
    """

    token_ids: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    reason: Literal["eos", "length"] = "length"

    @property
    def score(self) -> float:
        """The mean log-probability of its tokens: what beams are ranked by."""
        return sum(self.logps) / len(self.logps)


def beam_search(
    state: DecodingState, *, width: int, max_new_tokens: int, eos_id: int | None
) -> list[list[Beam]]:
    """The `width` best texts of each row of the state, the best first.

    In each step the 2 width likeliest continuations of a row's open beams are looked at; those
    that end are kept as complete where they are among the first `width`, the others go on. A row
    is done when no open beam can pass its worst complete one any more: its sum is spread over
    max_new_tokens at best. Open beams count as complete at the end.
    Source: as `generate` of transformers with num_beams, length_penalty 1, early_stopping "never".
    """
    prompts = state.rows
    open_beams: list[list[Beam]] = [[Beam()] for _ in range(prompts)]
    complete: list[list[Beam]] = [[] for _ in range(prompts)]
    for step in range(max_new_tokens):
        logprobs = state.logprobs.double().cpu()
        parents: list[int] = []
        row = 0
        for prompt in range(prompts):
            count = len(open_beams[prompt])
            if not count:
                continue
            going, ended, origins = _extended(
                open_beams[prompt], logprobs[row : row + count], width, eos_id
            )
            complete[prompt] = sorted(
                [*complete[prompt], *ended], key=lambda beam: beam.score, reverse=True
            )[:width]
            is_done = _is_done(going, complete[prompt], width, max_new_tokens)
            open_beams[prompt] = [] if is_done else going
            parents += [] if is_done else [row + origin for origin in origins]
            row += count
        if not parents or step + 1 == max_new_tokens:
            break
        state.select(parents)
        state.advance([beam.token_ids[-1] for beams in open_beams for beam in beams])
    return [
        sorted([*done, *going], key=lambda beam: beam.score, reverse=True)[:width]
        for done, going in zip(complete, open_beams, strict=True)
    ]


def _extended(
    beams: Sequence[Beam], logprobs: torch.Tensor, width: int, eos_id: int | None
) -> tuple[list[Beam], list[Beam], list[int]]:
    """The beams that go on, those that end, and which beam each of the first comes from."""
    sums = torch.tensor([sum(beam.logps) for beam in beams], dtype=torch.float64)
    totals = sums[:, None] + logprobs
    best = totals.flatten().topk(min(2 * width, totals.numel())).indices.tolist()
    going: list[Beam] = []
    ended: list[Beam] = []
    origins: list[int] = []
    for rank, place in enumerate(best):
        origin, token = divmod(place, logprobs.shape[1])
        beam = beams[origin]
        ids, logps = (*beam.token_ids, token), (*beam.logps, float(logprobs[origin, token]))
        if token == eos_id:
            if rank < width:
                ended.append(Beam(ids, logps, "eos"))
        elif len(going) < width:
            going.append(Beam(ids, logps))
            origins.append(origin)
    return going, ended, origins


def _is_done(
    going: Sequence[Beam], complete: Sequence[Beam], width: int, max_new_tokens: int
) -> bool:
    """Whether no open beam can pass the worst of `width` complete ones."""
    if len(complete) < width or not going:
        return not going
    best = max(sum(beam.logps) for beam in going) / max_new_tokens
    return best <= complete[-1].score
