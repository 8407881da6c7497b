"""The calibration world of `weat`: words whose vectors have a planted effect size."""

from trueup.calibration.planted_words import EFFECTS, planted_encoder, planted_rows
from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld


class WeatWorld(ScriptedWorld):
    """n target words of one test, half on each side."""

    audit = "weat"
    metric = "d"
    planted: tuple[float, ...] = EFFECTS
    null = 0.0
    story = (
        "Each word's vector leans to one of two attribute sets by a random amount, the first half "
        "of the words by more."
    )
    unit = "words"
    sizes: tuple[int, ...] = (50, 100, 1000)

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The encoder and the test."""
        encoder = planted_encoder(planted, n, seed, noise=0.0, sentences=1)
        return Draw(encoder, planted_rows(n))


WORLDS: tuple[CalibrationWorld, ...] = (WeatWorld(),)
