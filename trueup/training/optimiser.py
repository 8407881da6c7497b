"""AdamW over the trained weights, and its state as plain tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trueup.training.config import TrainingConfig


def make_optimiser(
    trainable: Mapping[str, nn.Parameter], config: TrainingConfig
) -> torch.optim.AdamW:
    """AdamW with decoupled weight decay on matrices only, not on biases and norms."""
    matrices = [weight for weight in trainable.values() if weight.ndim > 1]
    vectors = [weight for weight in trainable.values() if weight.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )


def optimiser_tensors(
    optimiser: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimiser's state as `WEIGHT:FIELD` tensors on the CPU."""
    return {
        f"{name}:{field}": value.detach().cpu().contiguous()
        for name, weight in trainable.items()
        for field, value in optimiser.state[weight].items()
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer,
    trainable: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put state that `optimiser_tensors` gave back into place."""
    for key, value in tensors.items():
        name, field = key.rsplit(":", 1)
        weight = trainable[name]
        optimiser.state[weight][field] = value.to(weight.device)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step, for all weights."""
    for group in optimiser.param_groups:
        group["lr"] = rate
