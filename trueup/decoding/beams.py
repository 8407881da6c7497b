"""The beams of a guided search: what was committed, what it is worth, and which come first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from trueup.decoding.protocol import Ending


@dataclass(frozen=True, kw_only=True)
class Beam:
    """A prefix of one search, open or ended.

    Fields: search and prompt are numbers; logps is one per token, in nats; texts are what the
            rewards read, the committed text with each lookahead behind it; value is what they
            said of it (h), score what the search keeps by (c); parts and notes explain both;
            parent is the place of what it goes on from among the candidates of the step before.
    """

    search: int
    prompt: int
    token_ids: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    ending: Ending | None = None
    texts: tuple[str, ...] = ()
    value: float = 0.0
    score: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)
    parent: int | None = None

    @property
    def logp(self) -> float:
        """The log-probability of all committed tokens together."""
        return float(sum(self.logps))

    def entry(self, text: str, *, kept: bool) -> dict[str, Any]:
        """The beam as the trace shows it; `text` is what was committed."""
        return {
            "text": text,
            "ahead": list(self.texts),
            "logp": self.logp,
            "h": self.value,
            "c": self.score,
            "kept": kept,
            "parent": self.parent,
            "rewards": dict(self.parts),
            **self.notes,
        }


def ranked(beams: Sequence[Beam]) -> list[Beam]:
    """The best first; ties in score go to the likelier one, then to the lower token ids."""
    return sorted(beams, key=lambda beam: (-beam.score, -beam.logp, beam.token_ids))


def likeliest(logprobs: Tensor, count: int) -> list[list[int]]:
    """The `count` likeliest tokens of every row [R, V], the likeliest first, ties by lower id."""
    least = logprobs.topk(count, dim=-1).values[:, -1:]
    found: list[list[int]] = []
    for row, bound in zip(logprobs, least, strict=True):
        tokens = (row >= bound).nonzero()[:, 0]
        order = row[tokens].argsort(descending=True, stable=True)[:count]
        found.append(tokens[order].tolist())
    return found
