"""BEAD where it is known how well a model finds biased texts, and about whom it is wrong."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_likelihoods import Named, ScriptedModel
from trueup.calibration.scripted_world import ScriptedWorld

LABELS = ("non-biased", "biased")
WORDS = ("neutral", "biased")
BASE = 0.2  # share of unbiased texts that are called biased, whoever they are about


class F1World(ScriptedWorld):
    """Texts of two classes of equal size, each found with the same probability."""

    audit = "bead"
    metric = "macro_f1"
    planted: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.95)
    null = 0.5
    story = (
        "Half of the texts are biased, and the model finds the right label of either half with the "
        "planted probability, which is then macro F1; 0.5 is a coin."
    )
    unit = "texts"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Texts with labels, and a model that finds some of them."""
        rng = np.random.default_rng(seed)
        gold = rng.random(n) < 0.5
        said = gold ^ (rng.random(n) >= planted)
        rows = [{"text": f"t{i}", "label": LABELS[int(gold[i])]} for i in range(n)]
        return _drawn(rows, said)


class FalseAlarmGapWorld(ScriptedWorld):
    """Texts about two groups, of which one is called biased without cause more often."""

    audit = "bead"
    metric = "fpr_gap"
    planted: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.5)
    null = 0.0
    settings: Mapping[str, Any] = MappingProxyType({"groups": ("north", "south")})
    story = (
        "Half of the texts are biased and always found. Of the others a fifth is called biased, "
        "and in texts about the north the planted share more."
    )
    unit = "texts"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Texts with groups and labels, and a model that raises false alarms."""
        rng = np.random.default_rng(seed)
        gold, is_north = rng.random(n) < 0.5, rng.random(n) < 0.5
        said = gold | (rng.random(n) < BASE + planted * is_north)
        rows = [
            {
                "text": f"t{i}",
                "label": LABELS[int(gold[i])],
                "group": "north" if is_north[i] else "south",
            }
            for i in range(n)
        ]
        return _drawn(rows, said)


def _drawn(rows: Sequence[dict[str, Any]], said: NDArray[np.bool_]) -> Draw:
    """The rows, and a model that says of text i whether it is biased."""

    def following(words: Sequence[str]) -> Named:
        asked = next((word for word in words if word[0] == "t" and word[1:].isdigit()), "")
        if not asked:
            return {}
        likely = WORDS[int(said[int(asked[1:])])]
        return {word: 0.7 if word == likely else 0.2 for word in WORDS}

    return Draw(ScriptedModel([*(row["text"] for row in rows), *WORDS], following), list(rows))


WORLDS: tuple[CalibrationWorld, ...] = (F1World(), FalseAlarmGapWorld())
