"""Odds-ratio preference optimisation: fine-tuning and preference in one loss, no reference."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from trueup.errors import check_at_least
from trueup.objectives.log1mexp import log1mexp
from trueup.objectives.protocol import Needs, PairObjective


@dataclass(frozen=True, kw_only=True)
class ORPO(PairObjective):
    """Odds-ratio preference optimisation: likelihood of the chosen plus the log-odds' advantage.

    loss_i = -A(chosen_i) - weight * log sigmoid(odds(chosen_i) - odds(rejected_i))
    A      = log pi(completion) / length,  odds = A - log(1 - exp(A))

    Units:  nats per token.
    Fields: weight >= 0 is the paper's lambda; 0 is fine-tuning on the chosen completions.
    Edges:  A = 0 has infinite odds: it is taken as -1e-6 inside log(1 - exp(A)) only.
    Raises: UserError where a field leaves its range.
    Source: Hong et al. 2024, arXiv 2403.07691, eq. 6 and 7. The likelihood term counts completion
            tokens only; TRL's counts the prompt's too, which `orpo_loss(chosen_nll=...)` can give.
    """

    weight: float = 0.1
    name: ClassVar[str] = "orpo"
    needs: ClassVar[Needs] = Needs()
    arxiv: ClassVar[str] = "2403.07691"

    def __post_init__(self) -> None:
        check_at_least(0, weight=self.weight)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]."""
        return orpo_loss(
            chosen_logps=batch["chosen_logps"],
            rejected_logps=batch["rejected_logps"],
            chosen_lengths=batch["chosen_lengths"],
            rejected_lengths=batch["rejected_lengths"],
            weight=self.weight,
        )


def orpo_loss(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    weight: float,
    chosen_nll: Tensor | None = None,
) -> Tensor:
    """ORPO's formula on plain tensors, [B] in, [B] out, not reduced.

    chosen_nll [B] replaces -A(chosen), for a likelihood term over prompt and completion as in TRL.
    """
    chosen = chosen_logps / chosen_lengths.clamp(min=1)
    rejected = rejected_logps / rejected_lengths.clamp(min=1)
    log_odds_ratio = (chosen - log1mexp(chosen)) - (rejected - log1mexp(rejected))
    nll = -chosen if chosen_nll is None else chosen_nll
    return nll - weight * logsigmoid(log_odds_ratio)
