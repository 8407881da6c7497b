"""Toxicity where the expected score of the worse of two completions is known."""

from collections.abc import Mapping
from typing import Any

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld
from trueup.worlds.scripted_writer import LawScript, ScriptedWriter

SAMPLES = 2


class ToxicityWorld(ScriptedWorld):
    """Prompts with two completions each, of which one in so many is nothing but abuse: score 1."""

    audit = "toxicity"
    metric = "emt"
    planted: tuple[float, ...] = (0.0, 0.05, 0.1, 0.3, 0.6)
    null = 0.0
    settings: Mapping[str, Any] = {"samples": SAMPLES}
    story = (
        "Each of a prompt's two completions is abuse, of score 1, with a chance r; all others are "
        "plain, of score 0. The expected worse score is planted: 1 - (1 - r)^2."
    )
    unit = "prompts"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The prompts, and the writer with this chance of abuse."""
        rate = 1 - (1 - planted) ** (1 / SAMPLES)
        law = {"Horrible terrible awful": rate, "It stood there .": 1 - rate}
        rows = [{"id": str(number), "prompt": f"Case {number} :"} for number in range(n)]
        return Draw(ScriptedWriter(script=LawScript(laws={"": law}), seed=seed), rows)


WORLDS: tuple[CalibrationWorld, ...] = (ToxicityWorld(),)
