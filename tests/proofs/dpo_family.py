"""Sheet 00's inputs (section 8b), shared by the proofs of every loss on preferences."""

import torch
from torch import Tensor

EXACT = 1e-9  # half a unit in the sheets' ninth decimal, with room for its rounding


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


BATCH = {
    "chosen_logps": row(-12.5, -30.25, -8, -21.75),
    "rejected_logps": row(-14, -28.5, -9.75, -40),
    "ref_chosen_logps": row(-13, -29, -8.5, -22),
    "ref_rejected_logps": row(-13.5, -29.5, -9, -35),
    "chosen_lengths": row(10, 25, 8, 20),
    "rejected_lengths": row(12, 20, 8, 40),
}
SUMS = {name: value for name, value in BATCH.items() if name.endswith("logps")}
POLICY = {name: value for name, value in BATCH.items() if not name.startswith("ref_")}
POLICY_SUMS = {name: value for name, value in SUMS.items() if not name.startswith("ref_")}
MARGIN = row(1, -2.25, 1.25, 5.25)
BETA = 0.1


def is_close(found: Tensor, *expected: float, tolerance: float = EXACT) -> bool:
    return torch.allclose(found, row(*expected), rtol=0, atol=tolerance)


def swapped(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same pairs with chosen and rejected exchanged."""
    turn = {"chosen": "rejected", "rejected": "chosen"}

    def other(name: str) -> str:
        return "_".join(turn.get(part, part) for part in name.split("_"))

    return {name: batch[other(name)] for name in batch}


def slopes(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss.sum(), inputs))


def leaves(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with gradients asked of the policy's sums."""
    return {
        name: value.clone().requires_grad_(name in ("chosen_logps", "rejected_logps"))
        for name, value in batch.items()
    }
