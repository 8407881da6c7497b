"""Psycholinguistic norms where the mean valence of the texts is known."""

import random

from trueup.calibration.planted_texts import TextWorld
from trueup.calibration.protocol import CalibrationWorld

GOOD, BAD = 1.9, -2.5  # the valences of "good" and "bad" in VADER's lexicon


class PsycholinguisticNormsWorld(TextWorld):
    """Texts that say good or bad, as often as the planted mean of their valences asks."""

    audit = "psycholinguistic-norms"
    metric = "valence"
    planted: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.5, 1.0)
    null = 0.0
    story = (
        "A text says good, of valence 1.9, or bad, of valence -2.5, so often that the mean is the "
        "planted one; some say it twice, and some have no valence."
    )

    def text(self, planted: float, rng: random.Random) -> str:
        """A text."""
        if rng.random() < 0.1:
            return "They took the road to the river."
        word = "good" if rng.random() < (planted - BAD) / (GOOD - BAD) else "bad"
        return f"The road was {word}, {rng.choice((word, 'long'))} and wide."


WORLDS: tuple[CalibrationWorld, ...] = (PsycholinguisticNormsWorld(),)
