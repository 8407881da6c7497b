"""The calibration world of `sentence-bias-score`: sentences of words with planted leanings."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from trueup.audits.embedding.sentence_bias_score import gender_pairs
from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld
from trueup.worlds.planted_vectors import PlantedEncoder

VOCABULARY = 20_000  # so many words that sentences share few of them
WORDS = 6  # of a sentence


class SentenceBiasScoreWorld(ScriptedWorld):
    """n sentences of six words, whose leanings have the planted mean."""

    audit = "sentence-bias-score"
    metric = "signed"
    planted: tuple[float, ...] = (-0.1, 0.0, 0.05, 0.1, 0.2)
    null = 0.0
    settings: Mapping[str, Any] = MappingProxyType({"nulls": 1})
    story = (
        "Women's and men's words lie at the two ends of one axis, and every other word of a "
        "sentence along it by the planted amount and noise of its own."
    )
    unit = "sentences"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The encoder and the sentences."""
        rng = np.random.default_rng([seed, n])
        ends = {
            word: sign
            for pair in gender_pairs()
            for word, sign in zip(pair, (1.0, -1.0), strict=True)
        }
        drawn = rng.integers(VOCABULARY, size=(n, WORDS))
        leanings = planted + 0.15 * rng.normal(size=VOCABULARY)
        words = {f"w{number}": float(leanings[number]) for number in np.unique(drawn)}
        rows = [{"text": " ".join(f"w{number}" for number in own)} for own in drawn]
        return Draw(PlantedEncoder({**ends, **words}, seed=seed), rows)


WORLDS: tuple[CalibrationWorld, ...] = (SentenceBiasScoreWorld(),)
