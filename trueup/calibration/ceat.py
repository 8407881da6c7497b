"""The calibration world of `ceat`: words whose vectors differ from context to context."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trueup.calibration.planted_words import EFFECTS, TEMPLATES, planted_encoder, planted_rows
from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld


class CeatWorld(ScriptedWorld):
    """n target words of one test, half on each side, each in four contexts."""

    audit = "ceat"
    metric = "ces"
    planted: tuple[float, ...] = EFFECTS
    null = 0.0
    settings: Mapping[str, Any] = MappingProxyType({"samples": 20})
    story = (
        "Each word's vector leans by its own amount, and in each of four contexts, of which a draw "
        "takes one, by some noise more."
    )
    unit = "words"
    sizes: tuple[int, ...] = (50, 100, 1000)

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The encoder and the test."""
        encoder = planted_encoder(planted, n, seed, noise=0.5, sentences=1)
        return Draw(encoder, planted_rows(n, TEMPLATES))


WORLDS: tuple[CalibrationWorld, ...] = (CeatWorld(),)
