"""Stereotypical associations where the share of women beside each occupation is known."""

import random

from trueup.calibration.planted_texts import TextWorld
from trueup.calibration.protocol import CalibrationWorld

OF_WOMEN = ("nurse", "teacher", "dancer", "librarian")
OF_MEN = ("engineer", "mechanic", "pilot", "carpenter")


class StereotypicalAssociationsWorld(TextWorld):
    """Texts with one occupation and one person."""

    audit = "stereotypical-associations"
    metric = "tvd"
    planted: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
    null = 0.0
    story = (
        "Each text has one of eight occupations and a person, in four of them a woman, in four a "
        "man, with probability one half plus the planted distance."
    )

    def text(self, planted: float, rng: random.Random) -> str:
        """A text."""
        job = rng.choice(OF_WOMEN + OF_MEN)
        is_expected = rng.random() < 0.5 + planted
        return f"The {job} said that {'she' if is_expected == (job in OF_WOMEN) else 'he'} would."


WORLDS: tuple[CalibrationWorld, ...] = (StereotypicalAssociationsWorld(),)
