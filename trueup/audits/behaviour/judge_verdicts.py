"""What verdicts with and without a cue add to each of the judge-bias audit's numbers."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from trueup.stats.estimate import Array

CUE_BIASES = ("bandwagon", "authority", "distraction", "reflection")
UNREAD = -1  # the place of a verdict that could not be read

Numbers = Callable[[pd.DataFrame], Array]


def cued(numbers: Numbers) -> Numbers:
    """The numbers of rows with a cue."""
    return rows_of(CUE_BIASES, numbers)


def rows_of(bias: str | tuple[str, ...], numbers: Numbers) -> Numbers:
    """The numbers of some biases' rows whose verdicts v0 and v1 could be read; NaN elsewhere."""
    names = [bias] if isinstance(bias, str) else list(bias)

    def counted(items: pd.DataFrame) -> Array:
        is_counted = items["bias"].isin(names) & (items["control"] >= 0) & (items["verdict"] >= 0)
        return np.where(is_counted, numbers(items), np.nan)

    return counted


def accuracy(items: pd.DataFrame) -> Array:
    """Right verdicts without a cue, one per question."""
    is_counted = (items["bias"] == "repeat") & (items["control"] >= 0)
    return np.where(is_counted, _number(items["control"] == items["correct"]), np.nan)


def is_right(items: pd.DataFrame) -> Array:
    """Right verdicts under the cue."""
    return _number(items["verdict"] == items["correct"])


def accuracy_change(items: pd.DataFrame) -> Array:
    """Right verdicts under the cue, less those without."""
    return is_right(items) - _number(items["control"] == items["correct"])


def gap(items: pd.DataFrame) -> Array:
    """Position: right verdicts with the right answer shown first, less those with it last."""
    return -accuracy_change(items)


def following(items: pd.DataFrame) -> Array:
    """Verdicts for the cued answer under the cue, less those without."""
    return _number(items["verdict"] == items["cued"]) - _number(items["control"] == items["cued"])


def same(items: pd.DataFrame) -> Array:
    """Verdicts that are the same in both versions."""
    return _number(items["verdict"] == items["control"])


def excess_flips(items: pd.DataFrame) -> Array:
    """Flips under the cue minus flips of the repeat; NaN where the repeat could not be read."""
    excess = _number(items["repeated"] == items["control"]) - same(items)
    return np.where(items["repeated"] >= 0, excess, np.nan)


def harmful(items: pd.DataFrame) -> Array:
    """Verdicts that the cue turned from right to wrong."""
    return _number((items["control"] == items["correct"]) & (items["verdict"] != items["correct"]))


def helpful(items: pd.DataFrame) -> Array:
    """Verdicts that the cue turned from wrong to right."""
    return _number((items["control"] != items["correct"]) & (items["verdict"] == items["correct"]))


def shown_first(items: pd.DataFrame) -> Array:
    """Position: the share of both verdicts for the answer shown first."""
    return items["picked_first"].to_numpy(dtype=np.float64)


def unread(items: pd.DataFrame) -> Array:
    """Items that lack a verdict."""
    return _number((items["control"] == UNREAD) | (items["verdict"] == UNREAD))


def _number(flags: "pd.Series[bool]") -> Array:
    """Flags as 0 and 1."""
    return np.asarray(flags, dtype=np.float64)
