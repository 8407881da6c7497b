"""Sheet 24's catastrophic toy (7e): five one-token answers, free embeddings, one hidden state.

Chosen "No" and rejected "Never" share a direction, so pushing them apart sends the mass to "Yes".
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.proofs.dpo_family import row

NO, NEVER, YES = 0, 1, 2

Loss = Callable[[dict[str, Tensor]], Tensor]


def start() -> list[Tensor]:
    """The unembedding W [5, 3] and the hidden state h [3]."""
    words = torch.stack([row(4, 0, 0), row(4, 1, 0), row(2, -4, 0), row(-2, 0, 3), row(-2, 0, -3)])
    return [words.requires_grad_(True), row(0.3, 0, 0).requires_grad_(True)]


def logps(parameters: list[Tensor]) -> Tensor:
    words, hidden = parameters
    return (words @ hidden).log_softmax(-1)


REFERENCE = logps(start()).detach()


def batch(parameters: list[Tensor]) -> dict[str, Tensor]:
    """The one preference, No over Never, as a canonical batch."""
    found = logps(parameters)
    return {
        "chosen_logps": found[[NO]],
        "rejected_logps": found[[NEVER]],
        "ref_chosen_logps": REFERENCE[[NO]],
        "ref_rejected_logps": REFERENCE[[NEVER]],
    }


def flat_gradient(value: Tensor, parameters: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, parameters)])


def descended(loss: Loss, *, rate: float, steps: int) -> list[list[Tensor]]:
    """The parameters after each step of plain gradient descent, the start first."""
    path = [start()]
    for _ in range(steps):
        here = path[-1]
        slopes = torch.autograd.grad(loss(batch(here)).sum(), here)
        path.append(
            [
                (value - rate * slope).detach().requires_grad_(True)
                for value, slope in zip(here, slopes, strict=True)
            ]
        )
    return path


def probabilities(parameters: list[Tensor]) -> list[float]:
    """P(No), P(Never), P(Yes)."""
    return logps(parameters).detach().exp()[:3].tolist()


def first_change(path: list[list[Tensor]]) -> float:
    """How far the first step moved ln P(No)."""
    before, after = (logps(parameters).detach()[NO] for parameters in path[:2])
    return float(after - before)
