"""Kahneman-Tversky optimisation: single completions labelled good or bad, no pairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trueup.errors import check_at_least, check_positive
from trueup.objectives.protocol import Data, Needs


@dataclass(frozen=True, kw_only=True)
class KTO:
    """Kahneman-Tversky optimisation: gains and losses against the drift from the reference.

    label true : loss_i = desirable_weight   * (1 - sigmoid(beta * (ratio_i - kl)))
    label false: loss_i = undesirable_weight * (1 - sigmoid(beta * (kl - ratio_i)))
    ratio_i = log pi/ref(completion_i)
    kl      = max(0, mean log pi/ref of completions of other rows under this prompt), no gradient

    Units:  nats, sums over completion tokens.
    Fields: beta > 0 ties the policy to the reference; weights >= 0, such that desirable_weight *
            n_desirable lies between 1 and 4/3 of undesirable_weight * n_undesirable.
    Raises: UserError where a field leaves its range.
    Source: Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    name: ClassVar[str] = "kto"
    data: ClassVar[Data] = "labelled"
    needs: ClassVar[Needs] = Needs(reference=True, mismatched=True)
    arxiv: ClassVar[str] = "2402.01306"

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        check_at_least(
            0,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per completion, [B]."""
        return kto_loss(
            logps=batch["logps"],
            ref_logps=batch["ref_logps"],
            labels=batch["labels"],
            kl=batch["kl"],
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )

    def weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        """1 for every completion: the class weights stand in the loss, as the paper has them."""
        return batch["logps"].detach().new_ones(len(batch["logps"]))


def kto_loss(
    *,
    logps: Tensor,
    ref_logps: Tensor,
    labels: Tensor,
    kl: Tensor | float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """KTO's formula on plain tensors, [B] in, [B] out; `kl` is a scalar, clamped and detached."""
    ahead = beta * (logps - ref_logps - kl)
    gain = desirable_weight * torch.sigmoid(-ahead)
    loss = undesirable_weight * torch.sigmoid(ahead)
    return torch.where(labels.bool(), gain, loss)
