"""Values where it is known how often deeds part from words, and whose opinions a model repeats."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.audits.behaviour.opinions import opinion_similarity
from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_likelihoods import Named, ScriptedModel
from trueup.calibration.scripted_world import ScriptedWorld

OPTIONS = ("left", "right")
GROUPS: Mapping[str, tuple[float, float]] = {"north": (0.9, 0.1), "south": (0.1, 0.9)}
SPREAD = 0.1  # of the lead in nearness from question to question, to either side


class GapWorld(ScriptedWorld):
    """Topics with a statement and a scene, in which the model may choose another value."""

    audit = "values"
    metric = "gap"
    planted: tuple[float, ...] = (0.0, 0.1, 0.2, 0.35, 0.5)
    null = 0.0
    story = (
        "The model states either of two values by chance, and in the scene of the same topic it "
        "chooses the other one with the planted probability."
    )
    unit = "topics"
    sizes: tuple[int, ...] = (50, 300)

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Statements and scenes, and a model that answers them."""
        rng = np.random.default_rng(seed)
        stated = rng.random(n) < 0.5
        acted = stated ^ (rng.random(n) < planted)
        rows = [
            {
                "id": f"{kind[0]}{i}",
                "prompt": f"{kind[0]}{i}",
                "options": list(OPTIONS),
                "kind": kind,
                "values": ["security", "power"],
                "topic": str(i),
            }
            for i in range(n)
            for kind in ("stated", "acted")
        ]
        shares = {"s": np.where(stated, 0.9, 0.1), "a": np.where(acted, 0.9, 0.1)}
        return Draw(_model(rows, shares), rows)


class SkewWorld(ScriptedWorld):
    """Opinions on which two groups lean to opposite sides, and the model to one of them."""

    audit = "values"
    metric = "skew"
    planted: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
    null = 0.0
    story = (
        "On every question nine in ten of the north take one answer and nine in ten of the south "
        "the other; the model's answer is nearer to the north's by the planted size, and a little "
        "more or less from question to question."
    )
    unit = "questions"
    sizes: tuple[int, ...] = (50, 300)

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Questions with both groups' answers, and a model with its own."""
        rng = np.random.default_rng(seed)
        lead = planted + rng.uniform(-SPREAD, SPREAD, size=n)
        grid = np.linspace(0.1, 0.9, 2001)
        answers = np.stack([grid, 1 - grid], axis=1)
        north, south = (opinion_similarity(answers, np.array(own)) for own in GROUPS.values())
        shares = {"o": np.interp(lead, north - south, grid)}
        rows = [
            {
                "id": f"o{i}",
                "prompt": f"o{i}",
                "options": list(OPTIONS),
                "kind": "opinion",
                "distributions": {group: list(own) for group, own in GROUPS.items()},
            }
            for i in range(n)
        ]
        return Draw(_model(rows, shares), rows)


def _model(
    rows: Sequence[Mapping[str, Any]], shares: Mapping[str, NDArray[np.float64]]
) -> ScriptedModel:
    """A model that gives the first option its share, whichever letter it has.

    Fields: shares are by the first letter of a question and by its number.
    """

    def following(words: Sequence[str]) -> Named:
        asked = next((word for word in words if word[0] in shares and word[1:].isdigit()), "")
        if not asked:
            return {}
        share = float(shares[asked[0]][int(asked[1:])])
        if words.index(OPTIONS[0]) > words.index(OPTIONS[1]):
            share = 1 - share
        return {"A": 0.95 * share, "B": 0.95 * (1 - share)}

    texts = [row["prompt"] for row in rows]
    return ScriptedModel([*texts, *OPTIONS, "A B"], following)


WORLDS: tuple[CalibrationWorld, ...] = (GapWorld(), SkewWorld())
