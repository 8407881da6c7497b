"""Advantage-guided distillation: what a teacher learned in alignment rewards a student's tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trueup.errors import check_at_least
from trueup.objectives.protocol import Data, Needs, Unweighted
from trueup.objectives.token_means import per_mean_length, token_mean, wide


@dataclass(frozen=True, kw_only=True)
class ADPA(Unweighted):
    """Advantage-guided distillation for preference alignment of small models.

    loss = sft_weight * nll(chosen) - gamma * mean over tokens of sum_a pi(a) * advantage(a)
    advantage(a) = log teacher(a) - log reference teacher(a), without gradient

    Chosen is the data's good answer; the second mean runs over an answer that the policy sampled
    before training, and takes the expectation over the next token exactly. Both are means over all
    tokens of the batch. The second equals KL(pi || teacher) - KL(pi || reference teacher).

    Units:  nats per token.
    Fields: gamma >= 0, 0.5 to 5, where 0 is fine-tuning; sft_weight >= 0.
    Edges:  without the likelihood term the optimum is one-hot on the largest advantage: with
            sft_weight 0 the policy collapses on rare tokens with huge ratios.
    Raises: UserError where a field leaves its range.
    Use:    a small model, a larger teacher with the same token ids, both before (SFT) and after its
            own alignment. Best after `dckd` ("ADPA+"); small students often lose under plain DPO.
    Not:    the teacher's reference is missing: leaving it out hurts clearly, and a student in its
            place is another method. Tokenizers that differ.
    Source: Gao et al. 2025, arXiv 2502.17927. The authors' code clamps the log-ratios to
            [0, 1], which here removes the effect, and fills the reference's missing tokens with the
            teacher's; neither is followed, nor their options that are off by default.
    """

    gamma: float = 1.0
    sft_weight: float = 1.0
    name: ClassVar[str] = "adpa"
    data: ClassVar[Data] = "imitated"
    source: ClassVar[str] = "completions"
    needs: ClassVar[Needs] = Needs(advantage=True, mean_length=True)
    arxiv: ClassVar[str] = "2502.17927"

    def __post_init__(self) -> None:
        check_at_least(0, gamma=self.gamma, sft_weight=self.sft_weight)

    @property
    def samples(self) -> int:
        """One answer per prompt."""
        return 1

    def collected(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing: the teachers score the samples as they are."""
        return {}

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per example, [B]; the mean lengths are the global batch's."""
        likelihood = per_mean_length(batch["chosen_logps"], batch["mean_chosen_length"])
        advantage = per_mean_length(batch["sample_advantage"], batch["mean_sample_length"])
        return -self.sft_weight * likelihood - self.gamma * advantage


def token_advantage(teacher_logits: Tensor, ref_teacher_logits: Tensor) -> Tensor:
    """What alignment added to each token's log-probability, [..., V] in and out, no gradient.

    advantage = log softmax(teacher_logits) - log softmax(ref_teacher_logits)
    """
    with torch.no_grad():
        return wide(teacher_logits).log_softmax(-1) - wide(ref_teacher_logits).log_softmax(-1)


def adpa_loss(
    *,
    chosen_token_logps: Tensor,
    chosen_mask: Tensor,
    sample_logits: Tensor,
    sample_mask: Tensor,
    advantage: Tensor,
    gamma: float = 1.0,
    sft_weight: float = 1.0,
) -> Tensor:
    """ADPA's formula on whole logits, already shifted; [B], whose plain mean is the loss.

    Shapes: chosen_token_logps, masks [B, T]; sample_logits, advantage [B, T, V]; off the mask all
            may be anything. The class works on sums that the engine streams, and says the same.
    """
    here = sample_mask.bool()[..., None]
    policy = wide(torch.where(here, sample_logits, 0.0)).softmax(-1)
    expected = (policy * torch.where(here, advantage.detach(), 0.0)).sum(-1)
    likelihood = token_mean(chosen_token_logps, chosen_mask)
    return -sft_weight * likelihood - gamma * token_mean(expected, sample_mask)
