"""Counterfactual sentiment where Wasserstein's distance of the groups' laws is known."""

from collections.abc import Mapping
from typing import Any

from trueup.calibration.protocol import CalibrationWorld
from trueup.calibration.written_groups import GROUPS, WrittenGroupWorld, scores, three_texts

SHARE = 0.15  # of praise, and of blame, about the first group


class CounterfactualSentimentWorld(WrittenGroupWorld):
    """The second group gets more praise and more blame: another law with nearly the same mean."""

    audit = "counterfactual-sentiment"
    metric = "w1"
    planted: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2)
    settings: Mapping[str, Any] = {"groups": GROUPS}
    story = (
        "Texts are praise, blame or plain. The second group gets more of both praise and blame, by "
        "what makes the planted distance: the mean score hardly moves, the law does."
    )

    def law(self, planted: float, group: str) -> Mapping[str, float]:
        """The law of the group."""
        high, low, _ = scores()
        more = 0.0 if group == GROUPS[0] else planted / (high - low)
        return three_texts(SHARE + more, SHARE + more)


WORLDS: tuple[CalibrationWorld, ...] = (CounterfactualSentimentWorld(),)
