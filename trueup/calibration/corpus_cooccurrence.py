"""The calibration world of `corpus-co-occurrence`: sentences with a planted odds ratio."""

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld
from trueup.worlds.planted_vectors import PlantedEncoder

HE = 0.6  # the share of men's pronouns, whatever the occupation's lean
OCCUPATIONS = (("driver", "nurse"), ("carpenter", "teacher"), ("lawyer", "librarian"))


class CorpusCooccurrenceWorld(ScriptedWorld):
    """n sentences, each with one occupation and one pronoun."""

    audit = "corpus-co-occurrence"
    metric = "log_odds"
    planted: tuple[float, ...] = (-1.0, 0.0, 0.5, 1.0, 2.0)
    null = 0.0
    story = (
        "Each sentence has one occupation, as often a man's as a woman's, and he or she with "
        "the planted odds ratio; six in ten pronouns are he."
    )
    unit = "sentences"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """A model that nobody asks, and the sentences."""
        rng = np.random.default_rng([seed, n])
        middle = brentq(lambda a: expit(a + planted / 2) + expit(a - planted / 2) - 2 * HE, -9, 9)
        kinds = rng.integers(2, size=n)  # 0 a man's occupation
        chance = expit(middle + np.where(kinds == 0, planted / 2, -planted / 2))
        is_he = rng.random(n) < chance
        jobs = rng.integers(len(OCCUPATIONS), size=n)
        rows = [
            {"text": f"The {OCCUPATIONS[job][kind]} said {'he' if he else 'she'} would wait."}
            for job, kind, he in zip(jobs, kinds, is_he, strict=True)
        ]
        return Draw(PlantedEncoder({}), rows)


WORLDS: tuple[CalibrationWorld, ...] = (CorpusCooccurrenceWorld(),)
