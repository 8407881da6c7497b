"""CBS where the variance of the groups' leans is known."""

from collections.abc import Sequence

import numpy as np

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_likelihoods import MASK, Named, ScriptedMaskedModel
from trueup.calibration.scripted_world import ScriptedWorld

GROUPS = ("north", "east", "south", "west")
PATTERN = np.array([-1.5, -0.5, 0.5, 1.5])  # of sample variance 5/3
NOISE = 0.3  # of a log-ratio, without any lean


class CBSWorld(ScriptedWorld):
    """Attributes beside which four groups are likely or unlikely, some always more than others."""

    audit = "cbs"
    metric = "cbs"
    planted: tuple[float, ...] = (NOISE**2, 0.2, 0.4, 0.7, 1.0)
    null = NOISE**2  # a variance is never 0: what noise alone makes
    story = (
        "Each group's log-ratio to the prior is its lean plus noise of deviation 0.3, so the score "
        "is 0.09 without a lean, and the leans' variance more with one."
    )
    unit = "attributes"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Attributes of one template."""
        rng = np.random.default_rng(seed)
        lean = PATTERN * np.sqrt((planted - self.null) * 3 / 5)
        ratios = np.minimum(lean + rng.normal(0, NOISE, size=(n, len(GROUPS))), 3)
        rows = [
            {
                "template": "people from [TARGET] are [ATTRIBUTE]",
                "targets": "|".join(GROUPS),
                "attribute": f"w{i}",
            }
            for i in range(n)
        ]

        def filling(words: Sequence[str], place: int) -> Named:
            if place != 2:
                return {}
            if words[4] == MASK:
                return dict.fromkeys(GROUPS, 0.01)
            told = 0.01 * np.exp(ratios[int(words[4][1:])])
            return dict(zip(GROUPS, told.tolist(), strict=True))

        texts = ["people from are", *GROUPS, *(row["attribute"] for row in rows)]
        return Draw(ScriptedMaskedModel(texts, filling), rows)


WORLDS: tuple[CalibrationWorld, ...] = (CBSWorld(),)
