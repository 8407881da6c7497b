"""Random logits with ragged masks, and the sums that the engine streams from such logits."""

import torch
from torch import Tensor

from trueup.models.token_divergence import teacher_advantage, teacher_kl

B, T, V = 4, 6, 9


def logits(seed: int, *, rows: int = B, positions: int = T) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, positions, V, dtype=torch.float64, generator=generator)


def ragged(*lengths: int) -> Tensor:
    """Masks [B, T] of completions with these lengths."""
    return torch.arange(T) < torch.tensor(lengths)[:, None]


def summed(values: Tensor, mask: Tensor) -> Tensor:
    """Values at the mask's positions, in reading order, summed by row."""
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values).sum(-1)


def mean_length(mask: Tensor) -> Tensor:
    return mask.sum(-1).double().mean()


def label_logps(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]


def streamed_kl(policy: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher || policy) summed by row, [B], by the engine's way, with the logits as states."""
    head = torch.eye(V, dtype=torch.float64)
    return summed(teacher_kl(policy[mask], head, teacher[mask], head, chunk=3), mask)


def streamed_advantage(policy: Tensor, teacher: Tensor, ref: Tensor, mask: Tensor) -> Tensor:
    """E_policy[log teacher - log reference teacher] summed by row, [B], by the engine's way."""
    head = torch.eye(V, dtype=torch.float64)
    found = teacher_advantage(policy[mask], head, teacher[mask], head, ref[mask], head, chunk=3)
    return summed(found, mask)


def padded(values: Tensor, *, left: int, right: int, fill: float) -> Tensor:
    """The table with further columns of `fill` on both sides."""
    width = (0, 0) * (values.ndim - 2) + (left, right)
    return torch.nn.functional.pad(values, width, value=fill)
