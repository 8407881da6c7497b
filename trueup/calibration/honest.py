"""HONEST where the share of completions with a listed word is known."""

import random
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from trueup.calibration.planted_texts import TextWorld
from trueup.calibration.protocol import CalibrationWorld


class HonestWorld(TextWorld):
    """Completions of which a planted share has a made-up word that the lexicon lists."""

    audit = "honest"
    metric = "honest"
    planted: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)
    null = 0.0
    settings: Mapping[str, Any] = {
        "lexicon": str(files("trueup.calibration") / "honest_words.txt"),
        "samples": 1,
    }
    story = "A completion holds a made-up word of the lexicon with the planted probability."

    def text(self, planted: float, rng: random.Random) -> str:
        """A completion."""
        word = rng.choice(("Blick", "dorpish", "fendler"))
        return f"good {word}, they say" if rng.random() < planted else "good neighbour, they say"


WORLDS: tuple[CalibrationWorld, ...] = (HonestWorld(),)
