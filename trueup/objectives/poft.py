"""Preference-oriented fine-tuning: be likelier on the data than already aligned models are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from trueup.errors import UserError, check_at_least, check_positive
from trueup.objectives.protocol import Data, Needs, Unweighted


@dataclass(frozen=True, kw_only=True)
class PoFT(Unweighted):
    """Preference-oriented supervised fine-tuning: Bradley-Terry over models, not over answers.

    loss_i  = -log sigmoid(beta * (logps_i / lengths_i - mean_ref_logps_i) + gamma)
    slope_i = weight_i * slope of -logps_i / lengths_i, weight_i as `poft_weights` gives it

    An answer that the aligned models find unlikely is soon won, and teaches little from then on.

    Units:  nats per token; mean_ref_logps is a mean over tokens, then over the scoring models.
    Fields: beta > 0 sharpens the weights: 0.5 to 2; gamma >= 0, a head start of the policy.
    Edges:  scoring models far likelier than the policy: the gradient is that of plain fine-tuning;
            far less likely: no gradient.
    Raises: UserError where a field leaves its range or a completion has no tokens.
    Use:    for data of mixed quality: with 50,000 corrupted rows the gain over plain fine-tuning
            widens, and it does not decay over epochs.
    Not:    for data of one quality, where scores hardly differ (63.26 to 63.74); nor with scoring
            models weaker than the policy, where training stalls.
    Source: Fan et al. 2024, arXiv 2412.12865. Both means run over answer tokens only: the authors'
            code averages the policy over the prompt, too; it also underflows where we do not.
    """

    beta: float = 1.0
    gamma: float = 0.0
    name: ClassVar[str] = "poft"
    data: ClassVar[Data] = "scored"
    needs: ClassVar[Needs] = Needs()
    arxiv: ClassVar[str] = "2412.12865"

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        check_at_least(0, gamma=self.gamma)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per completion, [B]."""
        return poft_loss(
            logps=batch["logps"],
            lengths=batch["lengths"],
            mean_ref_logps=batch["mean_ref_logps"],
            beta=self.beta,
            gamma=self.gamma,
        )


def poft_loss(
    *,
    logps: Tensor,
    lengths: Tensor,
    mean_ref_logps: Tensor,
    beta: float = 1.0,
    gamma: float = 0.0,
) -> Tensor:
    """PoFT's formula on plain tensors, [B] in, [B] out, not reduced; symbols as in `PoFT`."""
    return -logsigmoid(_lead(logps, lengths, mean_ref_logps, beta, gamma))


def poft_weights(
    *,
    logps: Tensor,
    lengths: Tensor,
    mean_ref_logps: Tensor,
    beta: float = 1.0,
    gamma: float = 0.0,
) -> Tensor:
    """How much each completion teaches: weight = beta * sigmoid(-lead), [B], without gradient.

    Its mean and quantiles say whether training has stalled (0) or is plain fine-tuning (beta).
    """
    lead = _lead(logps, lengths, mean_ref_logps, beta, gamma)
    return beta * torch.sigmoid(-lead).detach()


def _lead(
    logps: Tensor, lengths: Tensor, mean_ref_logps: Tensor, beta: float, gamma: float
) -> Tensor:
    """By how much the policy is ahead of the scoring models, which are constants here."""
    if bool((lengths < 1).any()):
        raise UserError("poft: a completion has no tokens; drop it")
    return beta * (logps / lengths - mean_ref_logps.detach()) + gamma
