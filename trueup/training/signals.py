"""The canonical batch: log-probabilities by the keywords that every objective knows."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trueup.objectives.protocol import ROLES, Data
from trueup.training.examples import by_role


def signals(
    kind: Data,
    logps: Tensor,
    *,
    known: Mapping[str, Tensor],
    beside: Mapping[str, Tensor | None],
    scalars: Mapping[str, Tensor],
    tokens: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """What an objective's `loss` reads.

    Shapes: logps [B, W], sums over the tokens of an example's completions; known, [B, ...] lengths
            and labels, token tables where tokens are at hand; beside, [B, W] sums of other models
            by the prefix of their keywords (`ref_`); scalars of the whole batch; tokens, a table
            [B, W, T] and its mask; -> [B] per role, [B, K] for a role of many.
    """
    batch = {name: _like(value, logps) for name, value in known.items()}
    for name in [name for name in batch if name.endswith("token_logps")]:
        table = batch.pop(name)  # as wide as the longest completion of the whole run
        if tokens is not None:
            batch[name] = table[..., : tokens[0].shape[-1]]
    batch |= {name: value.to(logps.device, logps.dtype) for name, value in scalars.items()}
    for role, sums in by_role(kind, logps).items():
        batch[f"{role}logps"] = sums
    for model, known_logps in beside.items():
        if known_logps is not None:
            for role, sums in by_role(kind, known_logps.to(logps.device, logps.dtype)).items():
                batch[f"{model}{role}logps"] = sums
    if tokens is not None:
        for role, table in by_role(kind, tokens[0]).items():
            batch[f"{role}token_logps"] = table
        for role, mask in by_role(kind, tokens[1]).items():
            # of many completions `sample_mask` says which are there at all
            batch[f"{role}mask" if mask.ndim == 2 else f"{role}token_mask"] = mask
    return batch


def planned(kind: Data, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an objective's `weights` reads, before any forward pass; log-probabilities are 0."""
    names = [f"{role}_" if role else "" for role in ROLES[kind]]
    return {
        **known,
        **{f"{name}logps": torch.zeros_like(known[f"{name}lengths"]) for name in names},
    }


def _like(value: Tensor, table: Tensor) -> Tensor:
    """Lengths in the table's type, labels as they are, both on its device."""
    return value.to(table.device, table.dtype if value.is_floating_point() else value.dtype)
