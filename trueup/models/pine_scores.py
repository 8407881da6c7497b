"""Attention scores where query heads share key heads, and what a query does not see."""

import torch
from torch import Tensor


def plain_scores(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Scores of keys at their base positions; queries [R, H, U, M, d] -> [R, N, G, U, M, K]."""
    grouped = grouped_heads(queries, keys)
    scores = grouped.flatten(2, 4) @ keys.mT
    return scores.reshape(*grouped.shape[:-1], keys.shape[2]).to(wide(keys)) * scale


def grouped_heads(of_heads: Tensor, keys: Tensor) -> Tensor:
    """Query heads by the key head that they share: [R, H, ...] -> [R, N, G, ...]."""
    rows, heads, *rest = of_heads.shape
    return of_heads.reshape(rows, keys.shape[1], heads // keys.shape[1], *rest)


def hidden(scores: Tensor, seen: Tensor) -> Tensor:
    """The scores, as low as can be where nothing is seen; a row that sees nothing stays finite."""
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min)


def wide(tensor: Tensor) -> torch.dtype:
    """The type in which scores and softmax are computed: float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)
