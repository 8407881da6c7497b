"""From logits to the log-probabilities of completions, per token and summed."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SequenceLogps:
    """Log-probabilities of completions in nats: token_logps [B, T-1] (0 off the mask), rest [B]."""

    token_logps: Tensor
    logps: Tensor
    lengths: Tensor
    mean_logps: Tensor


def sequence_logps(logits: Tensor, ids: Tensor, completion_mask: Tensor) -> SequenceLogps:
    """Log-probability of each completion under a causal model.

    token_logps[b, t] = log softmax(logits[b, t])[ids[b, t+1]] where completion_mask[b, t+1]
    logps = their sum,  lengths = how many,  mean_logps = logps / lengths
    Shapes: logits [B, T, V], ids [B, T], completion_mask [B, T], true on completion tokens only.
    Units:  nats; half-precision logits are worked on in float32.
    Edges:  ids off the mask may be anything, -100 too; logits there may be -inf. A row without
            completion tokens has length 0, logps 0 and mean_logps 0.
    Source: Rafailov et al. 2023, arXiv 2305.18290.
    """
    mask = completion_mask[:, 1:].bool()
    targets = torch.where(mask, ids[:, 1:], 0)
    scored = logits[:, :-1] if logits.dtype == torch.float64 else logits[:, :-1].float()
    picked = scored.gather(-1, targets[..., None])[..., 0] - scored.logsumexp(-1)
    token_logps = torch.where(mask, picked, torch.zeros_like(picked))
    lengths = mask.sum(-1).to(token_logps.dtype)
    logps = token_logps.sum(-1)
    return SequenceLogps(
        token_logps=token_logps,
        logps=logps,
        lengths=lengths,
        mean_logps=logps / lengths.clamp(min=1),
    )
