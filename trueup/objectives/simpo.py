"""Simple preference optimisation: mean log-probability as the reward, with a target margin."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from trueup.errors import check_at_least, check_positive
from trueup.objectives.protocol import Needs, PairObjective


@dataclass(frozen=True, kw_only=True)
class SimPO(PairObjective):
    """Simple preference optimisation: per-token likelihoods a margin apart, without a reference.

    loss_i = -log sigmoid(beta * (A(chosen_i) - A(rejected_i)) - gamma)
    A      = log pi(completion) / length

    Units:  nats per token.
    Fields: beta > 0 scales the reward, 2 to 10; gamma >= 0 is the margin, 0.3 to 0.5 of beta.
    Raises: UserError where a field leaves its range.
    Source: Meng et al. 2024, arXiv 2405.14734, eq. 6; TRL writes beta * (... - gamma / beta).
    """

    beta: float = 2.0
    gamma: float = 1.0
    name: ClassVar[str] = "simpo"
    needs: ClassVar[Needs] = Needs()
    arxiv: ClassVar[str] = "2405.14734"

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        check_at_least(0, gamma=self.gamma)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]."""
        return simpo_loss(
            chosen_logps=batch["chosen_logps"],
            rejected_logps=batch["rejected_logps"],
            chosen_lengths=batch["chosen_lengths"],
            rejected_lengths=batch["rejected_lengths"],
            beta=self.beta,
            gamma=self.gamma,
        )


def simpo_loss(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float,
    gamma: float,
) -> Tensor:
    """SimPO's formula on plain tensors, [B] in, [B] out, not reduced."""
    chosen = chosen_logps / chosen_lengths.clamp(min=1)
    rejected = rejected_logps / rejected_lengths.clamp(min=1)
    return -logsigmoid(beta * (chosen - rejected) - gamma)
