"""What training changes, per example: the columns of the step table and of the evaluations."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trueup.objectives.protocol import ROLES, Data


def is_paired(kind: Data) -> bool:
    """Whether an example prefers one completion to another one."""
    return {"chosen", "rejected"} <= set(ROLES[kind])


def measure_names(kind: Data, *, has_reference: bool) -> list[str]:
    """The columns of `measures`.

    chosen, rejected  margin is log pi/ref(chosen) - log pi/ref(rejected), without a reference the
                      difference of the log-probabilities; accuracy is the share with a margin
                      above 0
    labelled          changes against the reference, of completions labelled true and false apart
    one completion    logps per completion and per token
    other             logps and changes per role; of many completions their mean
    """
    if is_paired(kind):
        changes = ["chosen_change", "rejected_change"] if has_reference else []
        return ["chosen_logps", "rejected_logps", *changes, "margin", "accuracy"]
    if kind == "labelled":
        return ["logps", *(["true_change", "false_change"] if has_reference else [])]
    if ROLES[kind] == ("",):
        return ["logps", "mean_token_logps", *(["change"] if has_reference else [])]
    changes = [f"{role}_change" for role in ROLES[kind]] if has_reference else []
    return [*(f"{role}_logps" for role in ROLES[kind]), *changes]


def measures(kind: Data, batch: Mapping[str, Tensor]) -> Tensor:
    """The columns named by `measure_names`, [B, M], detached; NaN where a row does not count."""
    with torch.no_grad():
        if is_paired(kind):
            columns = _pair_measures(batch)
        elif kind == "labelled":
            columns = _labelled_measures(batch)
        elif ROLES[kind] == ("",):
            logps = batch["logps"]
            columns = [logps, logps / batch["lengths"]]
            if "ref_logps" in batch:
                columns.append(logps - batch["ref_logps"])
        else:
            columns = _role_measures(kind, batch)
        return torch.stack([column.detach() for column in columns], dim=1)


def _role_measures(kind: Data, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Log-probabilities and changes of every role, masked completions left out."""
    mask = batch.get("sample_mask")
    found, changes = [], []
    for role in ROLES[kind]:
        logps = batch[f"{role}_logps"]
        counts = mask if role == "sample" and logps.ndim == 2 else None
        found.append(_mean(logps, counts))
        if f"ref_{role}_logps" in batch:
            changes.append(_mean(logps - batch[f"ref_{role}_logps"], counts))
    return [*found, *changes]


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over an example's completions, [B]; NaN where none counts."""
    if values.ndim == 1:
        return values
    if mask is None:
        return values.mean(dim=1)
    return values.masked_fill(~mask.bool(), torch.nan).nanmean(dim=1)


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
