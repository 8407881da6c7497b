"""The hinge on DPO's margin: pairs that are far enough apart stop pulling."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trueup.errors import check_positive
from trueup.objectives.protocol import Needs, PairObjective


@dataclass(frozen=True, kw_only=True)
class Hinge(PairObjective):
    """The hinge loss on the margin of log-ratios, from statistical rejection sampling (RSO).

    loss_i   = max(0, 1 - beta * margin_i)
    margin_i = log pi/ref(chosen_i) - log pi/ref(rejected_i)

    Units:  nats, sums over completion tokens.
    Fields: beta > 0: a pair is left alone once its margin exceeds 1 / beta.
    Raises: UserError where a field leaves its range.
    Source: Liu et al. 2023, arXiv 2309.06657, eq. 10; TRL's "hinge".
    """

    beta: float = 0.1
    name: ClassVar[str] = "hinge"
    needs: ClassVar[Needs] = Needs(reference=True)
    arxiv: ClassVar[str] = "2309.06657"

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]."""
        return hinge_loss(
            chosen_logps=batch["chosen_logps"],
            rejected_logps=batch["rejected_logps"],
            ref_chosen_logps=batch["ref_chosen_logps"],
            ref_rejected_logps=batch["ref_rejected_logps"],
            beta=self.beta,
        )


def hinge_loss(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float,
) -> Tensor:
    """The hinge's formula on plain tensors, [B] in, [B] out, not reduced."""
    margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return (1 - beta * margin).relu()
