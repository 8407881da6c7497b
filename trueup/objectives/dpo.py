"""Direct preference optimisation, with its smoothed, noise-robust and length-normalised forms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from trueup.errors import UserError, check_positive
from trueup.objectives.protocol import Needs, PairObjective


@dataclass(frozen=True, kw_only=True)
class DPO(PairObjective):
    """Direct preference optimisation: chosen completions gain on the reference more than rejected.

    loss_i   = -log sigmoid(beta * margin_i)
    margin_i = log pi/ref(chosen_i) - log pi/ref(rejected_i)
    smoothed = -(1 - e) log sigmoid(beta * margin_i) - e log sigmoid(-beta * margin_i)
    robust   = [-(1 - e) log sigmoid(beta * margin_i) + e log sigmoid(-beta * margin_i)] / (1 - 2e)

    Units:  nats, sums over completion tokens; only the margin matters, so ln pi(chosen) may fall.
    Fields: beta > 0 ties the policy to the reference. label_smoothing = e in [0, 0.5): the share of
            labels believed wrong. robust undoes that noise without bias instead of smoothing.
            length_normalized takes each log-ratio per token; then beta wants to be 2 or more.
    Raises: UserError where a field leaves its range, or robust and length_normalized meet.
    Source: Rafailov et al. 2023, arXiv 2305.18290, eq. 7; smoothing: Mitchell 2023; robust:
            Chowdhury et al. 2024, arXiv 2403.00409; per token: Lambert et al. 2024, arXiv
            2411.15124.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    robust: bool = False
    length_normalized: bool = False
    name: ClassVar[str] = "dpo"
    needs: ClassVar[Needs] = Needs(reference=True)
    arxiv: ClassVar[str] = "2305.18290"

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(
                f"label_smoothing must be at least 0 and below 0.5, got {self.label_smoothing}"
            )
        if self.length_normalized and (self.robust or self.label_smoothing):
            raise UserError(
                "length_normalized knows no label noise, got robust or label_smoothing; drop one"
            )

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]."""
        logps = {
            "chosen_logps": batch["chosen_logps"],
            "rejected_logps": batch["rejected_logps"],
            "ref_chosen_logps": batch["ref_chosen_logps"],
            "ref_rejected_logps": batch["ref_rejected_logps"],
        }
        if self.length_normalized:
            return length_normalized_dpo_loss(
                **logps,
                chosen_lengths=batch["chosen_lengths"],
                rejected_lengths=batch["rejected_lengths"],
                beta=self.beta,
            )
        formula = robust_dpo_loss if self.robust else dpo_loss
        return formula(**logps, beta=self.beta, label_smoothing=self.label_smoothing)


def dpo_loss(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """DPO's formula on plain tensors, [B] in, [B] out, not reduced; smoothing above 0 is cDPO."""
    margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    kept, flipped = -logsigmoid(beta * margin), -logsigmoid(-beta * margin)
    return (1 - label_smoothing) * kept + label_smoothing * flipped


def robust_dpo_loss(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float,
    label_smoothing: float,
) -> Tensor:
    """The unbiased form for a share e of flipped labels: its mean over flips is DPO's loss; [B]."""
    margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    kept, flipped = -logsigmoid(beta * margin), -logsigmoid(-beta * margin)
    return ((1 - label_smoothing) * kept - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def length_normalized_dpo_loss(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float,
) -> Tensor:
    """DPO on log-ratios per token, [B] in, [B] out, not reduced."""
    chosen = (chosen_logps - ref_chosen_logps) / chosen_lengths.clamp(min=1)
    rejected = (rejected_logps - ref_rejected_logps) / rejected_lengths.clamp(min=1)
    return -logsigmoid(beta * (chosen - rejected))
