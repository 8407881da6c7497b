"""Position-invariant attention: documents that are read as a set, on plain tensors.

The input is a prefix, n documents and what follows them (the suffix and the generated tokens). All
documents stand stacked, right-aligned before the suffix; each query orders them anew by how much it
attends to them. Moving a document's keys back by c is turning the query forward by c, so that keys
stay as a cache holds them and only n copies of the query are made.

Shapes: R rows, H query heads, N key heads of G queries each (H = N G), n documents of at most L
        tokens, P prefix columns, d dims. Columns of a row: [P | n times L | suffix and generated];
        prefix and documents are padded on the left.
Source: Wang et al. 2024, arXiv 2407.01100; masks, positions and the mean over a document's tokens
        as in the authors' code. The turned query in place of turned keys is ours and exact. One
        softmax over all blocks' scores is their merge by log-sum-exp.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trueup.models.pine_grid import Grid, Order, Rotation
from trueup.models.pine_order import document_shifts, token_shifts
from trueup.models.pine_scores import grouped_heads, hidden, plain_scores, wide


@dataclass(frozen=True)
class Context:
    """Prefix and documents of one layer, as all later tokens read them.

    Shapes: prefix [R, N, P, d] and documents [R, N, n, L, d], keys turned to base positions; raw
            as documents, before any turn; values [R, N, P + n L, d].
    """

    prefix: Tensor
    documents: Tensor
    raw: Tensor
    values: Tensor

    def selected(self, rows: Tensor) -> "Context":
        """The same of these rows, in this order."""
        return Context(self.prefix[rows], self.documents[rows], self.raw[rows], self.values[rows])


def read_context(k: Tensor, v: Tensor, grid: Grid) -> Context:
    """The parts of keys and values [R, N, P + n L, d], keys turned to base positions."""
    documents = _in_documents(k[:, :, grid.prefix_width :], grid).contiguous()
    return Context(
        prefix=k[:, :, : grid.prefix_width].contiguous(),
        documents=documents,
        raw=grid.rotation.undone(documents, grid.doc_positions[:, None]),
        values=v.contiguous(),
    )


def pine_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix_len: int,
    doc_lengths: Sequence[int],
    theta: float = 10000.0,
    order: Order = "importance",
) -> Tensor:
    """Position-invariant attention over one sequence: prefix, documents, suffix.

    Shapes: q, k, v [H, T, d] before any rotation; theta is the rotary base; -> [H, T, d].
    """
    grid, columns = _laid_out(q, prefix_len, doc_lengths, theta, order)
    positions = _base_positions(grid, columns, q.shape[1])
    turned = [grid.rotation.turned(each, positions) for each in (q, k)]
    queries, keys, values = (_scattered(each, grid, columns) for each in (*turned, v))
    scale, end = q.shape[-1] ** -0.5, grid.context_width
    context = read_context(keys[:, :, :end], values[:, :, :end], grid)
    own = positions[None, columns >= end]
    later = [each[:, :, end:] for each in (queries, keys, values)]
    mask = torch.ones_like(own, dtype=torch.bool)
    suffix = suffix_attention(
        later[0], later[1], later[2], context, grid, scale, positions=own, mask=mask
    )
    inside = context_attention(queries[:, :, :end], context, grid, scale)
    return torch.cat([inside, suffix], dim=2)[0, :, columns]


def pine_shifts(
    q: Tensor,
    k: Tensor,
    prefix_len: int,
    doc_lengths: Sequence[int],
    order: Order = "importance",
) -> Tensor:
    """By how many positions each document's keys move back for each query.

    Shapes: q, k [H, T, d] before any rotation; -> [H, T, n], zeros for prefix rows.
    """
    grid, columns = _laid_out(q, prefix_len, doc_lengths, 1.0, order)
    still = replace(grid, rotation=Rotation(grid.rotation.inv_freq[:0]))  # nothing to undo
    queries, keys = (_scattered(each, grid, columns) for each in (q, k))
    scale, end = q.shape[-1] ** -0.5, grid.context_width
    raw = _in_documents(keys[:, :, prefix_len:end], grid)
    documents = _in_documents(queries[:, :, prefix_len:end], grid)
    of_documents = document_shifts(documents, raw, still, scale)
    later = queries[:, :, end:]
    zeros = torch.zeros(1, later.shape[2], dtype=torch.long, device=q.device)
    of_tokens = token_shifts(later, raw, zeros, still, scale)
    none = of_tokens.new_zeros(1, len(q), prefix_len, grid.n_docs)
    of_rows = of_documents.repeat_interleave(grid.doc_width, dim=2)
    return torch.cat([none, of_rows, of_tokens], dim=2)[0, :, columns]


def context_attention(q: Tensor, context: Context, grid: Grid, scale: float) -> Tensor:
    """Attention inside prefixes and documents; documents see the prefix and one another.

    Shapes: q [R, H, P + n L, d] turned to base positions; -> as q.
    """
    width = grid.prefix_width
    steps = torch.arange(width, device=q.device)
    causal = grid.prefix_mask[:, None, :] & (steps[:, None] >= steps)  # [R, P, P]
    scores = plain_scores(q[:, :, :width, None], context.prefix, scale)  # [R, N, G, P, 1, P]
    weights = torch.softmax(hidden(scores, causal[:, None, None, :, None]), dim=-1)
    prefixes = _mixed(weights, context.values[:, :, :width])
    documents = _in_documents(q[:, :, width:], grid)  # [R, H, n, L, d]
    shifts = document_shifts(documents, context.raw, grid, scale)
    columns = torch.arange(grid.doc_width, device=q.device)
    causal = columns[:, None] >= columns  # [L, L]
    seen = grid.others[:, None, :, None] | causal[None, :, None, :]  # [n, L, n, L]
    seen = seen & grid.doc_mask[:, None, None]  # [R, n, L, n, L]
    blocks = _context_scores(documents, context, shifts, seen, grid, scale)
    inside = _mixed(torch.softmax(torch.cat(blocks, dim=-1), dim=-1), context.values)
    return torch.cat([prefixes, inside], dim=2)


def suffix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context: Context,
    grid: Grid,
    scale: float,
    *,
    positions: Tensor,
    mask: Tensor,
) -> Tensor:
    """Attention of suffix and generated tokens, the last ones of their rows.

    Shapes: q [R, H, Q, d], k and v [R, N, S, d] of what follows the documents, turned to base
            positions; positions [R, Q] of the queries; mask [R, S], True on real tokens; -> as q.
    """
    queries = q[:, :, :, None]  # [R, H, Q, 1, d]: a unit of its own each
    shifts = token_shifts(q, context.raw, positions, grid, scale)
    steps = torch.arange(k.shape[2], device=q.device)
    causal = mask[:, None, :] & (steps[-q.shape[2] :, None] >= steps)  # [R, Q, S]
    blocks = _context_scores(queries, context, shifts, grid.doc_mask[:, None, None], grid, scale)
    own = hidden(plain_scores(queries, k, scale), causal[:, None, None, :, None])
    weights = torch.softmax(torch.cat([*blocks, own], dim=-1), dim=-1)
    width = grid.context_width
    return _mixed(weights[..., :width], context.values) + _mixed(weights[..., width:], v)


def _context_scores(
    queries: Tensor, context: Context, shifts: Tensor, seen: Tensor, grid: Grid, scale: float
) -> list[Tensor]:
    """Scores of the prefix, and of the documents, for each the query turned on by its shift.

    Shapes: queries [R, H, U, M, d], shifts [R, H, U, n], seen [R, U or 1, M or 1, n, L];
            -> [R, N, G, U, M, P] and [R, N, G, U, M, n L].
    """
    prefix = plain_scores(queries, context.prefix, scale)
    keys = context.documents
    steps = grouped_heads(shifts, keys).movedim(-1, 2)[..., None]  # [R, N, n, G, U, 1]
    copies = grid.rotation.turned(grouped_heads(queries, keys)[:, :, None], steps)
    scores = copies.flatten(3, 5) @ keys.mT  # [R, N, n, G U M, L]
    scores = scores.reshape(*copies.shape[:-1], -1).movedim(2, -2)  # [R, N, G, U, M, n, L]
    documents = hidden(scores.to(wide(keys)) * scale, seen[:, None, None]).flatten(-2)
    return [hidden(prefix, grid.prefix_mask[:, None, None, None, None]), documents]


def _mixed(weights: Tensor, values: Tensor) -> Tensor:
    """The values by weights [R, N, G, U, M, K] -> [R, H, U M, d]."""
    rows, kv_heads, groups, units, tokens, _ = weights.shape
    mixed = weights.to(values.dtype).flatten(2, 4) @ values
    return mixed.reshape(rows, kv_heads * groups, units * tokens, values.shape[-1])


def _in_documents(of_columns: Tensor, grid: Grid) -> Tensor:
    """The documents' columns by document: [R, heads, n L, d] -> [R, heads, n, L, d]."""
    return torch.unflatten(of_columns, 2, (grid.n_docs, grid.doc_width))


def _laid_out(
    q: Tensor, prefix_len: int, doc_lengths: Sequence[int], theta: float, order: Order
) -> tuple[Grid, Tensor]:
    """The grid of one sequence, and the column of each of its tokens, [T]."""
    exponents = torch.arange(0, q.shape[-1], 2, device=q.device, dtype=wide(q)) / q.shape[-1]
    grid = Grid(
        prefix_lengths=torch.tensor([prefix_len], device=q.device),
        doc_lengths=torch.tensor([list(doc_lengths)], device=q.device),
        prefix_width=prefix_len,
        doc_width=max(doc_lengths),
        rotation=Rotation(theta**-exponents),
        order=order,
    )
    real = torch.cat([grid.prefix_mask[0], grid.doc_mask[0].flatten()]).nonzero()[:, 0]
    later = torch.arange(q.shape[1] - len(real), device=q.device) + grid.context_width
    return grid, torch.cat([real, later])


def _base_positions(grid: Grid, columns: Tensor, count: int) -> Tensor:
    """The base position of each token of one sequence, [T]."""
    context = torch.cat([grid.prefix_positions[0], grid.doc_positions[0].flatten()])
    inside = columns[columns < grid.context_width]
    return torch.cat([context[inside], torch.arange(len(inside), count, device=columns.device)])


def _scattered(vectors: Tensor, grid: Grid, columns: Tensor) -> Tensor:
    """The tokens' vectors [H, T, d] at their columns, [1, H, columns, d], zeros in between."""
    width = int(columns[-1]) + 1
    spread = vectors.new_zeros(len(vectors), width, vectors.shape[-1])
    return spread.index_copy(1, columns, vectors)[None]
