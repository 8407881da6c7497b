"""How far a policy is from a frozen teacher at each position, without keeping logits.

Distillation compares whole distributions, and the logits of a policy, a teacher and the teacher's
reference at every position are more than a model's weights. Here the heads run on a few positions
at a time and run again in the backward pass, so that only one chunk of each is alive.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

CHUNK = 256  # positions: at 50,000 words a chunk of float32 logits takes 51 MB

Score = Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True, kw_only=True)
class SparseLogps:
    """A frozen model's largest log-probabilities per position, and all the rest in one number.

    Shapes: ids [S, K] whole numbers, logps [S, K], tail_logps [S], the log of the mass of all other
            tokens, -inf where there are none.
    """

    ids: Tensor
    logps: Tensor
    tail_logps: Tensor


def teacher_kl(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """KL(teacher || policy) at each position, with gradients to the policy alone.

    kl = sum_a teacher(a) * (log teacher(a) - log policy(a)), both softmax(hidden @ weight.T)
    Shapes: hidden [S, D], weight [V, D]; teacher_hidden [S, E], teacher_weight [V, E] -> [S].
    Units:  nats, in float32 (float64 where the heads are).
    Fields: chunk is how many positions have logits at a time, in both passes.
    """
    teacher = _FrozenHead.of(teacher_hidden, teacher_weight)

    def score(logits: Tensor, rows: slice) -> Tensor:
        known = teacher.logps(rows)
        return (known.exp() * (known - logits.log_softmax(-1))).sum(-1)

    return _streamed(hidden, weight, score, chunk)


def teacher_advantage(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    ref_teacher_hidden: Tensor,
    ref_teacher_weight: Tensor,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """E_policy[log teacher - log reference teacher] at each position; the policy has gradients.

    Shapes: as `teacher_kl`; the reference teacher's as the teacher's.
    """
    teacher = _FrozenHead.of(teacher_hidden, teacher_weight)
    reference = _FrozenHead.of(ref_teacher_hidden, ref_teacher_weight)

    def score(logits: Tensor, rows: slice) -> Tensor:
        advantage = teacher.logps(rows) - reference.logps(rows)
        return (logits.softmax(-1) * advantage).sum(-1)

    return _streamed(hidden, weight, score, chunk)


def sparse_teacher_kl(
    hidden: Tensor, weight: Tensor, teacher: SparseLogps, *, chunk: int = CHUNK
) -> Tensor:
    """`teacher_kl` from a cache: K tokens and one bucket for the rest; never above the dense one.

    Edges:  K = V is the dense divergence.
    """

    def score(logits: Tensor, rows: slice) -> Tensor:
        known = _bucketed(teacher, rows, logits)
        own = _gathered(logits.log_softmax(-1), teacher.ids[rows].long())
        possible = known > -torch.inf
        gaps = torch.where(possible, known, 0.0) - torch.where(possible, own, 0.0)
        return (known.exp() * gaps).sum(-1)

    return _streamed(hidden, weight, score, chunk)


def sparse_teacher_advantage(
    hidden: Tensor,
    weight: Tensor,
    teacher: SparseLogps,
    ref_teacher: SparseLogps,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """`teacher_advantage` from caches on the same ids, as `to_sparse_pair` makes them.

    The rest of the vocabulary has one advantage, the log-ratio of the two tails; a tail that either
    cache holds to be empty adds 0.
    Raises: ValueError where the two caches name different ids.
    """
    if not torch.equal(teacher.ids, ref_teacher.ids):
        raise ValueError("teacher and ref_teacher name different ids; to_sparse_pair shares them")

    def score(logits: Tensor, rows: slice) -> Tensor:
        advantage = _bucketed(teacher, rows, logits) - _bucketed(ref_teacher, rows, logits)
        own = _gathered(logits.log_softmax(-1), teacher.ids[rows].long())
        return (own.exp() * torch.where(advantage.isfinite(), advantage, 0.0)).sum(-1)

    return _streamed(hidden, weight, score, chunk)


@torch.no_grad()
def sparse_head(hidden: Tensor, weight: Tensor, *, k: int, chunk: int = CHUNK) -> SparseLogps:
    """`to_sparse` of log softmax(hidden @ weight.T), of which one chunk is alive at a time.

    Shapes: hidden [S, D], weight [V, D] -> S positions.
    """
    head = _FrozenHead.of(hidden, weight)
    with torch.autocast(hidden.device.type, enabled=False):
        return _joined([to_sparse(head.logps(rows), k) for rows in _chunks(len(hidden), chunk)])


@torch.no_grad()
def sparse_head_pair(
    hidden: Tensor,
    weight: Tensor,
    ref_hidden: Tensor,
    ref_weight: Tensor,
    *,
    k: int,
    chunk: int = CHUNK,
) -> tuple[SparseLogps, SparseLogps]:
    """`to_sparse_pair` of two heads at the same S positions, a chunk at a time."""
    head, ref_head = _FrozenHead.of(hidden, weight), _FrozenHead.of(ref_hidden, ref_weight)
    with torch.autocast(hidden.device.type, enabled=False):
        pairs = [
            to_sparse_pair(head.logps(rows), ref_head.logps(rows), k)
            for rows in _chunks(len(hidden), chunk)
        ]
    return _joined([first for first, _ in pairs]), _joined([second for _, second in pairs])


def to_sparse(logps: Tensor, k: int) -> SparseLogps:
    """The k likeliest tokens of log-probabilities [S, V], and the rest as one bucket.

    Edges:  k above V is V. The tail is summed from its own tokens, not as 1 minus the others: it
            is never negative, and exact however small.
    """
    return at_ids(logps, logps.topk(min(k, logps.shape[-1]), dim=-1).indices)


def to_sparse_pair(logps: Tensor, ref_logps: Tensor, k: int) -> tuple[SparseLogps, SparseLogps]:
    """Two models on the same 2k ids: the k likeliest of each, then the first's next likeliest."""
    size = logps.shape[-1]
    wanted = torch.zeros_like(logps)
    for each in (logps, ref_logps):
        wanted.scatter_(-1, each.topk(min(k, size), dim=-1).indices, 1.0)
    ids = (wanted + logps.exp()).topk(min(2 * k, size), dim=-1).indices
    return at_ids(logps, ids), at_ids(ref_logps, ids)


def at_ids(logps: Tensor, ids: Tensor) -> SparseLogps:
    """Log-probabilities [S, V] at given ids [S, K], distinct within a position."""
    columns = _gathered(logps, ids)
    width = ids.shape[-1]
    tails = (
        columns[:, width] if columns.shape[-1] > width else logps.new_full((len(ids),), -torch.inf)
    )
    return SparseLogps(ids=ids, logps=columns[:, :width], tail_logps=tails)


def _joined(parts: Sequence[SparseLogps]) -> SparseLogps:
    """Chunks of positions, one after the other."""
    return SparseLogps(
        ids=torch.cat([part.ids for part in parts]),
        logps=torch.cat([part.logps for part in parts]),
        tail_logps=torch.cat([part.tail_logps for part in parts]),
    )


def _gathered(logps: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities at ids [c, K], with that of all other tokens as a last column if any."""
    picked = logps.gather(-1, ids)
    if ids.shape[-1] == logps.shape[-1]:
        return picked
    tails = logps.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([picked, tails], dim=-1)


def _bucketed(known: SparseLogps, rows: slice, logits: Tensor) -> Tensor:
    """A cache's log-probabilities in the columns of `_gathered`."""
    picked = known.logps[rows].detach().to(logits)
    if picked.shape[-1] == logits.shape[-1]:
        return picked
    return torch.cat([picked, known.tail_logps[rows, None].detach().to(logits)], dim=-1)


@dataclass(frozen=True)
class _FrozenHead:
    """A frozen model's hidden states and output head, which give its log-probabilities by rows."""

    hidden: Tensor
    weight: Tensor

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor) -> "_FrozenHead":
        """Both cut off from any graph, in the type in which the product is taken."""
        dtype = _product_dtype(hidden)
        return cls(hidden.detach().to(dtype), weight.detach().to(dtype))

    def logps(self, rows: slice) -> Tensor:
        """Log-probabilities [c, V] of some rows."""
        return _logits(self.hidden[rows], self.weight).log_softmax(-1)


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """One chunk of logits [c, V], float32 at least."""
    product = linear(hidden, weight)
    return product if product.dtype == torch.float64 else product.float()


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """The type in which the head's product is taken here, autocast or not."""
    kind = hidden.device.type
    if hidden.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return hidden.dtype
    return torch.get_autocast_dtype(kind)


def _chunks(n: int, chunk: int) -> Iterator[slice]:
    """All rows in order, at least one slice."""
    for start in range(0, max(n, 1), chunk):
        yield slice(start, start + chunk)


def _streamed(hidden: Tensor, weight: Tensor, score: Score, chunk: int) -> Tensor:
    """score(logits, rows) of every chunk of rows, [S]."""
    dtype = _product_dtype(hidden)
    result: Tensor = _Streamed.apply(hidden, weight, score, dtype, chunk)  # type: ignore[no-untyped-call]
    return result


class _Streamed(torch.autograd.Function):
    """Saves hidden states and head; logits live for a chunk, forward and again backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, score: Score, dtype: torch.dtype, chunk: int
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.score, ctx.dtype, ctx.chunk = score, dtype, chunk
        inputs, head = hidden.to(dtype), weight.to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            parts = [
                score(_logits(inputs[rows], head), rows) for rows in _chunks(len(hidden), chunk)
            ]
        return torch.cat(parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight = ctx.saved_tensors
        inputs, head = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        to_hidden = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        to_weight = (
            torch.zeros_like(weight, dtype=gradient.dtype) if ctx.needs_input_grad[1] else None
        )
        for rows in _chunks(len(hidden), ctx.chunk):
            slope = _slope(ctx.score, _logits(inputs[rows], head), rows, gradient[rows])
            slope = slope.to(ctx.dtype)
            if to_hidden is not None:
                to_hidden[rows] = slope @ head
            if to_weight is not None:
                to_weight += slope.T @ inputs[rows]
        return (
            None if to_hidden is None else to_hidden.to(hidden.dtype),
            None if to_weight is None else to_weight.to(weight.dtype),
            None,
            None,
            None,
        )


def _slope(score: Score, logits: Tensor, rows: slice, gradient: Tensor) -> Tensor:
    """The gradient of one chunk's weighed scores with respect to its logits, [c, V]."""
    logits.requires_grad_()
    with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
        value = score(logits, rows)
    return torch.autograd.grad(value, logits, gradient)[0]
