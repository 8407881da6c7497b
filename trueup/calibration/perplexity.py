"""Perplexity where the source's own is known."""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import entropy

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_likelihoods import ScriptedModel
from trueup.calibration.scripted_world import ScriptedWorld

WORDS = tuple(f"w{number}" for number in range(16))
LENGTH = 12


class PerplexityWorld(ScriptedWorld):
    """Texts of independent words, scored by the very source that wrote them."""

    audit = "perplexity"
    metric = "perplexity"
    planted: tuple[float, ...] = (2.0, 4.0, 6.0, 8.0, 12.0)
    null = math.nan  # no perplexity is free of anything
    story = (
        "Words are drawn one by one from sixteen with probabilities whose perplexity is the "
        "planted size, and the model knows these probabilities."
    )
    unit = "texts"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Texts of twelve words."""
        rng = np.random.default_rng(seed)
        weights = unigrams(planted)
        words = rng.choice(len(WORDS), size=(n, LENGTH), p=weights)
        rows = [{"text": " ".join(WORDS[word] for word in text)} for text in words]
        named = dict(zip(WORDS, weights.tolist(), strict=True))
        return Draw(ScriptedModel(WORDS, lambda _: named), rows)


@cache
def unigrams(perplexity: float) -> NDArray[np.float64]:
    """Geometric probabilities of the words whose entropy is log(perplexity)."""

    def surplus(ratio: float) -> float:
        return float(entropy(ratio ** np.arange(len(WORDS)))) - math.log(perplexity)

    ratio = float(brentq(surplus, 1e-6, 1 - 1e-9))
    weights = np.array([ratio**number for number in range(len(WORDS))])
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


WORLDS: tuple[CalibrationWorld, ...] = (PerplexityWorld(),)
