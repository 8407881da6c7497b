"""Rounds of online training: when they are drawn, what they hold, how they are kept on the disk."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trueup.models import Group
from trueup.models.tensors import load_tensors, save_tensors
from trueup.objectives import Objective
from trueup.objectives.protocol import ROLES
from trueup.training.batches import Plan
from trueup.training.config import TrainingConfig
from trueup.training.examples import Example, Examples

WHOLE_TABLE = ("dispreferred", "imitated")  # kinds whose samples are drawn for all rows at once


@dataclass(frozen=True)
class Rounds:
    """When samples are drawn, and how long a round's updates last.

    Fields: prompts are those of the table, per_round those of a round; starts are the optimiser
            steps before which a round is drawn, and steps is where the last one ends.
    """

    prompts: int
    per_round: int
    starts: tuple[int, ...]
    steps: int
    seed: int
    shuffle: bool

    @classmethod
    def of(cls, count: int, objective: Objective, config: TrainingConfig) -> "Rounds":
        """The rounds over `count` prompts.

        Kinds of WHOLE_TABLE draw all prompts at once, and again after `warmup_steps` every
        `refresh_every` steps where the objective says so; others draw `round_prompts` at a time.
        """
        if objective.data in WHOLE_TABLE:
            steps = config.steps or config.epochs * math.ceil(count / config.batch_size)
            every = getattr(objective, "refresh_every", 0)
            first = max(1, getattr(objective, "warmup_steps", 0))
            again = range(first, steps, every) if every else ()
            return cls(count, count, (0, *again), steps, config.seed, config.shuffle)
        size = min(config.round_prompts or config.batch_size, count)
        each = config.round_epochs * math.ceil(size / config.batch_size)
        wanted = config.epochs * math.ceil(count / size)
        number = math.ceil(config.steps / each) if config.steps else wanted
        starts = tuple(range(0, number * each, each))
        return cls(count, size, starts, number * each, config.seed, config.shuffle)

    def __len__(self) -> int:
        return len(self.starts)

    def indices(self, number: int) -> list[int]:
        """The prompts of a round."""
        if self.per_round == self.prompts:
            return list(range(self.prompts))
        return Plan(self.prompts, self.per_round, 0, self.seed, self.shuffle).batch(number)

    def length(self, number: int) -> int:
        """The optimiser steps that a round is meant to last."""
        return ([*self.starts, self.steps])[number + 1] - self.starts[number]


@dataclass(frozen=True)
class Round:
    """The examples of one round.

    Shapes: reference [B, W], None where the objective has none.
    Fields: means are the numbers of the round that every step's row shows.
    """

    examples: Examples
    reference: Tensor | None
    means: dict[str, float]


def save_round(path: Path, found: Round) -> None:
    """Write a round's tokens and tensors, so that a killed run finds them again."""
    items = found.examples.items
    tensors = {f"known.{name}": _stacked(items, name) for name in items[0].known} if items else {}
    if found.reference is not None:
        tensors["reference"] = found.reference.contiguous()
    tokens = [item.group for item in items]
    tensors["prompt_lengths"] = torch.tensor([len(group.prompt) for group in tokens])
    tensors["prompts"] = torch.tensor([token for group in tokens for token in group.prompt])
    lengths = [item.lengths for item in items]
    tensors["lengths"] = torch.tensor(lengths).reshape(len(items), -1)
    tensors["completions"] = torch.tensor(
        [token for group in tokens for part in group.completions for token in part]
    )
    metadata = {f"mean.{name}": repr(value) for name, value in found.means.items()}
    metadata |= {"kind": found.examples.kind, "places": "\n".join(item.place for item in items)}
    save_tensors(path, tensors, metadata)


def load_round(path: Path) -> Round:
    """The round that `save_round` wrote."""
    tensors, metadata = load_tensors(path)
    prompts = iter(_cut(tensors["prompts"], tensors["prompt_lengths"].tolist()))
    lengths = tensors["lengths"].long().tolist()
    parts = iter(_cut(tensors["completions"], [n for several in lengths for n in several]))
    known = {
        name.removeprefix("known."): value
        for name, value in tensors.items()
        if name.startswith("known.")
    }
    places = metadata["places"].split("\n")
    items = [
        Example(
            places[row],
            (Group(next(prompts), [next(parts) for _ in several]),),
            {name: value[row] for name, value in known.items()},
        )
        for row, several in enumerate(lengths)
    ]
    means = {
        name.removeprefix("mean."): float(value)
        for name, value in metadata.items()
        if name.startswith("mean.")
    }
    kind = next(kind for kind in ROLES if kind == metadata["kind"])
    return Round(Examples(kind, items), tensors.get("reference"), means)


def _stacked(items: Sequence[Example], name: str) -> Tensor:
    """One known quantity of all examples."""
    return torch.stack([torch.as_tensor(item.known[name]) for item in items]).contiguous()


def _cut(tokens: Tensor, lengths: Sequence[int]) -> list[list[int]]:
    """A run of tokens as lists of the given lengths."""
    return [part.tolist() for part in torch.split(tokens.long(), list(lengths))]
