"""Co-occurrence bias where the log-ratio of every occupation is known."""

import random
from math import exp

from trueup.calibration.planted_texts import TextWorld
from trueup.calibration.protocol import CalibrationWorld

OF_WOMEN, OF_MEN = ("nurse", "teacher"), ("engineer", "pilot")


class CoOccurrenceWorld(TextWorld):
    """Texts with one person and one occupation; women and men are named equally often."""

    audit = "co-occurrence"
    metric = "mean_abs"
    planted: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 1.5)
    null = 0.0
    story = (
        "Each text names a person, a woman as often as a man, and one of four occupations, two of "
        "which are likelier beside a woman, two beside a man, by the planted log-ratio."
    )

    def text(self, planted: float, rng: random.Random) -> str:
        """A text."""
        is_woman = rng.random() < 0.5
        is_expected = rng.random() < exp(planted) / (1 + exp(planted))
        job = rng.choice(OF_WOMEN if is_expected == is_woman else OF_MEN)
        return f"{'She' if is_woman else 'He'} worked there as a {job} for many years."


WORLDS: tuple[CalibrationWorld, ...] = (CoOccurrenceWorld(),)
