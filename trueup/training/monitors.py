"""What training changes, per example: the columns of the step table and of the evaluations."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trueup.training.examples import DataKind


def measure_names(kind: DataKind, *, has_reference: bool) -> list[str]:
    """The columns of `measures`.

    pairs        margin is log pi/ref(chosen) - log pi/ref(rejected), without a reference the
                 difference of the log-probabilities; accuracy is the share with a margin above 0
    labelled     changes against the reference, of completions labelled true and false apart
    completions  logps per completion and per token
    """
    if kind == "pairs":
        changes = ["chosen_change", "rejected_change"] if has_reference else []
        return ["chosen_logps", "rejected_logps", *changes, "margin", "accuracy"]
    if kind == "labelled":
        return ["logps", *(["true_change", "false_change"] if has_reference else [])]
    return ["logps", "mean_token_logps", *(["change"] if has_reference else [])]


def measures(kind: DataKind, batch: Mapping[str, Tensor]) -> Tensor:
    """The columns named by `measure_names`, [B, M], detached; NaN where a row does not count."""
    with torch.no_grad():
        if kind == "pairs":
            columns = _pair_measures(batch)
        elif kind == "labelled":
            columns = _labelled_measures(batch)
        else:
            logps = batch["logps"]
            columns = [logps, logps / batch["lengths"]]
            if "ref_logps" in batch:
                columns.append(logps - batch["ref_logps"])
        return torch.stack([column.detach() for column in columns], dim=1)


def _pair_measures(batch: Mapping[str, Tensor]) -> list[Tensor]:
    chosen, rejected = batch["chosen_logps"], batch["rejected_logps"]
    if "ref_chosen_logps" not in batch:
        margin = chosen - rejected
        return [chosen, rejected, margin, (margin > 0).to(margin.dtype)]
    up, down = chosen - batch["ref_chosen_logps"], rejected - batch["ref_rejected_logps"]
    margin = up - down
    return [chosen, rejected, up, down, margin, (margin > 0).to(margin.dtype)]


def _labelled_measures(batch: Mapping[str, Tensor]) -> list[Tensor]:
    logps, labels = batch["logps"], batch["labels"].bool()
    if "ref_logps" not in batch:
        return [logps]
    change = logps - batch["ref_logps"]
    nothing = torch.full_like(change, torch.nan)
    return [logps, torch.where(labels, change, nothing), torch.where(labels, nothing, change)]
