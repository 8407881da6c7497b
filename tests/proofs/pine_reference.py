"""Attention over documents written out slowly: stock, and pine with every key turned anew."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

THETA = 10000.0


@dataclass(frozen=True)
class Sequenced:
    """Un-turned queries, keys and values [H, T, d] of a prefix, documents and a suffix."""

    q: Tensor
    k: Tensor
    v: Tensor
    prefix: int
    lengths: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.prefix + sum(self.lengths)

    @property
    def docs(self) -> list[range]:
        starts = [self.prefix + sum(self.lengths[:i]) for i in range(len(self.lengths))]
        return [range(a, a + n) for a, n in zip(starts, self.lengths, strict=True)]

    def rows(self, order: Sequence[int]) -> list[int]:
        """The tokens' rows with the documents in this order."""
        inner = [row for place in order for row in self.docs[place]]
        return [*range(self.prefix), *inner, *range(self.end, self.q.shape[1])]

    def permuted(self, order: Sequence[int]) -> "Sequenced":
        rows = self.rows(order)
        lengths = tuple(self.lengths[place] for place in order)
        return Sequenced(self.q[:, rows], self.k[:, rows], self.v[:, rows], self.prefix, lengths)


def sheet_vectors() -> Sequenced:
    """The inputs of the method sheet's vector test."""
    t = torch.arange(10, dtype=torch.float64)[None, :, None]
    c = torch.arange(4, dtype=torch.float64)
    h = torch.arange(2, dtype=torch.float64)[:, None, None]
    q = 2 * torch.sin(0.7 * t + 1.3 * c + 0.1 + 0.5 * h)
    k = 2 * torch.cos(0.9 * t - 0.4 * c + 0.2 + 0.3 * h)
    return Sequenced(q, k, torch.sin(0.3 * t + 0.5 * c + h), 2, (2, 3, 1))


def random_vectors(
    seed: int, lengths: tuple[int, ...] = (2, 4, 1, 3), heads: int = 2, dims: int = 8
) -> Sequenced:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, heads, 2 + sum(lengths) + 3, dims)
    q, k, v = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return Sequenced(q, k, v, 2, lengths)


def turned(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions [T] on [H, T, d], pair by pair."""
    half = x.shape[-1] // 2
    out = torch.empty_like(x)
    for pair in range(half):
        angle = positions.double() * THETA ** (-2 * pair / x.shape[-1])
        a, b = x[..., pair], x[..., pair + half]
        out[..., pair] = a * angle.cos() - b * angle.sin()
        out[..., pair + half] = a * angle.sin() + b * angle.cos()
    return out


def attended(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Softmax attention on turned q, k [H, ., d] with a mask [Q, K]."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1) @ v


def stock(s: Sequenced) -> Tensor:
    """What the unmodified model computes."""
    steps = torch.arange(s.q.shape[1])
    causal = steps[:, None] >= steps
    return attended(turned(s.q, steps), turned(s.k, steps), s.v, causal)


def ranked(s: Sequenced, head: int, rows: Sequence[int], own: int | None) -> list[int]:
    """Documents by falling importance for these query rows; the own one first."""
    keys = [row for place, doc in enumerate(s.docs) if place != own for row in doc]
    importance = {place: 0.0 for place in range(len(s.docs)) if place != own}
    for row in rows:
        scores = s.k[head, keys] @ s.q[head, row] / math.sqrt(s.q.shape[-1])
        shares = dict(zip(keys, torch.softmax(scores, 0).tolist(), strict=True))
        for place in importance:
            doc = s.docs[place]
            importance[place] += sum(shares[key] for key in doc) / len(doc)
    order = sorted(importance, key=lambda place: -importance[place])
    return order if own is None else [own, *order]


def units(s: Sequenced) -> list[tuple[list[int], int | None]]:
    """Query rows that share an order: a document's, then each later token's own."""
    documents: list[tuple[list[int], int | None]] = [
        (list(doc), place) for place, doc in enumerate(s.docs)
    ]
    return [*documents, *(([row], None) for row in range(s.end, s.q.shape[1]))]


def oracle(s: Sequenced) -> Tensor:
    """Pine in one line: stock attention on the prompt in each unit's order, the best last."""
    out = stock(s)
    for head in range(len(s.q)):
        for rows, own in units(s):
            order = ranked(s, head, rows, own)[::-1]
            told = stock(s.permuted(order))
            places = {row: place for place, row in enumerate(s.rows(order))}
            for row in rows:
                out[head, row] = told[head, places[row]]
    return out


def re_rotated(s: Sequenced, *, bidirectional: bool = True) -> Tensor:
    """Pine with every key turned anew for each query unit; the mask's half can be left out."""
    out = stock(s)
    total = s.q.shape[1]
    base = torch.arange(total)
    for doc in s.docs:
        base[list(doc)] = torch.arange(s.end - len(doc), s.end)
    for head in range(len(s.q)):
        for rows, own in units(s):
            keys = base.clone()
            shift = 0
            for place in ranked(s, head, rows, own):
                keys[list(s.docs[place])] -= shift
                shift += s.lengths[place]
            row_positions = base[rows]
            seen = keys <= row_positions[:, None]
            if own is not None:
                seen[:, s.end :] = False
            if not bidirectional:
                seen &= torch.arange(total) <= torch.tensor(rows)[:, None]
            q = turned(s.q[head, rows][None], row_positions)
            k = turned(s.k[head][None], keys)
            out[head, rows] = attended(q, k, s.v[head][None], seen)[0]
    return out
