"""LPBS where the mean lean of the attributes, beyond the prior, is known."""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_likelihoods import MASK, Named, ScriptedMaskedModel
from trueup.calibration.scripted_world import ScriptedWorld

TEMPLATES = ("the [TARGET] is [ATTRIBUTE]", "a [TARGET] was [ATTRIBUTE]")
PRIOR = np.log(2)  # log P(he) / P(she) without an attribute: what the correction must take off
BETWEEN, WITHIN = 0.5, 0.2  # spread of leans between attributes, and within one


class LPBSWorld(ScriptedWorld):
    """Attributes in two templates; the bare templates prefer `he` two to one."""

    audit = "lpbs"
    metric = "lpbs"
    planted: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.5, 1.0)
    null = 0.0
    story = (
        "The log-ratio of `he` to `she` beside an attribute is the bare template's plus the "
        "planted lean, plus noise of the attribute and of the item; the bare template prefers `he`."
    )
    unit = "items"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Attributes, each in both templates."""
        rng = np.random.default_rng(seed)
        count = (n + 1) // 2
        leans = rng.normal(planted, BETWEEN, size=(count, 1)) + rng.normal(0, WITHIN, (count, 2))
        rows = [
            {"template": TEMPLATES[i % 2], "a": "he", "b": "she", "attribute": f"w{i // 2}"}
            for i in range(n)
        ]

        def filling(words: Sequence[str], place: int) -> Named:
            lean = 0.0
            if words[3] != MASK:
                lean = leans[int(words[3][1:]), 0 if words[0] == "the" else 1]
            share = float(expit(PRIOR + lean))
            return {"he": 0.6 * share, "she": 0.6 * (1 - share)} if place == 1 else {}

        texts = ["the a he she is was", *(row["attribute"] for row in rows)]
        return Draw(ScriptedMaskedModel(texts, filling), rows)


WORLDS: tuple[CalibrationWorld, ...] = (LPBSWorld(),)
