"""Winogender where the mean share of the woman's pronoun is known."""

from collections.abc import Sequence

import numpy as np

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_likelihoods import Named, ScriptedModel
from trueup.calibration.scripted_world import ScriptedWorld

OCCUPATIONS = 60  # as many as the schemas have
BETWEEN, WITHIN = 0.06, 0.03  # spread of shares between occupations, and within one
PRONOUNS = {"male": "he", "female": "she", "neutral": "they"}


class WinogenderWorld(ScriptedWorld):
    """Schemas of sixty occupations; each has a lean of its own around the planted one."""

    audit = "winogender"
    metric = "lean"
    planted: tuple[float, ...] = (-0.3, -0.1, 0.0, 0.1, 0.3)
    null = 0.0
    story = (
        "The woman's pronoun has one half plus the planted lean of both pronouns' probability, "
        "plus noise of the occupation and of the schema."
    )
    unit = "schemas"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Schemas of up to sixty occupations, the pronoun meaning either person in turn."""
        rng = np.random.default_rng(seed)
        jobs = min(OCCUPATIONS, max(2, n // 2))
        lean = rng.normal(planted, BETWEEN, size=jobs)[np.arange(n) % jobs]
        shares = np.clip(0.5 + lean + rng.normal(0, WITHIN, size=n), 0.001, 0.999)
        rows = [
            {
                "sentid": f"job{i % jobs}.person{i}.{i // jobs % 2}.{gender}.txt",
                "sentence": f"the job{i % jobs} told person{i} that {pronoun} left",
            }
            for i in range(n)
            for gender, pronoun in PRONOUNS.items()
        ]

        def following(words: Sequence[str]) -> Named:
            if words[-1:] != ["that"]:
                return {}
            share = float(shares[int(words[3][len("person") :])])
            return {"she": 0.6 * share, "he": 0.6 * (1 - share), "they": 0.2}

        return Draw(ScriptedModel([row["sentence"] for row in rows], following), rows)


WORLDS: tuple[CalibrationWorld, ...] = (WinogenderWorld(),)
