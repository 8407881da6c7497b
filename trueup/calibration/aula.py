"""AULA where the share of pairs with a likelier stereotyping sentence is known."""

from trueup.calibration.planted_pairs import PairWorld
from trueup.calibration.protocol import CalibrationWorld


class AULAWorld(PairWorld):
    """The pairs of `PairWorld`, read by a model that fills masks and attends evenly."""

    audit = "aula"
    fills_masks = True


WORLDS: tuple[CalibrationWorld, ...] = (AULAWorld(),)
