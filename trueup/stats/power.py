"""How many items a question needs before it is asked."""

import math
from typing import Literal

from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import nct
from scipy.stats import t as student

from trueup.errors import UserError, check_choice

Design = Literal["one-rate", "two-rates", "paired-binary", "paired-mean", "two-means", "half-width"]


def required_n(
    design: Design, effect: float, other: float = 0.5, *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The number of items (per group, of pairs) that finds an effect; not rounded, so round up.

    one-rate       effect = the rate, against `other`      items
    two-rates      effect and other = the two rates        items per group, by Cohen's h
    paired-binary  effect and other = shares of pairs that change one way and the other    pairs
    paired-mean    effect = dz                             pairs, noncentral t
    two-means      effect = d                              items per group, noncentral t
    half-width     effect = the half width, other = rate   items, for a confidence of 1 - alpha
    Raises: UserError where the effect is 0: no number of items finds it.
    """
    check_choice(Design.__args__, design=design)  # type: ignore[attr-defined]
    za, zb = float(ndtri(1 - alpha / 2)), float(ndtri(power))
    is_difference = design in ("one-rate", "two-rates", "paired-binary")
    if effect == (other if is_difference else 0):
        raise UserError(f"effect must differ from none, got {effect}")
    if design == "one-rate":
        spread = za * math.sqrt(other * (1 - other)) + zb * math.sqrt(effect * (1 - effect))
        return (spread / (effect - other)) ** 2
    if design == "two-rates":
        h = 2 * math.asin(math.sqrt(effect)) - 2 * math.asin(math.sqrt(other))
        return 2 * ((za + zb) / h) ** 2
    if design == "paired-binary":
        changing, d = effect + other, effect - other
        return ((za * math.sqrt(changing) + zb * math.sqrt(changing - d**2)) / d) ** 2
    if design == "half-width":
        return za**2 * other * (1 - other) / effect**2
    groups = 1 if design == "paired-mean" else 2
    return _n_for_t(abs(effect), groups, power, alpha)


def design_effect(cluster_size: float, intraclass_correlation: float) -> float:
    """How many clustered items are worth one independent item: 1 + (m - 1) ICC."""
    return 1 + (cluster_size - 1) * intraclass_correlation


def _n_for_t(effect: float, groups: int, power: float, alpha: float) -> float:
    """Items per group at which the two-sided t test reaches the power."""

    def shortfall(n: float) -> float:
        freedom = groups * (n - 1)
        edge = student.isf(alpha / 2, freedom)
        shift = effect * math.sqrt(n / groups)
        return float(nct.sf(edge, freedom, shift) + nct.cdf(-edge, freedom, shift)) - power

    guess = max(4.0, 2 * groups * (10 / effect**2))
    return float(brentq(shortfall, 1.5, guess, xtol=1e-8))
