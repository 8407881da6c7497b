"""The calibration world of `cweat`: words whose vectors in sentences have a planted effect."""

from trueup.calibration.planted_words import EFFECTS, TEMPLATES, planted_encoder, planted_rows
from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld


class CweatWorld(ScriptedWorld):
    """n target words of one test, half on each side, each in four sentences."""

    audit = "cweat"
    metric = "d"
    planted: tuple[float, ...] = EFFECTS
    null = 0.0
    story = (
        "Each word's vector leans by its own amount, and in each of four sentences by some noise "
        "more."
    )
    unit = "words"
    sizes: tuple[int, ...] = (50, 100, 1000)

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The encoder and the test."""
        encoder = planted_encoder(planted, n, seed, noise=0.5, sentences=len(TEMPLATES))
        return Draw(encoder, planted_rows(n, TEMPLATES))


WORLDS: tuple[CalibrationWorld, ...] = (CweatWorld(),)
