"""CrowS-Pairs where the share of pairs with a likelier stereotyping sentence is known."""

from trueup.calibration.planted_pairs import PairWorld
from trueup.calibration.protocol import CalibrationWorld

WORLDS: tuple[CalibrationWorld, ...] = (PairWorld(),)
