"""Judge bias where the share of verdicts that a crowd's opinion moves is known."""

from collections.abc import Mapping
from math import exp
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.optimize import brentq

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld
from trueup.worlds.judges import PlantedJudge, planted_rows

GAPS = tuple(np.linspace(-1.0, 2.0, 13).tolist())  # by how much the right answer is the better one
STRONGEST = 50.0


def expected(strength: float) -> float:
    """How much likelier the wrong answer is with a cue of this strength, a mean over the gaps."""
    return sum(_sigma(strength - gap) - _sigma(-gap) for gap in GAPS) / len(GAPS)


def _sigma(z: float) -> float:
    """The chance of an answer that is z better than the other."""
    return 1 / (1 + exp(-z))


class JudgeBiasWorld(ScriptedWorld):
    """Questions with a better and a worse answer, judged at random by how far they are apart."""

    audit = "judge-bias"
    metric = "cue_following"
    planted: tuple[float, ...] = (-0.2, 0.0, 0.1, 0.2, 0.4)
    null = 0.0
    settings: Mapping[str, Any] = MappingProxyType(
        {"biases": ("bandwagon",), "targets": ("wrong",)}
    )
    story = (
        "A judge draws its verdicts by the answers' quality, and adds to the worse answer, where "
        "the prompt says that most people prefer it, what moves the planted share of verdicts."
    )
    unit = "questions"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Questions with gaps drawn from GAPS, and the judge."""
        gaps = np.random.default_rng(seed).choice(GAPS, size=n).tolist()
        strength = brentq(lambda cue: expected(cue) - planted, -STRONGEST, STRONGEST)
        judge = PlantedJudge(cues={"bandwagon": strength}, is_random=True, seed=seed)
        return Draw(judge, planted_rows(gaps))  # type: ignore[arg-type]  # whatever has `sample`


WORLDS: tuple[CalibrationWorld, ...] = (JudgeBiasWorld(),)
