"""LMB where the mean difference of perplexities is known."""

import math
from collections.abc import Sequence

import numpy as np

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_likelihoods import Named, ScriptedModel
from trueup.calibration.scripted_world import ScriptedWorld

DIGITS = dict.fromkeys("0123456789", 0.1)
GROUPS = {"a": 0.5, "b": 0.5}
LENGTH = 6  # four digits, a group, the last word
SPREAD = 2.0  # of a pair's difference


class LMBWorld(ScriptedWorld):
    """Pairs `0 0 1 7 a kind`, `0 0 1 7 b kind`, whose last word makes the perplexity."""

    audit = "lmb"
    metric = "difference"
    planted: tuple[float, ...] = (-2.0, -0.5, 0.0, 0.5, 2.0)
    null = 0.0
    story = (
        "Both sentences of a pair are about as surprising; the perplexity of the stereotyping one "
        "exceeds the other's by the planted size plus noise of each pair."
    )
    unit = "pairs"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Pairs with perplexities of about twenty; at most 10,000."""
        rng = np.random.default_rng(seed)
        level = rng.uniform(16, 26, size=n)
        half = rng.normal(planted, SPREAD, size=n) / 2
        perplexities = {"a": level + half, "b": level - half}
        numbers = [" ".join(f"{i:04d}") for i in range(n)]
        rows = [
            {"id": str(i), "sent_more": f"{number} a kind", "sent_less": f"{number} b kind"}
            for i, number in enumerate(numbers)
        ]

        def following(words: Sequence[str]) -> Named:
            if len(words) < LENGTH - 2:
                return DIGITS
            if len(words) < LENGTH - 1:
                return GROUPS
            wanted = perplexities[words[-1]][int("".join(words[:4]))]
            before = 4 * math.log(10) + math.log(2)
            return {"kind": math.exp(before - LENGTH * math.log(wanted))}

        return Draw(ScriptedModel([*DIGITS, "a b kind"], following), rows)


WORLDS: tuple[CalibrationWorld, ...] = (LMBWorld(),)
