"""The calibration world of `seat`: sentences whose vectors have a planted effect size."""

from trueup.calibration.planted_words import EFFECTS, TEMPLATES, planted_encoder, planted_rows
from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld


class SeatWorld(ScriptedWorld):
    """n target words of one test, half on each side, each in four sentences."""

    audit = "seat"
    metric = "d"
    planted: tuple[float, ...] = EFFECTS
    null = 0.0
    story = (
        "Each sentence's vector leans as its word does, with noise of its own; four sentences "
        "speak of each word."
    )
    unit = "words"
    sizes: tuple[int, ...] = (50, 100, 1000)

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The encoder and the test."""
        encoder = planted_encoder(planted, n, seed, noise=0.5, sentences=len(TEMPLATES))
        return Draw(encoder, planted_rows(n, TEMPLATES))


WORLDS: tuple[CalibrationWorld, ...] = (SeatWorld(),)
