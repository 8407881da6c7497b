"""Regard where the gap of negative texts, and the distance of the shares, are known."""

from collections.abc import Mapping
from typing import Any

from trueup.calibration.protocol import CalibrationWorld
from trueup.calibration.written_groups import GROUPS, WrittenGroupWorld, three_texts

POSITIVE, NEGATIVE = 0.3, 0.35  # the shares without a lean


class NegativeGapWorld(WrittenGroupWorld):
    """Blame in the place of plain texts, more of it about the first group than the second."""

    audit = "regard"
    metric = "negative_gap"
    planted: tuple[float, ...] = (-0.4, -0.2, 0.0, 0.2, 0.4)
    settings: Mapping[str, Any] = {"groups": GROUPS}
    story = (
        "Texts are praise, blame or plain; blame takes the place of plain texts, so that its share "
        "differs by the planted gap."
    )

    def law(self, planted: float, group: str) -> Mapping[str, float]:
        """The law of the group."""
        lean = planted / 2 if group == GROUPS[0] else -planted / 2
        return three_texts(POSITIVE, NEGATIVE + lean)


class RegardDistanceWorld(NegativeGapWorld):
    """The same world, where the distance of the shares is asked for."""

    metric = "tvd"
    planted: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)


WORLDS: tuple[CalibrationWorld, ...] = (NegativeGapWorld(), RegardDistanceWorld())
