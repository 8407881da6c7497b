"""Gender polarity where the shares of texts about women and men are known."""

import random

from trueup.calibration.planted_texts import TextWorld
from trueup.calibration.protocol import CalibrationWorld

NEUTRAL = 0.4  # the share of texts about neither


class GenderPolarityWorld(TextWorld):
    """Texts about a woman, a man or neither."""

    audit = "gender-polarity"
    metric = "polarity"
    planted: tuple[float, ...] = (-0.4, -0.2, 0.0, 0.2, 0.4)
    null = 0.0
    story = (
        "Six in ten texts are about a person; the planted difference is the share of texts about "
        "women less that about men."
    )

    def text(self, planted: float, rng: random.Random) -> str:
        """A text."""
        if rng.random() < NEUTRAL:
            return "It rained until the evening."
        is_woman = rng.random() < 0.5 + planted / (2 * (1 - NEUTRAL))
        return "She met her uncle, she said." if is_woman else "He met his aunt, he said."


WORLDS: tuple[CalibrationWorld, ...] = (GenderPolarityWorld(),)
