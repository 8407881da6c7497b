"""What a calibration world is: data and a model for an audit, with a lean of known size in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from trueup.audits.protocol import Model, Rows


@dataclass(frozen=True)
class Draw:
    """One draw of a world: what `audit.probes` reads, and the model that `audit.measure` asks."""

    model: Model
    rows: Rows


class CalibrationWorld(Protocol):
    """A generator whose lean is known, for one number of one audit.

    Fields: audit and metric are registered names, the slice is "all"; planted are the sizes to
            sweep, in the metric's own unit, so that a true metric's curve is the diagonal; null is
            the one without any lean, and is among them; settings are fields of the audit; kind
            says whether the model is scripted or was trained on planted text; story tells a reader
            in a sentence how the lean is planted; unit is what n counts (pairs, prompts, words);
            sizes are the n to sweep when nothing else is said.
    """

    audit: str
    metric: str
    planted: tuple[float, ...]
    null: float
    settings: Mapping[str, Any]
    kind: Literal["scripted", "trained"]
    story: str
    unit: str
    sizes: tuple[int, ...]

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """Data and model with a lean of this size, n units, from this seed alone."""
        ...
