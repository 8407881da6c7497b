"""Sequence likelihood calibration (SLiC-HF): a hinge on likelihoods, held to the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trueup.errors import check_at_least
from trueup.objectives.protocol import Needs, PairObjective


@dataclass(frozen=True, kw_only=True)
class SLiC(PairObjective):
    """SLiC-HF: the chosen completion likelier than the rejected by gamma, without a reference.

    loss_i = max(0, gamma - (log pi(chosen_i) - log pi(rejected_i))) - weight * log pi(chosen_i)

    Units:  nats, sums over completion tokens: a long rejected completion ranks itself.
    Fields: gamma >= 0 is the margin asked for; weight >= 0 of the likelihood term that keeps the
            policy near the data, where 0 leaves the ranking alone. Its default is ours: the paper
            tunes it per task.
    Raises: UserError where a field leaves its range.
    Source: Zhao et al. 2023, arXiv 2305.10425, eq. 1; their target is the chosen completion here.
    """

    gamma: float = 1.0
    weight: float = 0.1
    name: ClassVar[str] = "slic"
    needs: ClassVar[Needs] = Needs()
    arxiv: ClassVar[str] = "2305.10425"

    def __post_init__(self) -> None:
        check_at_least(0, gamma=self.gamma, weight=self.weight)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]: the rank term and the likelihood term."""
        chosen_logps = batch["chosen_logps"]
        rank = slic_loss(
            chosen_logps=chosen_logps, rejected_logps=batch["rejected_logps"], gamma=self.gamma
        )
        return rank - self.weight * chosen_logps


def slic_loss(*, chosen_logps: Tensor, rejected_logps: Tensor, gamma: float) -> Tensor:
    """SLiC's rank term on plain tensors, [B] in, [B] out, not reduced."""
    return (gamma - (chosen_logps - rejected_logps)).relu()
