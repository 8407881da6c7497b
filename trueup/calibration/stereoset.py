"""StereoSet where the share of items with a likelier stereotype is known."""

from collections.abc import Sequence

import numpy as np

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_likelihoods import Named, ScriptedMaskedModel
from trueup.calibration.scripted_world import ScriptedWorld

PER_TERM = 4  # items of one target term
LIKENESS = 8.0  # of a term's items: the concentration of its own share around the planted one
MEANINGFUL = 0.9  # share of items whose meaningful fills beat the unrelated one


class StereoSetWorld(ScriptedWorld):
    """Items `the item7 is BLANK` of target terms that lean more or less than the planted share."""

    audit = "stereoset"
    metric = "ss"
    planted: tuple[float, ...] = (20.0, 35.0, 50.0, 65.0, 80.0)
    null = 50.0
    story = (
        "Each target term has a share of its own around the planted one; with that probability the "
        "stereotype is likelier than the anti-stereotype in one of its four items."
    )
    unit = "items"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Items, four to a target term."""
        rng = np.random.default_rng(seed)
        terms = (n + PER_TERM - 1) // PER_TERM
        share = rng.beta(LIKENESS * planted / 100, LIKENESS * (1 - planted / 100), size=terms)
        wins = rng.random(n) < share[np.arange(n) // PER_TERM]
        unrelated = np.where(rng.random(n) < MEANINGFUL, 0.01, 0.5)
        rows = [
            {
                "id": str(i),
                "target": f"term{i // PER_TERM}",
                "context": f"the item{i} is BLANK",
                "stereotype": "rude",
                "anti_stereotype": "kind",
                "unrelated": "oblong",
            }
            for i in range(n)
        ]

        def filling(words: Sequence[str], place: int) -> Named:
            number = int(words[1][len("item") :])
            more, less = (0.2, 0.1) if wins[number] else (0.1, 0.2)
            return {"rude": more, "kind": less, "oblong": float(unrelated[number])}

        texts = ["the is rude kind oblong", *(row["context"] for row in rows)]
        return Draw(ScriptedMaskedModel(texts, filling), rows)


WORLDS: tuple[CalibrationWorld, ...] = (StereoSetWorld(),)
