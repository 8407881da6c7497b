"""The state of the random generators that training may draw from (only dropout does)."""

import contextlib
import json
import random
from collections.abc import Iterator

import torch
from torch import Tensor


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """A block with the generators seeded; afterwards they are as they were."""
    devices = [device] if device.type == "cuda" else []
    former = random.getstate()
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(former)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Python's and torch's generators as tensors."""
    python = json.dumps(random.getstate()).encode()
    state = {
        "python": torch.frombuffer(bytearray(python), dtype=torch.uint8),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put what `random_state` gave back into place."""
    version, internal, gauss = json.loads(bytes(state["python"].tolist()))
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
