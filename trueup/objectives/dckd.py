"""Dual-constrained distillation: follow the aligned teacher on good and on bad answers alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trueup.errors import check_at_least
from trueup.objectives.protocol import Needs, PairObjective
from trueup.objectives.token_means import per_mean_length, token_kl, token_mean, wide


@dataclass(frozen=True, kw_only=True)
class DCKD(PairObjective):
    """Dual-constrained knowledge distillation: a teacher's token distributions on both answers.

    loss  = sft_weight * nll(chosen)
          + distil_weight * (chosen_weight * kd(chosen) + rejected_weight * kd(rejected))
    kd(y) = mean over tokens of sum_a teacher(a) * (log teacher(a) - log pi(a))
    nll   = mean over tokens of -log pi(token)

    Both divergences pull towards the teacher: on the rejected answer it shows how to go on from a
    bad beginning. Means run over all tokens of the batch, per kind of answer.

    Units:  nats per token.
    Fields: weights >= 0; distil_weight 0 is plain fine-tuning on the chosen answers.
    Edges:  the teacher has no gradient, and the rejected answer no likelihood term.
    Raises: UserError where a field leaves its range.
    Use:    an aligned teacher with the same token ids is at hand and the student is small: students
            of 0.5 to 2 billion weights often lose under plain DPO, and gain from this.
    Not:    tokenizers differ, or the policy itself is to become better than the teacher. For more,
            go on with `adpa`, which was best after this.
    Source: Gao et al. 2025, arXiv 2502.17927. The authors' code defaults every weight to
            0 and floors probabilities at 1e-7; here each is 1 and log-probabilities are exact.
    """

    sft_weight: float = 1.0
    distil_weight: float = 1.0
    chosen_weight: float = 1.0
    rejected_weight: float = 1.0
    name: ClassVar[str] = "dckd"
    needs: ClassVar[Needs] = Needs(teacher=True, mean_length=True)
    arxiv: ClassVar[str] = "2502.17927"

    def __post_init__(self) -> None:
        check_at_least(
            0,
            sft_weight=self.sft_weight,
            distil_weight=self.distil_weight,
            chosen_weight=self.chosen_weight,
            rejected_weight=self.rejected_weight,
        )

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]; the mean lengths are the global batch's."""
        chosen_length = batch["mean_chosen_length"]
        return self._weighed(
            nll=-per_mean_length(batch["chosen_logps"], chosen_length),
            chosen_kl=per_mean_length(batch["chosen_teacher_kl"], chosen_length),
            rejected_kl=per_mean_length(
                batch["rejected_teacher_kl"], batch["mean_rejected_length"]
            ),
        )

    def _weighed(self, *, nll: Tensor, chosen_kl: Tensor, rejected_kl: Tensor) -> Tensor:
        """The three parts, [B] each, as one loss."""
        distilled = self.chosen_weight * chosen_kl + self.rejected_weight * rejected_kl
        return self.sft_weight * nll + self.distil_weight * distilled


def dckd_loss(
    *,
    chosen_logits: Tensor,
    chosen_labels: Tensor,
    chosen_mask: Tensor,
    rejected_logits: Tensor,
    rejected_mask: Tensor,
    teacher_chosen_logits: Tensor,
    teacher_rejected_logits: Tensor,
    sft_weight: float = 1.0,
    distil_weight: float = 1.0,
    chosen_weight: float = 1.0,
    rejected_weight: float = 1.0,
) -> Tensor:
    """DCKD's formula on whole logits [B, T, V], already shifted; [B], whose plain mean is the loss.

    chosen_labels, masks [B, T]; labels and logits off the mask may be anything. The class works on
    sums that the engine streams, and says the same.
    """
    here = chosen_mask.bool()
    labels = torch.where(here, chosen_labels, 0)
    logits = wide(torch.where(here[..., None], chosen_logits, 0.0))
    picked = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    weights = DCKD(
        sft_weight=sft_weight,
        distil_weight=distil_weight,
        chosen_weight=chosen_weight,
        rejected_weight=rejected_weight,
    )
    return weights._weighed(
        nll=-token_mean(picked, chosen_mask),
        chosen_kl=token_kl(chosen_logits, teacher_chosen_logits, chosen_mask),
        rejected_kl=token_kl(rejected_logits, teacher_rejected_logits, rejected_mask),
    )
