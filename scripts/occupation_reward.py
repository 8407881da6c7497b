"""The occupations world with a known reward, on which the docs' pictures are made.

The policy is the demo's model; it finishes sentences such as "Today the farmer wrote a letter
while". What the person is said to feel or do has a value: that is the reward.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trueup.demo.world_model import world_model
from trueup.models import LanguageModel
from trueup.worlds.occupations import OccupationWorld

DOCS = Path(__file__).resolve().parents[1] / "docs"
VALUES = {"liked": 2.0, "help": 1.0, "friend": 1.0, "tired": -1.0, "leave": -1.0}
PROMPTS, HELD_OUT, TOKENS = 96, 64, 8


def reward(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """The value of the first known word of each completion, 0 without one."""
    return [
        next((VALUES[word] for word in text.split() if word in VALUES), 0.0) for text in completions
    ]


def policy_and_prompts() -> tuple[LanguageModel, list[str], list[str]]:
    """The policy, prompts to learn from, and others to measure on."""
    world = OccupationWorld(lean=0.0, seed=0)
    lm = world_model(world, lambda *_: None)
    starts = sorted({row["prompt"] for row in world.pairs()})
    order = np.random.default_rng(0).permutation(len(starts))
    prompts = [starts[index] for index in order[:PROMPTS]]
    return lm, prompts, [starts[index] for index in order[PROMPTS:][:HELD_OUT]]


def half_width(means: np.ndarray) -> float:
    """Half the width of the 95 % interval of a mean over prompts, [N] in."""
    return round(float(1.96 * means.std(ddof=1) / np.sqrt(len(means))), 4)


def read_table(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """A table that was written, all columns numbers but these."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: value if name in names else float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def write_table(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
