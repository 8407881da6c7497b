"""Teachers of a tiny student, and tasks with demonstrations for it."""

from pathlib import Path
from typing import Any

import torch

from tests.tiny_models import make_tiny
from trueup.models import LanguageModel, load

TASKS: list[dict[str, Any]] = [
    {
        "task": "echo",
        "demonstrations": [{"x": letter, "y": letter * 2} for letter in letters[:-1]],
        "query": letters[-1],
        "target": letters[-1] * 2,
    }
    for letters in ("abcd", "bcdea", "cdab", "dabc", "acbd", "badc")
]


def make_teachers(folder: Path, *, dtype: str = "auto") -> tuple[LanguageModel, LanguageModel]:
    """Two other random models with the same tokenizer."""
    made = [load(make_tiny("llama", folder / str(n)), device="cpu", dtype=dtype) for n in (1, 2)]
    for number, lm in enumerate(made, start=1):
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for weight in lm.model.parameters():
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(0.05 * noise.to(weight.dtype))
    return made[0], made[1]
