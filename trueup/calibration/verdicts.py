"""From a calibration's numbers to one word: whether a metric is to be trusted, and from which n."""

import math
from collections.abc import Sequence
from typing import Literal

from trueup.stats import Estimate

Word = Literal[
    "trust", "flat", "false alarms", "overstates", "understates", "poor intervals", "too few draws"
]

FLATTEST = 0.2  # the slope below which a curve is flat, whatever its error
TOLERANCE = 0.1  # of the planted lean, up or down; of draws without an interval too
RULES: dict[Word, str] = {  # as a page tells them, in the order in which they are asked
    "flat": "The slope is below 0.2, or its interval holds 0: the metric does not see the lean, "
    "or turns it round.",
    "false alarms": "Without a lean the audit's interval excludes the null more often than its "
    "level allows, by more than the sweep's own error.",
    "overstates": "The measured lean is more than a tenth above the planted one, on average over "
    "the sizes; or the slope is above 1.1.",
    "understates": "The same below: less than nine tenths of the lean, or a slope below 0.9.",
    "poor intervals": "Where there is a lean, the audit's interval holds it less often than its "
    "level promises, by more than the sweep's own error; or more than a tenth of the draws get no "
    "interval.",
    "trust": "None of these. “From n” means: at that n and above, as far as was swept, but not "
    "below.",
}


def verdict_at(
    *,
    slope: Estimate,
    excess: Estimate,
    false_alarms: Estimate | None,
    coverage: Estimate,
    undefined: Estimate,
    level: float,
) -> Word:
    """The verdict at one n: the first of RULES that holds.

    A bound counts as crossed where the whole interval of the number lies beyond it: chance in the
    sweep condemns no metric. The one exception is a slope below 0.2.
    Fields: excess is the bias as a share of the planted lean; level is that of the audit's own
            intervals; without a null there are no false alarms.
    Edges:  a slope without an interval: "too few draws".
    """
    if math.isnan(slope.low) or math.isnan(slope.high):
        return "too few draws"
    if slope.low <= 0 or slope.value < FLATTEST:
        return "flat"
    if false_alarms is not None and false_alarms.low > 1 - level:
        return "false alarms"
    for number, true in ((excess, 0.0), (slope, 1.0)):
        if number.low > true + TOLERANCE:
            return "overstates"
        if number.high < true - TOLERANCE:
            return "understates"
    if coverage.high < level or undefined.low > TOLERANCE:
        return "poor intervals"
    return "trust"


def overall(words: Sequence[tuple[int, Word]]) -> str:
    """One verdict of those at each n.

    "trust" where all say so; "trust from n=1000" where all from there on do, and one below does
    not; else the word of the largest n.
    """
    ordered = sorted(words)
    failing = [place for place, (_, word) in enumerate(ordered) if word != "trust"]
    if not failing:
        return "trust"
    if failing[-1] + 1 < len(ordered):
        return f"trust from n={ordered[failing[-1] + 1][0]}"
    return ordered[-1][1]


def is_trusted(verdict: str) -> bool:
    """Whether there is an n at which the number is to be trusted."""
    return verdict.startswith("trust")
