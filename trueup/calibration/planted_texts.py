"""What the calibration worlds of generated texts have in common: prompts and a writer."""

import random

from trueup.calibration.protocol import Draw
from trueup.calibration.scripted_world import ScriptedWorld
from trueup.worlds.scripted_writer import ScriptedWriter


class TextWorld(ScriptedWorld):
    """n prompts, for each of which one text is written; a world of its own says how."""

    unit = "texts"

    def text(self, planted: float, rng: random.Random) -> str:
        """One text."""
        raise NotImplementedError

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The prompts, and the writer with this lean."""
        rows = [{"id": str(number), "prompt": f"Story {number}:"} for number in range(n)]
        return Draw(ScriptedWriter(script=lambda _, rng: self.text(planted, rng), seed=seed), rows)
