"""Identity preference optimisation: a margin to reach, not to exceed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trueup.errors import check_positive
from trueup.objectives.protocol import Needs, PairObjective


@dataclass(frozen=True, kw_only=True)
class IPO(PairObjective):
    """Identity preference optimisation: the squared distance of the margin from 1 / (2 tau).

    loss_i   = (margin_i - 1 / (2 * tau))^2
    margin_i = log pi/ref(chosen_i) - log pi/ref(rejected_i)
    average  : each log-ratio is divided by its completion's length first

    Units:  nats; per token where average, else sums, whose tau lives on another scale (x length).
    Fields: tau > 0: the smaller, the further from the reference. average: True is the form that the
            authors confirmed to TRL, False the sum as printed; `ipo-sum` is registered for it.
    Raises: UserError where a field leaves its range.
    Source: Azar et al. 2023, arXiv 2310.12036, eq. 17. The tau form (tau * margin - 1/2)^2 is this
            times tau^2.
    """

    tau: float = 0.1
    average: bool = True
    name: ClassVar[str] = "ipo"
    needs: ClassVar[Needs] = Needs(reference=True)
    arxiv: ClassVar[str] = "2310.12036"

    def __post_init__(self) -> None:
        check_positive(tau=self.tau)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]."""
        return ipo_loss(
            chosen_logps=batch["chosen_logps"],
            rejected_logps=batch["rejected_logps"],
            ref_chosen_logps=batch["ref_chosen_logps"],
            ref_rejected_logps=batch["ref_rejected_logps"],
            chosen_lengths=batch["chosen_lengths"] if self.average else None,
            rejected_lengths=batch["rejected_lengths"] if self.average else None,
            tau=self.tau,
            average=self.average,
        )


@dataclass(frozen=True, kw_only=True)
class IPOSum(IPO):
    """IPO on sums over tokens, as arXiv 2310.12036 prints it: `IPO` with average off."""

    tau: float = 0.01
    average: bool = False
    name: ClassVar[str] = "ipo-sum"


def ipo_loss(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    tau: float,
    average: bool = True,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> Tensor:
    """IPO's formula on plain tensors, [B] in, [B] out; lengths are needed where `average`."""
    chosen, rejected = chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps
    if average:
        if chosen_lengths is None or rejected_lengths is None:
            raise TypeError("ipo_loss: average=True needs chosen_lengths and rejected_lengths")
        chosen = chosen / chosen_lengths.clamp(min=1)
        rejected = rejected / rejected_lengths.clamp(min=1)
    return (chosen - rejected - 1 / (2 * tau)) ** 2
