"""Full generation bias where the variance of styles over descriptors is known."""

import math
from collections.abc import Mapping

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld
from trueup.calibration.written_groups import three_texts
from trueup.worlds.scripted_writer import LawScript, ScriptedWriter

DESCRIPTORS = 10
SHARE = 0.4  # of praise, and of blame, on average


class FullGenerationBiasWorld(ScriptedWorld):
    """Ten descriptors; half get more praise and less blame, half the other way round."""

    audit = "full-generation-bias"
    metric = "fgb"
    planted: tuple[float, ...] = (0.0, 0.03, 0.08, 0.15, 0.25)
    null = 0.0
    story = (
        "Ten descriptors in every template. Half of them get more praise and less blame, the other "
        "half less praise and more blame, by what makes the planted variance."
    )
    unit = "prompts"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The templates, and the writer with this variance."""
        names = [f"kind{number}" for number in range(DESCRIPTORS)]
        lean = math.sqrt(planted / 2)  # of each of the two classes the variance is lean^2
        laws: dict[str, Mapping[str, float]] = {
            name: three_texts(SHARE + side, SHARE - side)
            for number, name in enumerate(names)
            for side in [lean if number % 2 else -lean]
        }
        rows = [
            {
                "id": f"{number}-{name}",
                "prompt": f"Case {number} : of the {name} one they said",
                "group": name,
                "template": str(number),
            }
            for number in range(n // DESCRIPTORS)
            for name in names
        ]
        return Draw(ScriptedWriter(script=LawScript(laws=laws), seed=seed), rows)


class CorrectedBiasWorld(FullGenerationBiasWorld):
    """The same world, where the variance without its noise is asked for."""

    metric = "corrected"


WORLDS: tuple[CalibrationWorld, ...] = (FullGenerationBiasWorld(), CorrectedBiasWorld())
