"""How documents that are read as a set are ordered: by how much each query attends to them."""

import torch
from torch import Tensor

from trueup.models.pine_grid import Grid
from trueup.models.pine_scores import hidden, plain_scores


def document_shifts(documents: Tensor, raw: Tensor, grid: Grid, scale: float) -> Tensor:
    """By how much documents move back for each document's queries, [R, H, n, n].

    I(D_i, D_j) = sum over m in D_i of the mean over t in D_j of a(m, t), the softmax a over the
    other documents' tokens; D_i itself stands last.
    Shapes: documents [R, H, n, L, d], queries turned to base positions; raw [R, N, n, L, d], keys
            before any turn.
    """
    if not grid.is_ordered:
        return grid.doc_lengths.new_zeros(*documents.shape[:3], grid.n_docs)
    queries = grid.rotation.undone(documents, grid.doc_positions[:, None])
    seen = grid.doc_mask[:, None] & grid.others[:, :, None]  # [R, n, n, L]
    shares = _shares(queries, raw, seen, grid, scale)  # [R, H, n, L, n]
    importance = (shares * grid.doc_mask[:, None, ..., None]).sum(3)
    return _shifts(importance, grid, own=~grid.others)


def token_shifts(q: Tensor, raw: Tensor, positions: Tensor, grid: Grid, scale: float) -> Tensor:
    """By how much documents move back for each later token, [R, H, Q, n].

    I(m, D_j) = the mean over t in D_j of a(m, t), the softmax a over the documents' tokens
    Shapes: q [R, H, Q, d] turned to their positions [R, Q]; raw as in `document_shifts`.
    """
    if not grid.is_ordered:
        return grid.doc_lengths.new_zeros(*q.shape[:3], grid.n_docs)
    queries = grid.rotation.undone(q, positions[:, None])[:, :, :, None]
    return _shifts(_shares(queries, raw, grid.doc_mask[:, None], grid, scale)[:, :, :, 0], grid)


def _shares(queries: Tensor, raw: Tensor, seen: Tensor, grid: Grid, scale: float) -> Tensor:
    """The attention that queries pay to each document's tokens on average, without positions.

    Shapes: queries [R, H, U, M, d], M in each of U units; raw [R, N, n, L, d]; seen
            [R, U or 1, n, L]; -> [R, H, U, M, n].
    """
    visible = seen.flatten(2)[:, None, None, :, None]  # [R, 1, 1, U, 1, n L]
    scores = hidden(plain_scores(queries, raw.flatten(2, 3), scale), visible)
    weights = torch.softmax(scores, dim=-1) * visible  # nothing where nothing is seen
    sums = weights.reshape(*weights.shape[:-1], *raw.shape[2:4]).sum(-1)  # [R, N, G, U, M, n]
    lengths = grid.doc_lengths.clamp_min(1)[:, None, None, None, None]
    return (sums / lengths).flatten(1, 2)


def _shifts(importance: Tensor, grid: Grid, own: Tensor | None = None) -> Tensor:
    """How many tokens stand between a document and its query's place, [R, H, U, n].

    Edges: equal importances go by the documents' own order, the earlier one nearer; whoever wants
           ties to be free of the input's order gives the documents in an order of their content.
    """
    ranked = importance if grid.order == "importance" else -importance
    if own is not None:
        ranked = ranked.masked_fill(own, torch.inf)
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    lengths = grid.doc_lengths[:, None, None].expand(importance.shape).gather(-1, order)
    before = lengths.cumsum(-1) - lengths
    return torch.empty_like(before).scatter_(-1, order, before)
