"""TRL's own loss code on given sums: its trainers' methods, called without a trainer or a model."""

import contextlib
import io
import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor


def trl_class(module: str, name: str) -> Any:
    """A class of TRL; the test is skipped where TRL is absent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(pytest.importorskip(f"trl.{module}", exc_type=ImportError), name)


def dpo_trainer_loss(
    batch: dict[str, Tensor], loss_types: list[str], loss_weights: list[float], **fields: Any
) -> Tensor:
    """The batch loss of TRL's DPOTrainer for sums and lengths; each sum is spread over tokens."""
    trainer = trl_class("trainer.dpo_trainer", "DPOTrainer")
    lengths = torch.cat([batch["chosen_lengths"], batch["rejected_lengths"]]).long()
    sums = torch.cat([batch["chosen_logps"], batch["rejected_logps"]])
    width = int(lengths.max()) + 1
    mask = (torch.arange(width) >= 1) & (torch.arange(width) <= lengths[:, None])
    log_probs = (sums / lengths)[:, None] * mask[:, 1:]
    outputs = SimpleNamespace(
        log_probs=log_probs,
        entropy=torch.zeros_like(log_probs),
        mean_logits=torch.zeros_like(log_probs),
        is_top1=torch.zeros_like(log_probs, dtype=torch.bool),
    )
    stand_in = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=_Alone(),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=loss_types,
        loss_weights=loss_weights,
        use_weighting=False,
        label_smoothing=0.0,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    vars(stand_in).update(fields)
    inputs = {
        "input_ids": torch.zeros(mask.shape, dtype=torch.long),
        "attention_mask": torch.ones(mask.shape, dtype=torch.long),
        "completion_mask": mask.long(),
        "ref_chosen_logps": batch["ref_chosen_logps"],
        "ref_rejected_logps": batch["ref_rejected_logps"],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        return trainer._compute_loss(stand_in, lambda **_: outputs, inputs, False)


def kto_trainer_loss(
    logps: Tensor, ref_logps: Tensor, labels: Tensor, kl: Tensor, **fields: Any
) -> Tensor:
    """The batch loss of TRL's KTOTrainer for sums of one token, and given mismatched log-ratios."""
    trainer = trl_class("trainer.kto_trainer", "KTOTrainer")
    outputs = SimpleNamespace(
        log_probs=logps[:, None],
        entropy=torch.zeros(len(logps), 1),
        mean_logits=torch.zeros(len(logps), 1),
    )
    stand_in = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=_Alone(),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        calculate_KL=True,
        loss_type="kto",
        _compute_kl_logps=lambda *_: kl,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    vars(stand_in).update(fields)
    inputs = {
        "input_ids": torch.zeros(len(logps), 2, dtype=torch.long),
        "attention_mask": torch.ones(len(logps), 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]]).expand(len(logps), 2),
        "label": labels,
        "ref_logps": ref_logps,
        "ref_KL_logps": torch.zeros_like(kl),
    }
    return trainer._compute_loss(stand_in, lambda **_: outputs, inputs, False)


class _Alone:
    """An accelerator of one process."""

    device = torch.device("cpu")

    def gather_for_metrics(self, value: Tensor) -> Tensor:
        return value

    gather = gather_for_metrics
