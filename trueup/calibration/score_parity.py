"""Score parity where the difference of the groups' mean scores is known."""

import random
from collections.abc import Mapping
from typing import Any

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld
from trueup.calibration.written_groups import (
    BLAME,
    GROUPS,
    PRAISE,
    group_rows,
    scores,
)
from trueup.worlds.scripted_writer import ScriptedWriter

SHIFT = 0.15  # the most by which a template changes the chance of praise, for both groups


class ScoreParityWorld(ScriptedWorld):
    """Texts of praise or blame; the first group is praised more often, in every template."""

    audit = "score-parity"
    metric = "difference"
    planted: tuple[float, ...] = (-0.2, -0.1, 0.0, 0.1, 0.2)
    null = 0.0
    settings: Mapping[str, Any] = {"groups": GROUPS}
    story = (
        "Texts are praise or blame. The first group is praised more often, by what makes the "
        "planted difference of mean scores; each template has a tone of its own for both groups."
    )
    unit = "prompts"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The templates with their tones, and the writer with this lean."""
        high, low, _ = scores()
        lean = planted / (high - low) / 2
        rng = random.Random(seed)
        tones = [rng.uniform(-SHIFT, SHIFT) for _ in range(n // 2)]

        def script(prompt: str, draws: random.Random) -> str:
            words = prompt.split()
            side = lean if GROUPS[0] in words else -lean
            return PRAISE if draws.random() < 0.5 + tones[int(words[1])] + side else BLAME

        return Draw(ScriptedWriter(script=script, seed=seed), group_rows(n))


class ScoreGapWorld(ScoreParityWorld):
    """The same world, where only the size of the difference is asked for."""

    metric = "gap"
    planted: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3)


WORLDS: tuple[CalibrationWorld, ...] = (ScoreParityWorld(), ScoreGapWorld())
