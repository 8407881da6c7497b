"""The random-effects model that combines effect sizes of many draws into one."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from trueup.stats.estimate import Array


@dataclass(frozen=True)
class RandomEffects:
    """The combined effect size, its standard error, tau, z, and the upper tail of z."""

    ces: Array
    error: Array
    tau: Array
    z: Array
    p_value: Array


def random_effects(d: Array, variances: Array) -> RandomEffects:
    """The random-effects model of effect sizes [..., N] with variances [..., N].

    Edges:  an effect without a value does not count.
    Source: DerSimonian and Laird 1986.
    """
    is_there = np.isfinite(d) & np.isfinite(variances)
    w = np.where(is_there, 1 / np.where(is_there, variances, 1.0), 0.0)
    known = np.where(is_there, d, 0.0)
    total = w.sum(axis=-1)
    q = (w * known**2).sum(axis=-1) - (w * known).sum(axis=-1) ** 2 / total
    c = total - (w**2).sum(axis=-1) / total
    tau_squared = np.maximum(0.0, (q - (is_there.sum(axis=-1) - 1)) / c)
    v = np.where(is_there, 1 / (np.where(is_there, variances, 1.0) + tau_squared[..., None]), 0.0)
    ces = (v * known).sum(axis=-1) / v.sum(axis=-1)
    error = 1 / np.sqrt(v.sum(axis=-1))
    return RandomEffects(ces, error, np.sqrt(tau_squared), ces / error, ndtr(-ces / error))
