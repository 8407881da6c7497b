"""WEAT: do the vectors of bare words tie one group to pleasant, career or other words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trueup.audits.embedding.effect_size import (
    Partitions,
    associations,
    effect_size,
    partition_test,
)
from trueup.audits.embedding.embedding_test import EmbeddingTest
from trueup.audits.embedding.word_tests import Word
from trueup.models.embedder import Array, Vectors


@dataclass(frozen=True, kw_only=True)
class Weat(EmbeddingTest):
    """Word embedding association test: static vectors, or a model's vectors of bare words.

    s(w) = mean over first attributes of cos(w, a) - mean over second attributes of cos(w, b)
    d    = (mean_X s - mean_Y s) / std_{X u Y} s, with n - 1;  ideal 0, |d| <= 2 sqrt((N - 1) / N)
    p    = share of partitions of X u Y whose sum of s over X is at least the observed; ties count
    Source: Caliskan, Bryson and Narayanan 2017, arXiv 1608.07187. Intervals resample target words;
            attributes are taken as they stand. Sets of unequal size, as missing words leave them,
            are partitioned in their own sizes.
    """

    name: ClassVar[str] = "weat"

    def vectors(self, source: Vectors, words: Sequence[Word]) -> list[Array]:
        """One vector per word, without any sentence."""
        table = source.text_vectors(
            [word.word for word in words], layer=self.layer, pooling=self.pooling
        )
        return list(table[:, None])


@dataclass(frozen=True)
class WeatResult:
    """The statistic sum_X s - sum_Y s, the effect size d, and the permutation test."""

    statistic: float
    d: float
    partitions: Partitions


def weat(
    x: Array, y: Array, a: Array, b: Array, *, samples: int = 100_000, seed: int = 0
) -> WeatResult:
    """The test on arrays: targets x [X, D] and y [Y, D], attributes a [A, D] and b [B, D]."""
    of_x, of_y = (associations(targets, a, b) for targets in (x, y))
    return WeatResult(
        statistic=float(of_x.sum() - of_y.sum()),
        d=effect_size(of_x, of_y),
        partitions=partition_test(of_x, of_y, samples=samples, rng=np.random.default_rng(seed)),
    )
