"""Win rates of a judge's votes: position averaged out, length controlled."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from trueup.stats.estimate import Array, Estimate
from trueup.stats.proportions import proportion
from trueup.stats.resampling import chunks, mean

_NEWTON_STEPS = 30


@dataclass(frozen=True, kw_only=True)
class LengthControlled:
    """A win rate as judged, and as it would be at equal lengths; all rates in percent.

    Fields: raw is the mean preference; discrete counts each preference above half as a win and half
            as half a win; controlled is the length-controlled rate; theta, phi, psi the fit.
    """

    raw: Estimate
    discrete: Estimate
    controlled: Estimate
    theta: float
    phi: float
    psi: float


def lc_winrate(
    preference: ArrayLike,
    length_difference: ArrayLike,
    difficulty: ArrayLike | None = None,
    *,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> LengthControlled:
    """AlpacaEval 2's length-controlled win rate, with a bootstrap of the whole fit.

    logit P(model preferred) = theta + phi tanh(length_difference / sd) + psi difficulty
    controlled = 100 mean sigmoid(theta + psi difficulty):  the length term set to 0
    Shapes: preference [N] in [0, 1] (AlpacaEval's 1 to 2, minus 1); length_difference [N] =
            baseline's length minus the model's; difficulty [N], left out: the minimal form.
    Edges:  all lengths equal: controlled = raw. A fit without an end (separation): NaN.
    Source: Dubois et al. 2024, arXiv 2404.04475; fitted here without their penalty and gamed
            copies, and with honest errors: theirs are the spread of the predictions only.
    """
    p = np.asarray(preference, dtype=np.float64)
    gap = np.asarray(length_difference, dtype=np.float64)
    hard = np.zeros_like(p) if difficulty is None else np.asarray(difficulty, dtype=np.float64)
    member = np.arange(len(p))
    if clusters is not None:
        member = np.unique(np.asarray(clusters), return_inverse=True)[1]
    fit, value = _fits(p, gap, hard, np.ones((1, len(p))))
    n_units = int(member.max()) + 1
    even = np.full(n_units, 1 / n_units)
    draws = np.concatenate(
        [
            _fits(p, gap, hard, rng.multinomial(n_units, even, size=size)[:, member].astype(float))[
                1
            ]
            for size in chunks(resamples, 9 * len(p))
        ]
    )
    drawn = draws[np.isfinite(draws)]
    is_defined = len(drawn) >= 0.95 * resamples and np.ptp(drawn) > 0 and np.isfinite(value[0])
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(drawn, tails) if is_defined else (math.nan, math.nan)
    kind = "bootstrap" if clusters is None else f"cluster bootstrap, {n_units} clusters"
    wins = np.where(p == 0.5, 0.5, p > 0.5)

    def rate(percent: Array, metric: str) -> Estimate:
        return mean(percent, clusters=clusters, rng=rng, metric=metric, level=level)

    return LengthControlled(
        raw=rate(100 * p, "win rate"),
        discrete=rate(100 * wins, "discrete win rate"),
        controlled=Estimate(
            metric="length-controlled win rate",
            value=float(value[0]),
            low=float(low),
            high=float(high),
            level=level,
            n=len(p),
            method=f"{kind} of the whole fit, percentile, {resamples} resamples",
        ),
        theta=float(fit[0, 0]),
        phi=float(fit[0, 1]),
        psi=float(fit[0, 2]),
    )


def swapped_winrate(
    scores: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
    level: float = 0.95,
) -> tuple[Estimate, Estimate]:
    """Win rate of pairs judged in both orders, and the share of pairs judged alike in both.

    Shapes: scores [N, 2], the same model's score under either order; the two are one item.
    """
    both = np.asarray(scores, dtype=np.float64)
    rate = mean(both.mean(axis=1), clusters=clusters, rng=rng, metric="win rate", level=level)
    is_same = both[:, 0] == both[:, 1]
    if clusters is None:
        return rate, proportion(int(is_same.sum()), len(both), metric="consistency", level=level)
    return rate, mean(is_same, clusters=clusters, rng=rng, metric="consistency", level=level)


def _fits(p: Array, gap: Array, hard: Array, weights: Array) -> tuple[Array, Array]:
    """Newton's logistic fits (theta, phi, psi) [b, 3] for weights [b, N], and the rates [b].

    A column without variance keeps a coefficient of 0; a fit that does not settle is NaN.
    """
    total = weights.sum(axis=1)
    centred = gap - (weights @ gap / total)[:, None]
    deviation = np.sqrt((weights * centred**2).sum(axis=1) / np.maximum(total - 1, 1))[:, None]
    length = np.tanh(gap / np.where(deviation > 0, deviation, np.inf))  # [b, N]
    x = np.stack([np.ones_like(length), length, np.broadcast_to(hard, length.shape)], axis=2)
    fit, step = np.zeros((len(weights), 3)), np.zeros((len(weights), 3))
    for _ in range(_NEWTON_STEPS):
        probability = expit((x @ fit[:, :, None])[:, :, 0])
        slope = ((weights * (p - probability))[:, None, :] @ x)[:, 0]
        bend = x.transpose(0, 2, 1) @ (x * (weights * probability * (1 - probability))[:, :, None])
        step = np.linalg.solve(bend + 1e-9 * np.eye(3), slope[:, :, None])[:, :, 0]
        fit = fit + np.clip(step, -5, 5)
    fit[(np.abs(step).max(axis=1) > 1e-6) | (np.abs(fit).max(axis=1) > 50)] = np.nan
    predicted = expit(fit[:, :1] + fit[:, 2:] * hard)
    return fit, 100 * (weights * predicted).sum(axis=1) / total
