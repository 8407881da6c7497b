"""What the calibration worlds of scripted likelihoods have in common."""

from collections.abc import Mapping
from typing import Any, Literal

from trueup.calibration.protocol import Draw


class ScriptedWorld:
    """A `CalibrationWorld` whose model is a script; its own world names the rest and draws."""

    audit: str
    metric: str
    planted: tuple[float, ...]
    null: float
    settings: Mapping[str, Any] = {}
    kind: Literal["scripted", "trained"] = "scripted"
    story: str
    unit: str
    sizes: tuple[int, ...] = (100, 1000)

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Data and model with a lean of this size, n units, from this seed alone."""
        raise NotImplementedError
