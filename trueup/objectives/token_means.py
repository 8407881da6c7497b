"""Means over all tokens of a batch, told per example, and the divergence that distillation means.

A flat token mean belongs to the batch; told per example it is `B * (own sum) / (tokens of all)`,
so that the plain mean over examples is the mean over tokens.
"""

import torch
from torch import Tensor


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The flat mean over the batch's tokens, told per example.

    result_b = B * sum_t values[b, t] * mask[b, t] / sum(mask)
    Shapes: values, mask [B, T] -> [B]; values off the mask may be anything.
    Edges:  a batch without tokens gives 0.
    """
    sums = torch.where(mask.bool(), values, torch.zeros_like(values)).sum(-1)
    return len(sums) * sums / mask.sum().clamp(min=1)


def per_mean_length(sums: Tensor, mean_length: Tensor) -> Tensor:
    """The same from each example's own sum: sums [B] over the batch's mean number of tokens.

    Edges:  a batch without tokens has sums of 0 and gives 0.
    """
    return sums / mean_length.clamp(min=torch.finfo(sums.dtype).tiny)


def position_kl(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || policy) at each position over the whole vocabulary, [..., V] in, [...] out.

    kl = sum_a teacher(a) * (log teacher(a) - log policy(a)), the teacher without gradient
    Units:  nats; half-precision logits are worked on in float32.
    Edges:  tokens that the teacher rules out (logits of -inf) add 0.
    """
    logps = wide(logits).log_softmax(-1)
    teacher_logps = wide(teacher_logits).detach().log_softmax(-1)
    possible = teacher_logps > -torch.inf
    gaps = torch.where(possible, teacher_logps, 0.0) - torch.where(possible, logps, 0.0)
    return (teacher_logps.exp() * gaps).sum(-1)


def token_kl(logits: Tensor, teacher_logits: Tensor, mask: Tensor) -> Tensor:
    """`position_kl` as a flat token mean told per example.

    Shapes: logits, teacher_logits [B, T, V], already shifted; mask [B, T] -> [B].
    Edges:  logits off the mask may be anything.
    """
    here = mask.bool()[..., None]
    kl = position_kl(torch.where(here, logits, 0.0), torch.where(here, teacher_logits, 0.0))
    return token_mean(kl, mask)


def wide(logits: Tensor) -> Tensor:
    """Half precision as float32, all else as it is."""
    return logits if logits.dtype == torch.float64 else logits.float()
