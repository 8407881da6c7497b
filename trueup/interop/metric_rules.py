"""How the numbers that a tool logs for each sample become its total, as a function of sums."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trueup.stats.estimate import Array
from trueup.stats.resampling import mean_of_sums

Value = Callable[[Array], Array]


def perplexity(sums: Array) -> Array:
    """exp(-sum of log-likelihoods / sum of units), from sums [..., 2]."""
    result: Array = np.exp(-sums[..., 0] / sums[..., 1])
    return result


def bits(sums: Array) -> Array:
    """Minus the log-likelihoods in bits per unit, from sums [..., 2]."""
    result: Array = -sums[..., 0] / sums[..., 1] / np.log(2)
    return result


def f1(sums: Array) -> Array:
    """2 tp / (2 tp + fp + fn), from sums [..., 4] of tp, fp, fn, tn; 0 where nothing is 1."""
    hits, false, missed = (sums[..., k] for k in range(3))
    below = 2 * hits + false + missed
    result: Array = np.where(below == 0, 0.0, 2 * hits / np.where(below == 0, 1.0, below))
    return result


def mcc(sums: Array) -> Array:
    """Matthews' correlation from sums [..., 4] of tp, fp, fn, tn; 0 where a margin is empty."""
    tp, fp, fn, tn = (sums[..., k] for k in range(4))
    square = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    root = np.sqrt(np.where(square == 0, 1.0, square))
    result: Array = np.where(square == 0, 0.0, (tp * tn - fp * fn) / root)
    return result


@dataclass(frozen=True)
class Rule:
    """A total's formula.

    Fields: width counts the numbers per sample, a single one gets a 1 beside it; value turns their
            sums into the total; span holds the least and the greatest value that are possible.
    """

    width: int
    value: Value
    span: tuple[float, float] | None = None


RULES = {
    "mean": Rule(1, mean_of_sums),
    "pooled": Rule(2, mean_of_sums, (0.0, 1.0)),
    "perplexity": Rule(1, perplexity),
    "weighted-perplexity": Rule(2, perplexity),
    "bits": Rule(2, bits),
    "f1": Rule(4, f1, (0.0, 1.0)),
    "mcc": Rule(4, mcc, (-1.0, 1.0)),
}
