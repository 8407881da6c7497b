"""The hinge of the over-optimisation study: pairs ranked per token, the chosen side held up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import softplus

from trueup.errors import check_at_least
from trueup.objectives.protocol import Needs, PairObjective


@dataclass(frozen=True, kw_only=True)
class DAAHinge(PairObjective):
    """A hinge on mean log-likelihoods, plus a smooth hinge that keeps chosen above the reference.

    loss_i  = max(0, gamma - (mean log pi(chosen_i) - mean log pi(rejected_i)))
              + alpha * softplus(1 - ratio_i)
    ratio_i = log pi/ref(chosen_i)

    Units:  nats; per token in the rank term, sums over completion tokens in ratio.
    Fields: gamma >= 0 is the margin asked for; alpha >= 0 the pull on the chosen side, where 0 is
            the rank term alone. Both defaults are 1: gamma the paper's, alpha ours.
    Edges:  a completion without tokens counts as one of one token.
    Raises: UserError where a field leaves its range.
    Use:    where the reference should only hold the chosen side, and length must not rank.
    Not:    without watching `trueup.training.overoptimisation`: in the paper top-k mass leaks away
            under this loss while entropy still rises, down to random text.
    Source: Shi et al. 2024, arXiv 2410.11677, section 3. The paper averages the rank term; whether
            it averages the ratio, too, is not said, and here it is a sum as in DPO. Not TRL's
            "hinge", which ranks log-ratios summed over tokens: that is `hinge`.
    """

    gamma: float = 1.0
    alpha: float = 1.0
    name: ClassVar[str] = "daa-hinge"
    needs: ClassVar[Needs] = Needs(reference=True)
    arxiv: ClassVar[str] = "2410.11677"

    def __post_init__(self) -> None:
        check_at_least(0, gamma=self.gamma, alpha=self.alpha)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]."""
        return daa_hinge_loss(
            chosen_logps=batch["chosen_logps"],
            rejected_logps=batch["rejected_logps"],
            ref_chosen_logps=batch["ref_chosen_logps"],
            chosen_lengths=batch["chosen_lengths"],
            rejected_lengths=batch["rejected_lengths"],
            gamma=self.gamma,
            alpha=self.alpha,
        )


def daa_hinge_loss(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    gamma: float,
    alpha: float,
) -> Tensor:
    """`DAAHinge`'s formula on plain tensors, [B] in, [B] out, not reduced."""
    chosen = chosen_logps / chosen_lengths.clamp(min=1)
    rejected = rejected_logps / rejected_lengths.clamp(min=1)
    rank = (gamma - (chosen - rejected)).relu()
    return rank + alpha * softplus(1 - (chosen_logps - ref_chosen_logps))
