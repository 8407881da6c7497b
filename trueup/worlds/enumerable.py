"""Worlds so small that the best policy is known in closed form: a few responses, known rewards.

A proof trains on such a world and asks for the optimum itself, not for a loss that went down.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trueup.errors import UserError, check_positive

Loss = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class EnumerableWorld:
    """One prompt (or several) with Y possible responses, a reward each, and a reference policy.

    Preferences follow Bradley and Terry: P(i preferred to j) = sigmoid(rewards_i - rewards_j).
    Shapes: rewards, ref_logits [Y] or [X, Y]; lengths [Y] tokens per response, 1 each if left out.
    Units:  rewards in nats of preference; float64 throughout.
    Raises: UserError where shapes differ or there are fewer than two responses.
    """

    rewards: Tensor
    ref_logits: Tensor
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        if self.rewards.shape != self.ref_logits.shape:
            shapes = f"{tuple(self.rewards.shape)} and {tuple(self.ref_logits.shape)}"
            raise UserError(f"rewards and ref_logits must have one shape, got {shapes}")
        if self.rewards.shape[-1] < 2:
            raise UserError(f"a world needs two responses, got {self.rewards.shape[-1]}")

    @property
    def ref_logps(self) -> Tensor:
        """Log-probabilities of the reference."""
        return self.ref_logits.double().log_softmax(-1)

    def optimum(self, beta: float) -> Tensor:
        """Log-probabilities of the policy with the highest reward - beta * KL to the reference."""
        return tilted(self.ref_logps, self.rewards.double(), beta)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Every ordered pair of responses and how often its first one is preferred.

        Shapes: chosen, rejected [P] response numbers, probability [P] or [X, P]; P = Y (Y - 1).
        """
        n = self.rewards.shape[-1]
        chosen, rejected = (~torch.eye(n, dtype=torch.bool)).nonzero(as_tuple=True)
        rewards = self.rewards.double()
        return chosen, rejected, torch.sigmoid(rewards[..., chosen] - rewards[..., rejected])

    def batch(self, logps: Tensor) -> dict[str, Tensor]:
        """The canonical pair batch of all ordered pairs under a policy's log-probabilities."""
        chosen, rejected, _ = self.pairs()
        lengths = torch.ones_like(self.rewards) if self.lengths is None else self.lengths
        lengths = lengths.double().expand(self.rewards.shape)
        return {
            "chosen_logps": logps[..., chosen].flatten(),
            "rejected_logps": logps[..., rejected].flatten(),
            "ref_chosen_logps": self.ref_logps[..., chosen].flatten(),
            "ref_rejected_logps": self.ref_logps[..., rejected].flatten(),
            "chosen_lengths": lengths[..., chosen].flatten(),
            "rejected_lengths": lengths[..., rejected].flatten(),
        }

    def expected_loss(self, loss: Loss, logits: Tensor) -> Tensor:
        """The mean of a pair loss over all pairs and labels, exactly; differentiable in logits."""
        probability = self.pairs()[2].flatten()
        losses = loss(self.batch(logits.log_softmax(-1)))
        return (probability * losses).sum() / probability.sum()

    def trained(self, loss: Loss) -> Tensor:
        """Log-probabilities of the softmax policy that minimises a pair loss on this world."""
        logits = minimised(
            lambda logits: self.expected_loss(loss, logits), self.ref_logits.double()
        )
        return logits.log_softmax(-1)

    def sampled_pairs(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Chosen and rejected response numbers [n] of random pairs with Bradley-Terry labels.

        Both responses are drawn uniformly, never equal; for worlds of one prompt.
        """
        responses = self.rewards.shape[-1]
        first = torch.randint(responses, (n,), generator=generator)
        step = torch.randint(1, responses, (n,), generator=generator)
        second = (first + step) % responses
        rewards = self.rewards.double()
        wins = torch.rand(n, generator=generator, dtype=torch.float64) < torch.sigmoid(
            rewards[first] - rewards[second]
        )
        return torch.where(wins, first, second), torch.where(wins, second, first)


def tilted(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Log-probabilities of ref * exp(reward / beta), normalised over the last axis.

    Source: the optimum of reward - beta * KL, Rafailov et al. 2023, arXiv 2305.18290, eq. 4.
    """
    check_positive(beta=beta)
    return (ref_logps + rewards / beta).log_softmax(-1)


def minimised(
    function: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    steps: int = 200,
    tolerance: float = 1e-12,
) -> Tensor:
    """Where a smooth function of a tensor is least: float64 L-BFGS, strong-Wolfe line search."""
    point = start.detach().double().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [point],
        max_iter=steps,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = function(point)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    for _ in range(3):  # a line search that rounds off early starts afresh
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return point.detach()
