"""How near two distributions of answers are: Jensen-Shannon, or Wasserstein for ordered options."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import jensenshannon

from trueup.stats.estimate import Array

Distance = Literal["jsd", "js_distance", "w1"]
DISTANCES: tuple[Distance, ...] = ("jsd", "js_distance", "w1")


def opinion_similarity(model: ArrayLike, group: ArrayLike, distance: Distance = "jsd") -> Array:
    """How near a model's answers are to a group's, from 0 (disjoint) to 1 (equal).

    jsd:          1 - JSD(P_m, P_g), the divergence with logarithms to base 2
    js_distance:  1 - sqrt(JSD(P_m, P_g)), always lower: the two must not be mixed up
    w1:           1 - W1 / (K - 1),  W1 = sum over k < K of |cumulative P_m - cumulative P_g|;
                  for ordered options only, which stand a step apart
    Shapes: distributions [..., K], each adding up to 1; K at least 2.
    Source: GlobalOpinionQA (js_distance), OpinionQA (w1), as named by Yao et al. 2023, arXiv
            2308.12014; base 2, which keeps [0, 1], and jsd as the default are ours.
    """
    p, q = np.asarray(model, dtype=np.float64), np.asarray(group, dtype=np.float64)
    if distance == "w1":
        apart = np.abs(np.cumsum(p, axis=-1) - np.cumsum(q, axis=-1))[..., :-1].sum(axis=-1)
        return np.asarray(1 - apart / (p.shape[-1] - 1))
    root = np.nan_to_num(jensenshannon(p, q, base=2, axis=-1))  # NaN where rounding falls below 0
    return np.asarray(1 - (root if distance == "js_distance" else root**2))
