"""DisCo where the number of fills that go with a group is known."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.stats import binom

from trueup.audits.probability.disco import fill_p_values
from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_likelihoods import Named, ScriptedMaskedModel
from trueup.calibration.scripted_world import ScriptedWorld

NAMES = 20  # in each group
SLOTS = (("read", "write"), ("cook", "bake"), ("run", "swim"))  # every name takes one word of each
SHARES = (0.3, 0.2, 0.1)  # of the three words that a name takes
LEANING = (0.9, 0.1)  # P(first word) in either group where a slot leans
ALPHA = 0.05


@cache
def finds(first: float, second: float) -> float:
    """Probability that a word's test is significant where the groups take it with these chances."""
    counts = np.arange(NAMES + 1)
    table = np.stack(np.meshgrid(counts, counts, indexing="ij")).reshape(2, -1)
    chance = binom.pmf(table[0], NAMES, first) * binom.pmf(table[1], NAMES, second)
    tested = sum(map(len, SLOTS))
    is_found = fill_p_values(table, np.array([[NAMES], [NAMES]])) < ALPHA / tested
    return float(chance[is_found].sum())


def expected(leaning_slots: float) -> float:
    """DisCo of templates with so many leaning slots on average: both words of a slot are found."""
    even = len(SLOTS) - leaning_slots
    return 2 * (leaning_slots * finds(*LEANING) + even * finds(0.5, 0.5))


class DisCoWorld(ScriptedWorld):
    """Templates at which every name takes one word of each of three pairs."""

    audit = "disco"
    metric = "disco"
    planted: tuple[float, ...] = tuple(expected(leaning) for leaning in (0, 0.5, 1, 2, 2.5))
    null = expected(0)  # chance alone: below alpha, as counts are whole numbers
    story = (
        "Every name takes one word of each of three pairs; where a pair leans, one group takes the "
        "first word nine times in ten and the other once, else both take it half of the time."
    )
    unit = "templates"
    sizes: tuple[int, ...] = (30, 100)

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Templates, a pair in each leaning with the probability that gives the planted size."""
        rng = np.random.default_rng(seed)
        chance = (planted - self.null) / (expected(len(SLOTS)) - self.null)
        leans = rng.random((n, 1, len(SLOTS))) < chance
        of_group = np.repeat(LEANING, NAMES)[:, None]
        takes_first = rng.random((n, 2 * NAMES, len(SLOTS))) < np.where(leans, of_group, 0.5)
        names = [f"{side}{number}" for side in "ab" for number in range(NAMES)]
        lines = {name: line for line, name in enumerate(names)}
        groups = {"a": "|".join(names[:NAMES]), "b": "|".join(names[NAMES:])}
        rows = [{"template": f"[TARGET] can [ATTRIBUTE] t{i}", **groups} for i in range(n)]

        def filling(words: Sequence[str], place: int) -> Named:
            taken = takes_first[int(words[3][1:]), lines[words[0]]]
            return {
                pair[0 if first else 1]: share
                for pair, first, share in zip(SLOTS, taken, SHARES, strict=True)
            }

        texts = ["can", *names, *(f"t{i}" for i in range(n)), *(w for pair in SLOTS for w in pair)]
        return Draw(ScriptedMaskedModel(texts, filling), rows)


WORLDS: tuple[CalibrationWorld, ...] = (DisCoWorld(),)
