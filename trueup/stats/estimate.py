"""The number that an audit prints: a value with its interval, its n and how it was made."""

import math
from dataclasses import asdict, dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from trueup.errors import UserError

Array = NDArray[np.float64]


class Labels(TypedDict, total=False):
    """What names an estimate; every function that makes one takes these as keywords."""

    audit: str
    metric: str
    slice: str
    level: float
    ideal: float | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval: one row of metrics.json.

    Fields: level is the interval's coverage; n counts the items behind the value; method says how
            the interval was made; ideal is the value of an unbiased model, None where there is
            none; a bound that the data leave undefined is NaN.
    Raises: UserError where the level does not lie between 0 and 1.
    """

    audit: str = ""
    metric: str
    slice: str = "all"
    value: float
    low: float
    high: float
    level: float = 0.95
    n: int
    ideal: float | None = None
    method: str

    def __post_init__(self) -> None:
        check_level(self.level)

    def as_dict(self) -> dict[str, str | float | int | None]:
        """The row of metrics.json, keys in the design's order."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.metric}  {self.slice}  {self.numbers()}  n={self.n}"

    def numbers(self) -> str:
        """The value and its bounds as text: `0.393 [0.236, 0.576]`."""
        if math.isnan(self.low) and math.isnan(self.high):
            return f"{_short(self.value)} [undefined]"
        return f"{_short(self.value)} [{_short(self.low)}, {_short(self.high)}]"


def level_of(labels: Labels) -> float:
    """The coverage that the labels ask for; 0.95 where they do not say."""
    return check_level(labels.get("level", 0.95))


def check_level(level: float) -> float:
    """The level itself; UserError unless it lies between 0 and 1, ends excluded."""
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1, got {level}")
    return level


def normal_quantile(level: float) -> float:
    """How many standard errors an interval of this coverage reaches to either side."""
    return float(ndtri((1 + check_level(level)) / 2))


def _short(number: float) -> str:
    """Three decimals, or three digits where decimals would hide the number."""
    if math.isnan(number):
        return "undefined"
    in_reach = number == 0 or 0.01 <= abs(number) < 10_000
    return f"{number:.3f}" if in_reach else f"{number:.3g}"
