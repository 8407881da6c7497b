"""Discretion on arrays: when principles agree, when an annotator defies them, which ones it obeys.

Everywhere P [N, m] holds what each principle prefers, +1 for the first response, -1 for the second,
NaN for neither; a [N] is an annotator's preference in the same signs, 0 or NaN for none.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from trueup.stats.estimate import Array

Kind = Literal["indifference", "conflict", "consensus"]
KINDS: tuple[Kind, ...] = ("indifference", "conflict", "consensus")

_STEPS = 100
_LONGEST_STEP = 2.0  # nats; a whole Newton step may overshoot
_RIDGE = 1e-5  # per game, where the games alone leave a priority without bound


def agreement_types(principles: ArrayLike) -> NDArray[np.str_]:
    """The kind of each comparison, [N]: none speaks, two contradict each other, or all agree."""
    table = np.asarray(principles, dtype=np.float64)
    first, second = (table > 0).any(axis=1), (table < 0).any(axis=1)
    return np.select([first & second, first | second], ["conflict", "consensus"], "indifference")


def consensus(principles: ArrayLike) -> Array:
    """What the principles prefer where all that speak agree, [N]; NaN elsewhere."""
    table = np.asarray(principles, dtype=np.float64)
    agreed = agreement_types(table) == "consensus"
    return np.where(agreed, np.sign(np.nansum(table, axis=1)), np.nan)


def defiance(agreed: ArrayLike, annotator: ArrayLike) -> Array:
    """1 where the annotator goes against a consensus [N], 0 with it, NaN without either of both."""
    product = np.asarray(agreed, dtype=np.float64) * np.asarray(annotator, dtype=np.float64)
    return np.where(np.isnan(product) | (product == 0), np.nan, (product < 0).astype(np.float64))


def discretion_arbitrariness(principles: ArrayLike, annotator: ArrayLike) -> float:
    """DA = share of consensus rows with a preference that goes against it; NaN without such rows.

    DA(a) + DA(-a) = 1; a coin has 0.5.
    """
    against = defiance(consensus(principles), annotator)
    counted = against[~np.isnan(against)]
    return float(counted.mean()) if len(counted) else float("nan")


def win_terms(principles: ArrayLike, annotator: ArrayLike) -> Array:
    """Which principle beats which in each row, [N, m, m]: it prefers what the annotator prefers."""
    sides = np.asarray(principles, dtype=np.float64) * np.asarray(annotator)[:, None]
    won, lost = (sides > 0).astype(np.float64), (sides < 0).astype(np.float64)
    beaten: Array = won[:, :, None] * lost[:, None, :]
    return beaten


def principle_wins(principles: ArrayLike, annotator: ArrayLike) -> Array:
    """How often principle i beats j where they contradict each other, [m, m].

    wins = (P+ & a+)^T P- + (P- & a-)^T P+;   games n_ij = wins_ij + wins_ji
    """
    sides = np.asarray(principles, dtype=np.float64) * np.asarray(annotator)[:, None]
    wins: Array = (sides > 0).astype(np.float64).T @ (sides < 0).astype(np.float64)
    return wins


def principle_supremacy(principles: ArrayLike, annotator: ArrayLike) -> Array:
    """PS_ij = wins_ij / n_ij, [m, m]; NaN without a conflict of the two and on the diagonal."""
    wins = principle_wins(principles, annotator)
    games = wins + wins.T
    return np.divide(wins, games, out=np.full_like(wins, np.nan), where=games > 0)


def principle_priority(wins: ArrayLike) -> Array:
    """Bradley-Terry priorities w* of principles in nats, [..., m], centred over the finite ones.

    w* = argmax sum_ij wins_ij log sigmoid(w_i - w_j)
    Those that won all of their games have +inf, those that lost all -inf, found in one pass on the
    full table; they and their games are left out of the fit. No game, or none left: NaN.
    Shapes: wins [..., m, m]: many tables at a time, which a bootstrap needs. One table's fit equals
            `trueup.stats.bradley_terry` on the same games.
    Edges:  where some set of the others was never beaten from outside, a ridge of 1e-5 per game
            keeps it finite; `is_separated` tells.
    Source: Buyl et al. 2025, arXiv 2502.10441; Newton steps instead of their Adam. Their code has
            principles without a game win and lose always at once; here they are NaN.
    """
    inside, limits = _ends(np.asarray(wins, dtype=np.float64))
    member = _members(inside)
    ridge = np.where(_is_connected(inside, member), 0.0, _RIDGE * inside.sum(axis=(-2, -1)))
    fitted = _newton(inside, member, ridge[..., None])
    count = np.maximum(member.sum(axis=-1, keepdims=True), 1)
    centred = fitted - np.where(member, fitted, 0.0).sum(axis=-1, keepdims=True) / count
    return np.where(member, centred, limits)


def is_separated(wins: ArrayLike) -> NDArray[np.bool_]:
    """Whether the games leave a finite priority without bound, [...]."""
    inside, _ = _ends(np.asarray(wins, dtype=np.float64))
    return ~_is_connected(inside, _members(inside))


def discretion_discrepancy(first: ArrayLike, second: ArrayLike) -> Array:
    """DD = (1 - tau_b) / 2 between two orders of principles, [..., m] each, [...].

    0 is the same order, 0.5 unrelated, 1 reversed; without ties the share of pairs of principles
    that are ranked oppositely. A principle that is NaN in either is dropped from both. Infinite
    priorities keep their rank; several at one end are tied, which draws DD towards 0.5.
    Edges:  NaN where either order has no two principles apart.
    """
    a, b = np.broadcast_arrays(np.asarray(first, float), np.asarray(second, float))
    shared = ~(np.isnan(a) | np.isnan(b))
    above, below = np.triu_indices(a.shape[-1], 1)
    pairs = shared[..., above] & shared[..., below]
    one, two = (np.where(pairs, _order(side, above, below), 0) for side in (a, b))
    sizes = np.sqrt(np.abs(one).sum(axis=-1) * np.abs(two).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        tau: Array = (one * two).sum(axis=-1) / sizes
    return (1 - tau) / 2


def _order(side: Array, above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.int64]:
    """Sign of each pair's difference; infinities of one sign are equal."""
    i, j = side[..., above], side[..., below]
    return (i > j).astype(np.int64) - (i < j).astype(np.int64)


def _transposed(table: Array) -> Array:
    """Rows and columns changed, of many tables."""
    return np.swapaxes(table, -1, -2)


def _ends(wins: Array) -> tuple[Array, Array]:
    """The games among principles that neither won nor lost all, and the others' priorities."""
    won, lost = wins.sum(axis=-1), wins.sum(axis=-2)
    between = (won > 0) & (lost > 0)
    limits = np.where(
        won > 0, np.where(lost > 0, np.nan, np.inf), np.where(lost > 0, -np.inf, np.nan)
    )
    return wins * (between[..., :, None] & between[..., None, :]), limits


def _members(inside: Array) -> NDArray[np.bool_]:
    """Which principles have a game, [..., m]."""
    return np.asarray((inside + _transposed(inside)).any(axis=-1), dtype=np.bool_)


def _is_connected(inside: Array, member: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether every member beat every other one, or one who did, and so on."""
    size = inside.shape[-1]
    reach = ((inside > 0) | np.eye(size, dtype=bool)).astype(np.float64)
    for _ in range(max(1, size - 1).bit_length()):
        reach = ((reach @ reach) > 0).astype(np.float64)
    wanted = member[..., :, None] & member[..., None, :]
    return np.asarray((~wanted | (reach > 0)).all(axis=(-2, -1)))


def _newton(inside: Array, member: NDArray[np.bool_], ridge: Array) -> Array:
    """The priorities of greatest likelihood, [..., m]; members' sum stays 0."""
    games, won = inside + _transposed(inside), inside.sum(axis=-1)
    size = inside.shape[-1]
    # fixes what the games leave open: the common shift, and whoever has no game
    fixed = (member[..., :, None] & member[..., None, :]) + np.eye(size) * ~member[..., None]
    w = np.zeros(member.shape)
    for _ in range(_STEPS):
        chance = expit(w[..., :, None] - w[..., None, :])
        slope = won - (games * chance).sum(axis=-1) - ridge * w
        weights = games * chance * (1 - chance)
        diagonal = weights.sum(axis=-1) + ridge
        curvature = np.eye(size) * diagonal[..., None] - weights + fixed
        step = np.linalg.solve(curvature, (slope * member)[..., None])[..., 0]
        longest = np.abs(step).max(axis=-1, keepdims=True, initial=0.0)
        w = w + step * np.minimum(1.0, _LONGEST_STEP / np.maximum(longest, 1e-300))
        if longest.max(initial=0.0) < 1e-11:
            break
    return w
