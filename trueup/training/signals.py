"""The canonical batch: log-probabilities by the keywords that every objective knows."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trueup.training.examples import DataKind


def signals(
    kind: DataKind,
    table: Tensor,
    mask: Tensor,
    *,
    known: Mapping[str, Tensor],
    reference: Tensor | None,
    scalars: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """What an objective's `loss` reads.

    Shapes: table, mask [C, T] with the completions of an example one after the other; known, [B]
            lengths and labels; reference [B, K] log-probabilities of whole completions; scalars
            of the whole batch; -> sums [B], token-level tables [B, T].
    """
    batch = {name: _like(value, table) for name, value in known.items()}
    logps = table.sum(dim=1)
    if reference is not None:
        reference = reference.to(table.device, table.dtype)
    batch |= {name: value.to(table.device, table.dtype) for name, value in scalars.items()}
    if kind == "pairs":
        for place, side in enumerate(("chosen", "rejected")):
            batch[f"{side}_logps"] = logps[place::2]
            batch[f"{side}_token_logps"] = table[place::2]
            batch[f"{side}_mask"] = mask[place::2]
            if reference is not None:
                batch[f"ref_{side}_logps"] = reference[:, place]
        return batch
    batch |= {"logps": logps, "token_logps": table, "mask": mask}
    if reference is not None:
        batch["ref_logps"] = reference[:, 0]
    return batch


def planned(kind: DataKind, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an objective's `weights` reads, before any forward pass; log-probabilities are 0."""
    names = ("chosen_logps", "rejected_logps") if kind == "pairs" else ("logps",)
    lengths = next(iter(known.values()))
    return {**known, **{name: torch.zeros_like(lengths) for name in names}}


def sums(kind: DataKind, batch: Mapping[str, Tensor]) -> Tensor:
    """The policy's log-probabilities of whole completions, [B, K], detached."""
    names = ("chosen_logps", "rejected_logps") if kind == "pairs" else ("logps",)
    return torch.stack([batch[name].detach() for name in names], dim=1)


def _like(value: Tensor, table: Tensor) -> Tensor:
    """Lengths in the table's type, labels as they are, both on its device."""
    return value.to(table.device, table.dtype if value.is_floating_point() else value.dtype)
