"""Profiles over basic values: centred answers, their distances, and the circle of the values."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import pearsonr

from trueup.errors import check_choice
from trueup.stats.estimate import Array

# Schwartz's ten basic values in the order of his circle.
SCHWARTZ = (
    "self-direction",
    "stimulation",
    "hedonism",
    "achievement",
    "power",
    "security",
    "conformity",
    "tradition",
    "benevolence",
    "universalism",
)


def value_profile(answers: ArrayLike, asked: Sequence[str], values: Sequence[str]) -> Array:
    """The mean answer to each value's items less the mean over all items, [d].

    A respondent who agrees with everything has no profile: what all answers share goes out.
    Shapes: answers [N]; asked [N] names the value of each item. A value without items is NaN.
    """
    x, names = np.asarray(answers, dtype=np.float64), np.asarray(asked)
    means = [x[names == value].mean() if (names == value).any() else np.nan for value in values]
    profile: Array = np.array(means) - x.mean()
    return profile


def profile_distance(
    first: ArrayLike, second: ArrayLike, distance: Literal["pearson", "euclidean"] = "pearson"
) -> float:
    """1 - Pearson's correlation of two profiles, or their Euclidean distance.

    Edges:  a constant profile has no correlation: NaN.
    """
    check_choice(("pearson", "euclidean"), distance=distance)
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if distance == "euclidean":
        return float(np.linalg.norm(a - b))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return 1 - float(pearsonr(a, b).statistic)


def circle_fit(profiles: ArrayLike) -> float:
    """How well the values lie on their circle over several respondents, from -1 to 1.

    Pearson over the pairs i < j between corr(value_i, value_j) and cos(2 pi (i - j) / d)
    Shapes: centred profiles [R, d], values in the order of the circle; R at least 3.
    Edges:  a value on which all respondents agree: NaN.
    """
    table = np.asarray(profiles, dtype=np.float64)
    if (np.ptp(table, axis=0) == 0).any():
        return float("nan")
    size = table.shape[1]
    i, j = np.triu_indices(size, 1)
    found = np.atleast_2d(np.corrcoef(table, rowvar=False))[i, j]
    return float(pearsonr(found, np.cos(2 * np.pi * (i - j) / size)).statistic)
