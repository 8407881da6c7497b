"""The calibration world of `biaslens`: sentences whose states lean by known cosines."""

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from trueup.calibration.protocol import CalibrationWorld, Draw
from trueup.calibration.scripted_world import ScriptedWorld
from trueup.models.activations import States
from trueup.worlds.planted_vectors import Unmeasured

WIDTH = 8
NOISE = 0.2  # sd of a state around its concept's direction, which has length 1
COMMON = 0.3  # the mean cosine of the target with its two references


class PlantedStates:
    """A model of one layer whose state of every sentence is planted."""

    name = "planted-states"
    is_masked = False
    ends_in_norm = False

    def __init__(self, states: Mapping[str, np.ndarray]) -> None:
        self.states = states
        self.work = Unmeasured()

    @property
    def fingerprint(self) -> str:
        """What was planted."""
        content = b"".join(text.encode() + row.tobytes() for text, row in self.states.items())
        return hashlib.sha256(content).hexdigest()

    def last_states(self, texts: Sequence[str]) -> States:
        """The planted states, [N, 1, D]."""
        return np.array([self.states[text] for text in texts], dtype=np.float32)[:, None]


class BiasLensWorld(ScriptedWorld):
    """One target and one pair of references, n sentences of each and n neutral ones."""

    audit = "biaslens"
    metric = "size"
    planted: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9, 1.2)
    null = 0.0
    settings: Mapping[str, Any] = MappingProxyType({"n_boot": 100, "n_null": 20})
    story = (
        "A sentence's state is its concept's direction with noise, a neutral one's is noise alone; "
        "the cosines of the target's direction with the references differ by the planted size."
    )
    unit = "sentences per concept"

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The states and the sentences that have them."""
        rng = np.random.default_rng([seed, n])
        kinds = (("target", "t"), ("reference", "r1"), ("reference", "r2"), ("negative", "other"))
        rows = [
            {"role": role, "concept": concept, "text": f"{concept} number {number}."}
            for role, concept in kinds
            for number in range(n)
        ]
        means = np.repeat([*planted_directions(planted), np.zeros(WIDTH)], n, axis=0)
        states = means + NOISE * rng.normal(size=means.shape)
        model = PlantedStates({row["text"]: state for row, state in zip(rows, states, strict=True)})
        return Draw(model, rows)


def planted_directions(size: float, *, common: float = COMMON, width: int = WIDTH) -> np.ndarray:
    """Directions of a target and two references, [3, D], cosines `common` +- size / 2."""
    directions = np.eye(width)[[2, 0, 1]]
    cosines = np.array([common + size / 2, common - size / 2])
    directions[0, :2] = cosines
    directions[0, 2] = np.sqrt(1 - cosines @ cosines)
    return directions


WORLDS: tuple[CalibrationWorld, ...] = (BiasLensWorld(),)
