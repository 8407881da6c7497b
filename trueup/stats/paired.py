"""Before against after on the same items: the difference, its interval and a test of no change."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, chdtrc, stdtr
from scipy.stats import PermutationMethod, wilcoxon

from trueup.errors import UserError
from trueup.stats.effects import cohen_dz
from trueup.stats.estimate import Array, normal_quantile
from trueup.stats.resampling import (
    RESAMPLES,
    Value,
    bootstrap_interval,
    chunks,
    cluster_sums,
    mean_of_sums,
    needed,
    quietly,
    student_interval,
)

_EXACT_UNITS = 16  # up to 2^16 swaps are all tried


@dataclass(frozen=True, kw_only=True)
class PairedResult:
    """After minus before on the same items, and how likely so large a change is by chance.

    Fields: n_pairs counts the pairs behind it; test names the test and how the bounds were made;
            effect is the effect size that goes with it (odds ratio, dz), NaN where there is none.
    """

    delta: float
    low: float
    high: float
    p_value: float
    n_pairs: int
    test: str
    effect: float = math.nan


def paired_binary(
    before: ArrayLike,
    after: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
    method: Literal["exact", "mid-p", "chi2", "chi2-corrected"] = "exact",
    level: float = 0.95,
) -> PairedResult:
    """Change of a share on the same items: McNemar's test and the interval of the difference.

    b = right only after, c = right only before;  delta = (b - c) / n,
    low, high = delta -+ z sqrt(b + c - (b - c)^2 / n) / n;  effect = odds ratio b / c
    Shapes: before, after [N] of 0 and 1; a pair with a NaN does not count.
    Edges:  where that root is 0 (no discordant pair, or every pair), the bounds are those of
            Bonett and Price, which add one pair to b and to c. No pairs: NaN.
            With clusters the items are not independent: `paired_mean` takes over.
    Raises: UserError where a value is neither 0 nor 1.
    Source: McNemar 1947; Bonett and Price 2012.
    """
    x, y = _complete_pairs(before, after)
    graded = [side[(side != 0) & (side != 1)] for side in (x, y)]
    for value in np.concatenate(graded)[:1]:
        raise UserError(f"paired_binary takes 0 and 1, got {value:g}; use paired_mean")
    if clusters is not None:
        return paired_mean(before, after, clusters=clusters, rng=needed(rng), level=level)
    n = len(x)
    if n == 0:
        return _no_pairs("McNemar")
    b, c = int(((y == 1) & (x == 0)).sum()), int(((x == 1) & (y == 0)).sum())
    delta, variance, how = (b - c) / n, b + c - (b - c) ** 2 / n, "Wald"
    centre, scale = delta, n
    if variance <= 0:
        centre, scale, how = (b - c) / (n + 2), n + 2, "Bonett-Price"
        variance = b + c + 2 - (b - c) ** 2 / scale
    half = normal_quantile(level) * math.sqrt(variance) / scale
    return PairedResult(
        delta=delta,
        low=max(centre - half, -1.0),
        high=min(centre + half, 1.0),
        p_value=mcnemar_p(b, c, method),
        n_pairs=n,
        test=f"McNemar {method}, {how} interval",
        effect=b / c if c else (math.inf if b else math.nan),
    )


def mcnemar_p(
    only_after: int,
    only_before: int,
    method: Literal["exact", "mid-p", "chi2", "chi2-corrected"] = "exact",
) -> float:
    """The p-value of the two discordant counts: 1 where there are none.

    exact:  2 P(X <= min), X ~ Bin(b + c, 1/2), cut at 1.   mid-p: 2 P(X < min) + P(X = min).
    chi2:   (b - c)^2 / (b + c) on one degree of freedom; corrected: (|b - c| - 1)^2 instead.
    """
    discordant, smaller = only_after + only_before, min(only_after, only_before)
    if discordant == 0 or (method == "mid-p" and only_after == only_before):
        return 1.0
    if method == "exact":
        return min(1.0, 2 * float(bdtr(smaller, discordant, 0.5)))
    if method == "mid-p":
        below = float(bdtr(smaller - 1, discordant, 0.5)) if smaller else 0.0
        return below + float(bdtr(smaller, discordant, 0.5))
    distance = abs(only_after - only_before) - (1 if method == "chi2-corrected" else 0)
    return float(chdtrc(1, max(distance, 0) ** 2 / discordant))


def paired_mean(
    before: ArrayLike,
    after: ArrayLike,
    *,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> PairedResult:
    """Change of a mean on the same items, by flipping the signs of the differences.

    p = share of sign flips e with |sum e_i d_i| >= |sum d_i|, all of them up to 16 units, else
        (1 + hits) / (1 + resamples);  bounds: Student's, or the cluster bootstrap's with clusters
    Shapes: before, after, clusters [N]; a pair with a NaN does not count; clusters flip whole.
    Edges:  fewer than two units, or differences that are all equal: bounds are NaN.
            effect = dz, the mean difference over its deviation.
    """
    both = np.stack([np.asarray(before, float), np.asarray(after, float)], axis=1)
    counts = ~np.isnan(both).any(axis=1)
    if not counts.any():
        return _no_pairs("sign flip")
    d = both[counts, 1] - both[counts, 0]
    terms = np.stack([d, np.ones_like(d)], axis=1)
    if clusters is None:
        delta, low, high = student_interval(d, level)
        how = "Student t interval"
    else:
        terms = cluster_sums(terms, np.asarray(clusters)[counts])
        delta, low, high, how = bootstrap_interval(terms, mean_of_sums, level, resamples, rng)
        how = f"{len(terms)} clusters, {how}"
    moves = terms[:, None, :1] * np.array([[0.0], [1.0]])  # [U, side, 1]: nothing, then d
    p_value, tried = _swap_p(moves, lambda sums: sums[..., 0], resamples, rng)
    test = f"sign flip {tried}, {how}"
    return PairedResult(
        delta=delta,
        low=low,
        high=high,
        p_value=p_value,
        n_pairs=len(d),
        test=test,
        effect=cohen_dz(d),
    )


def paired_statistic(
    before_terms: ArrayLike,
    after_terms: ArrayLike,
    value: Value,
    *,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> PairedResult:
    """Change of any function of sums on the same items: swap permutation and paired bootstrap.

    delta = value(sum of after) - value(sum of before)
    p = share of swaps of before and after, unit by unit, that move at least as far as the data
    Shapes: before_terms, after_terms [N, K]; clusters [N] are swapped and resampled whole.
    Edges:  a row with a NaN adds nothing to its own side; n_pairs counts the pairs with a side that
            counts. Bounds are NaN as in `bootstrap`.
    """
    sides = np.stack([np.asarray(before_terms, float), np.asarray(after_terms, float)], axis=1)
    is_absent = np.isnan(sides).any(axis=2)  # [N, side]
    sides[is_absent] = 0.0
    counts = ~is_absent.all(axis=1)
    sides, n_pairs = sides[counts], int(counts.sum())
    if n_pairs == 0:
        return _no_pairs("swap")
    n_terms = sides.shape[2]
    units = sides.reshape(n_pairs, 2 * n_terms)
    unit_name = ""
    if clusters is not None:
        units = cluster_sums(units, np.asarray(clusters)[counts])
        unit_name = f"{len(units)} clusters, "

    def change(sums: Array) -> Array:
        return value(sums[..., n_terms:]) - value(sums[..., :n_terms])

    delta, low, high, how = bootstrap_interval(units, change, level, resamples, rng)
    p_value, tried = _swap_p(units.reshape(len(units), 2, n_terms), value, resamples, rng)
    test = f"swap {tried}, {unit_name}{how}"
    return PairedResult(
        delta=delta, low=low, high=high, p_value=p_value, n_pairs=n_pairs, test=test
    )


def paired_ranks(
    before: ArrayLike, after: ArrayLike, *, rng: np.random.Generator, level: float = 0.95
) -> PairedResult:
    """Wilcoxon's signed-rank test, for changes with outliers or of which only ranks mean something.

    delta = median of the averages (d_i + d_j) / 2, i <= j (Hodges and Lehmann), and its bounds the
            averages that the signed-rank test does not reject
    Edges:  ties or zeros among the differences: the test permutes signs instead of using the exact
            table. Differences that are all equal: bounds are NaN.
    """
    x, y = _complete_pairs(before, after)
    d = y - x
    n = len(d)
    if n == 0:
        return _no_pairs("Wilcoxon signed rank")
    averages = np.sort(((d[:, None] + d[None, :]) / 2)[np.triu_indices(n)])
    z = normal_quantile(level)
    cut = math.floor(len(averages) / 2 - z * math.sqrt(n * (n + 1) * (2 * n + 1) / 24))
    is_defined = cut >= 0 and np.ptp(d) > 0
    has_ties = len(np.unique(np.abs(d))) < n or bool((d == 0).any())
    p_value = 1.0
    if d.any() and has_ties:
        signs = PermutationMethod(n_resamples=RESAMPLES, rng=rng)
        p_value = float(wilcoxon(d, method=signs).pvalue)
    elif d.any():
        p_value = float(wilcoxon(d, method="auto").pvalue)
    return PairedResult(
        delta=float(np.median(averages)),
        low=float(averages[cut]) if is_defined else math.nan,
        high=float(averages[len(averages) - 1 - cut]) if is_defined else math.nan,
        p_value=p_value,
        n_pairs=n,
        test="Wilcoxon signed rank, Hodges-Lehmann interval",
    )


def equivalence(
    before: ArrayLike, after: ArrayLike, *, lowest: float, highest: float, alpha: float = 0.05
) -> PairedResult:
    """Is the mean change within [lowest, highest]? Two one-sided t tests; small p says it is.

    p = max(P(T > (mean - lowest) / se), P(T < (mean - highest) / se));  bounds at level 1 - 2 alpha
    Fields: highest = inf asks only for "not worse than".
    Edges:  fewer than two pairs, or no variance: p and bounds are NaN.
    Source: Schuirmann 1987.
    """
    x, y = _complete_pairs(before, after)
    d = y - x
    delta, low, high = student_interval(d, 1 - 2 * alpha)
    p_value = math.nan
    if not math.isnan(low):
        freedom = len(d) - 1
        error = float(d.std(ddof=1)) / math.sqrt(len(d))
        above = float(stdtr(freedom, -(delta - lowest) / error))
        p_value = max(above, float(stdtr(freedom, (delta - highest) / error)))
    test = f"equivalence within [{lowest:g}, {highest:g}], two one-sided t tests"
    return PairedResult(
        delta=delta,
        low=low,
        high=high,
        p_value=p_value,
        n_pairs=len(d),
        test=test,
        effect=cohen_dz(d),
    )


def _complete_pairs(before: ArrayLike, after: ArrayLike) -> tuple[Array, Array]:
    """Both sides of the pairs that have a number on either."""
    x, y = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    counts = ~(np.isnan(x) | np.isnan(y))
    return x[counts], y[counts]


def _no_pairs(test: str) -> PairedResult:
    """The result of nothing."""
    nan = math.nan
    return PairedResult(
        delta=nan, low=nan, high=nan, p_value=nan, n_pairs=0, test=f"{test}, no pairs"
    )


def _swap_p(
    sides: Array, value: Value, resamples: int, rng: np.random.Generator
) -> tuple[float, str]:
    """P-value of the change of `value` over swaps of the two sides of units [U, 2, K]."""
    before, after = sides.sum(axis=0)
    observed = abs(float(quietly(value, after) - quietly(value, before)))
    if math.isnan(observed):
        return math.nan, "undefined"
    moves = sides[:, 1] - sides[:, 0]
    moves = moves[(moves != 0).any(axis=1)]
    scale = float(np.abs(quietly(value, after)) + np.abs(quietly(value, before)))
    reach = observed - 1e-9 * max(observed, scale)  # equal up to rounding counts as equal
    is_exact = len(moves) <= _EXACT_UNITS
    hits = tried = 0
    for moved in _all_swaps(moves) if is_exact else _random_swaps(moves, resamples, rng):
        change = quietly(value, after - moved) - quietly(value, before + moved)
        hits += int((~(np.abs(change) < reach)).sum())  # a swap without a value counts against us
        tried += len(change)
    if is_exact:
        return hits / tried, "exact"
    return (1 + hits) / (1 + tried), f"{tried} draws"


def _all_swaps(moves: Array) -> Iterator[Array]:
    """What every subset of the moves [U, K] adds up to, [2^U, K]."""
    n = len(moves)
    is_swapped = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    yield is_swapped.astype(np.float64) @ moves


def _random_swaps(moves: Array, resamples: int, rng: np.random.Generator) -> Iterator[Array]:
    """What random halves of the moves [U, K] add up to, [b, K] at a time."""
    rows, repeats = np.unique(moves, axis=0, return_counts=True)
    for size in chunks(resamples, len(rows)):
        shape = (size, len(rows))
        if repeats.max() == 1:
            yield rng.integers(0, 2, size=shape, dtype=np.uint8).astype(np.float64) @ rows
        else:
            yield rng.binomial(repeats, 0.5, size=shape).astype(np.float64) @ rows
