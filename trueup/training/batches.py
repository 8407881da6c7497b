"""Which examples make up a step: a function of seed and step alone, so that a run can resume."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from trueup.training.config import TrainingConfig


@dataclass(frozen=True)
class Plan:
    """The order of all steps.

    Fields: n counts the training examples; the last batch of an epoch may be smaller.
    """

    n: int
    batch_size: int
    steps: int
    seed: int
    shuffle: bool

    @classmethod
    def of(cls, n: int, config: TrainingConfig) -> "Plan":
        """The plan for `n` examples."""
        steps = config.steps or config.epochs * math.ceil(n / config.batch_size)
        return cls(n, config.batch_size, steps, config.seed, config.shuffle)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every example once."""
        return math.ceil(self.n / self.batch_size)

    def epoch(self, step: int) -> int:
        """The epoch of a step, both counted from 0."""
        return step // self.steps_per_epoch

    def batch(self, step: int) -> list[int]:
        """The examples of a step over all processes."""
        order = _order(self.n, self.seed, self.epoch(step), self.shuffle)
        start = step % self.steps_per_epoch * self.batch_size
        return list(order[start : start + self.batch_size])


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int, shuffle: bool) -> tuple[int, ...]:
    """The order of one epoch."""
    if not shuffle:
        return tuple(range(n))
    return tuple(np.random.default_rng([seed, epoch]).permutation(n).tolist())


def dependent_batches(n: int, size: int) -> list[list[int]]:
    """Evaluation rows in order, as many together as in training (they depend on one another)."""
    return [list(range(start, min(start + size, n))) for start in range(0, n, size)]
