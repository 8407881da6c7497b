"""DPO under other divergences than the reverse KL: how the policy may differ from its reference."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from trueup.errors import UserError, check_choice, check_positive
from trueup.objectives.protocol import Needs, PairObjective

Divergence = Literal["reverse-kl", "forward-kl", "js", "alpha"]
DIVERGENCES: tuple[Divergence, ...] = ("reverse-kl", "forward-kl", "js", "alpha")
LARGEST_EXPONENT = 40.0  # exp(2 * 40), a squared gradient, still fits float32, which ends at e^88.7


@dataclass(frozen=True, kw_only=True)
class FDPO(PairObjective):
    """f-DPO: DPO whose tie to the reference is a divergence of the user's choice.

    loss_i   = -log sigmoid(beta * margin_i)
    margin_i = f'(u(chosen_i)) - f'(u(rejected_i)),  u = pi/ref
    reverse-kl  f'(u) = log u: exactly DPO
    forward-kl  f'(u) = -1/u
    js          f'(u) = log(2u / (1 + u))
    alpha       f'(u) = (1 - u^-alpha) / alpha: 0 is the reverse KL, 1 the forward KL

    At its optimum beta * (f'(u_i) - f'(u_j)) = reward_i - reward_j for every two responses: the
    policy of highest reward - beta * sum of ref * f(pi/ref).

    Units:  nats, sums over completion tokens; computed in log u throughout.
    Fields: beta > 0 ties the policy to the reference, and the same beta ties differently under
            another divergence; 0 < alpha < 1, read for divergence = "alpha" only.
    Edges:  forward-kl and alpha grow as exp(-alpha * log u): past an exponent of 40 they go on
            along the tangent, so that f' still rises and loss and gradient stay finite.
    Raises: UserError where a field leaves its range.
    Use:    js or a middling alpha, to trade some reward for more diverse samples (Wang et al.).
    Not:    forward-kl or a large alpha on long completions: one whose likelihood fell by 20 nats
            has a margin of e^20 and rules its batch. For plain DPO say `dpo`.
    Source: Wang et al. 2023, arXiv 2309.16240. TRL's alpha coefficient is 1 - alpha here; TRL cuts
            the exponent off at 80, after which the gradient is 0.
    """

    beta: float = 0.1
    divergence: Divergence = "js"
    alpha: float = 0.5
    name: ClassVar[str] = "f-dpo"
    needs: ClassVar[Needs] = Needs(reference=True)
    arxiv: ClassVar[str] = "2309.16240"

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        check_choice(DIVERGENCES, divergence=self.divergence)
        if not 0 < self.alpha < 1:
            raise UserError(f"alpha must be above 0 and below 1, got {self.alpha}")

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]."""
        return f_dpo_loss(
            chosen_logps=batch["chosen_logps"],
            rejected_logps=batch["rejected_logps"],
            ref_chosen_logps=batch["ref_chosen_logps"],
            ref_rejected_logps=batch["ref_rejected_logps"],
            beta=self.beta,
            divergence=self.divergence,
            alpha=self.alpha,
        )


def f_dpo_loss(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float,
    divergence: Divergence,
    alpha: float = 0.5,
) -> Tensor:
    """f-DPO's formula on plain tensors, [B] in, [B] out, not reduced; symbols as in `FDPO`."""
    chosen = _slope_of_f(chosen_logps - ref_chosen_logps, divergence, alpha)
    rejected = _slope_of_f(rejected_logps - ref_rejected_logps, divergence, alpha)
    return -logsigmoid(beta * (chosen - rejected))


def _slope_of_f(log_ratios: Tensor, divergence: Divergence, alpha: float) -> Tensor:
    """f'(exp(log_ratios)) up to a constant, which cancels in a margin."""
    if divergence == "reverse-kl":
        return log_ratios
    if divergence == "js":
        return logsigmoid(log_ratios)
    power = 1.0 if divergence == "forward-kl" else alpha
    return -_expm1(-power * log_ratios) / power


def _expm1(x: Tensor) -> Tensor:
    """exp(x) - 1, past the largest exponent along its tangent."""
    within = x.clamp(max=LARGEST_EXPONENT)
    return torch.expm1(within) + (x - within) * torch.exp(within)
