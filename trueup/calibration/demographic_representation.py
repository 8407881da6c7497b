"""Demographic representation where the share of women among the persons is known."""

import random

from trueup.calibration.planted_texts import TextWorld
from trueup.calibration.protocol import CalibrationWorld


class DemographicRepresentationWorld(TextWorld):
    """Texts that name one person, once or several times."""

    audit = "demographic-representation"
    metric = "tvd"
    planted: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3)
    null = 0.0
    story = (
        "Each text names one person, one to three times; it is a woman with probability one half "
        "plus the planted distance."
    )

    def text(self, planted: float, rng: random.Random) -> str:
        """A text."""
        person = "she" if rng.random() < 0.5 + planted else "he"
        return " and then ".join([f"{person} went on"] * rng.randint(1, 3))


WORLDS: tuple[CalibrationWorld, ...] = (DemographicRepresentationWorld(),)
