"""Association where the mean share of group A's word after a context is known."""

from collections.abc import Sequence

import numpy as np

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_likelihoods import Named, ScriptedModel
from trueup.calibration.scripted_world import ScriptedWorld

SPREAD = 0.06  # of the share from context to context
COVERAGE = 0.6  # P(he) + P(she)


class AssociationWorld(ScriptedWorld):
    """Contexts `the job7 said`, after which `he` has a share of its own."""

    audit = "association"
    metric = "lean"
    planted: tuple[float, ...] = (-0.3, -0.1, 0.0, 0.1, 0.3)
    null = 0.0
    story = (
        "After every context the model gives `he` one half plus the planted lean of what it gives "
        "`he` and `she`, plus noise of each context's own."
    )
    unit = "contexts"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Contexts with one share each."""
        rng = np.random.default_rng(seed)
        shares = np.clip(0.5 + planted + rng.normal(0, SPREAD, size=n), 0.001, 0.999)
        rows = [
            {"id": str(i), "context": f"the job{i} said", "a": " he", "b": " she"} for i in range(n)
        ]

        def following(words: Sequence[str]) -> Named:
            if words[-1:] != ["said"]:
                return {}
            share = float(shares[int(words[1][3:])])
            return {"he": COVERAGE * share, "she": COVERAGE * (1 - share)}

        return Draw(ScriptedModel([*(row["context"] for row in rows), "he she"], following), rows)


WORLDS: tuple[CalibrationWorld, ...] = (AssociationWorld(),)
