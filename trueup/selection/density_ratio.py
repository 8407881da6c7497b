"""How much likelier a prompt is among good answers than among bad ones, for BCO's weights."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression

from trueup.errors import UserError, check_at_least, check_positive

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class DensityRatio:
    """Underlying distribution matching: bad answers weighted as if their prompts were the good's.

    ratio(x) = p(good | x) / p(bad | x) of a logistic regression on the prompt's embedding, fitted
               as if both labels were equally frequent; clipped
    weight   = ratio(prompt) of a completion labelled false, 1 of one labelled true

    Fields: min_ratio > 0 and max_ratio clip; max_prompts of each label take part in the fit, drawn
            at random; penalty > 0 is L2 on the coefficients: few prompts and a large penalty pull
            every ratio towards 1.
    Edges:  weights of all bad answers average 1 in expectation, but for what is clipped.
    Raises: UserError where a field leaves its range, or a label is missing.
    Use:    labels true and false that come from different prompts.
    Not:    both labels under the same prompts: all ratios are 1 then but for noise.
    Source: Jung et al. 2025, arXiv 2404.04656 (version 1); bounds, penalty and number of prompts
            as in TRL's BCOTrainer.
    """

    min_ratio: float = 0.5
    max_ratio: float = 10.0
    max_prompts: int = 1024
    penalty: float = 1.0

    def __post_init__(self) -> None:
        check_positive(min_ratio=self.min_ratio, penalty=self.penalty)
        check_at_least(self.min_ratio, max_ratio=self.max_ratio)
        check_at_least(1, max_prompts=self.max_prompts)

    def weights(
        self, embeddings: ArrayLike, labels: ArrayLike, *, rng: np.random.Generator
    ) -> Array:
        """The column `density_weights` of rows with prompt embeddings [N, D] and labels [N]."""
        vectors, good = np.asarray(embeddings, dtype=np.float64), np.asarray(labels, dtype=bool)
        return np.where(good, 1.0, self._ratios(vectors, good, rng))

    def _ratios(self, vectors: Array, good: NDArray[np.bool_], rng: np.random.Generator) -> Array:
        """The clipped ratio of every row."""
        drawn = np.concatenate([self._drawn(good, kind, rng) for kind in (True, False)])
        classifier = LogisticRegression(
            C=1 / self.penalty, class_weight="balanced", max_iter=1000, tol=1e-6
        )
        classifier.fit(vectors[drawn], good[drawn])
        bounds = math.log(self.min_ratio), math.log(self.max_ratio)
        clipped: Array = np.exp(np.clip(classifier.decision_function(vectors), *bounds))
        return clipped

    def _drawn(
        self, good: NDArray[np.bool_], kind: bool, rng: np.random.Generator
    ) -> NDArray[np.intp]:
        """The rows of one label that take part in the fit."""
        rows = np.flatnonzero(good == kind)
        if not len(rows):
            raise UserError(f"labels must be of both kinds, got none that is {kind}")
        return rng.choice(rows, min(len(rows), self.max_prompts), replace=False)
