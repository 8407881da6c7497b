"""Signs that preference training has gone too far: likelihood, top-k entropy and mass, diversity.

Source: Shi et al. 2024, arXiv 2410.11677. The paper names the two signs in words; the rule that
tells when they show, its tolerances and its patience are ours.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from torch import Tensor

from trueup.errors import UserError, check_at_least, check_between

TOP_K = 10  # Shi et al. 2024, section 3
BITS = math.log(2)
MASS_TOLERANCE = 0.01  # half of it raises a false alarm in a tiny world


class OveroptimisationMetrics(NamedTuple):
    """One evaluation: means over examples of each example's mean over its positions.

    Units: chosen_likelihood in nats per token, entropy_bits in bits, mass a share; all [].
    """

    chosen_likelihood: Tensor
    entropy_bits: Tensor
    mass: Tensor


class TokenStatistics(NamedTuple):
    """Top-k entropy in bits and top-k mass of every position, [S] each."""

    entropy_bits: Tensor
    mass: Tensor


class Tolerances(TypedDict, total=False):
    """The keywords of `overoptimisation_flags`."""

    entropy_tolerance: float
    mass_tolerance: float
    patience: int
    smoothing: float


@dataclass(frozen=True, kw_only=True)
class OveroptimisationFlags:
    """Which of the two signs a series of evaluations shows, by numbers counted from 0.

    Fields: entropy_turned, the evaluation at which a risen entropy was seen to fall; mass_fell, the
            one at which mass was seen to leave the top k; None where it did not happen.
            entropy_never_rose: it fell, but had its highest value before training.
            suggested_index is the last good evaluation, None where no sign shows.
    """

    entropy_turned: int | None
    mass_fell: int | None
    entropy_never_rose: bool
    suggested_index: int | None

    def __str__(self) -> str:
        return self.told(range(1 + max(self.entropy_turned or 0, self.mass_fell or 0)))

    def told(self, steps: Sequence[int]) -> str:
        """The line, with the training step of each evaluation in place of its number."""
        signs = []
        if self.entropy_turned is not None:
            signs.append(f"entropy turned by {steps[self.entropy_turned]}")
        if self.entropy_never_rose:
            signs.append("entropy never rose")
        if self.mass_fell is not None:
            signs.append(f"top-k mass fell by {steps[self.mass_fell]}")
        if self.suggested_index is not None:
            signs.append(f"best {steps[self.suggested_index]}")
        return f"over-optimisation: {', '.join(signs) or 'no sign'}"


@dataclass(frozen=True, kw_only=True)
class OveroptimisationReport:
    """The series of a whole training run, and what they show.

    Shapes: steps, chosen_likelihood, entropy_bits, mass: one entry per evaluation, the first one
            before training.
    """

    steps: Sequence[int]
    chosen_likelihood: Sequence[float]
    entropy_bits: Sequence[float]
    mass: Sequence[float]
    flags: OveroptimisationFlags
    name: ClassVar[str] = "over-optimisation"

    @property
    def suggested_step(self) -> int | None:
        """The training step to go back to, None where no sign shows."""
        index = self.flags.suggested_index
        return None if index is None else self.steps[index]

    @property
    def is_displaced(self) -> bool:
        """Whether the chosen completions ended less likely than they began."""
        return self.chosen_likelihood[-1] < self.chosen_likelihood[0]

    def __str__(self) -> str:
        first, last = self.chosen_likelihood[0], self.chosen_likelihood[-1]
        return f"{self.flags.told(self.steps)}; chosen {first:.3f} -> {last:.3f} nats per token"


def top_k_entropy(logits: Tensor, k: int, renormalize: bool = True) -> Tensor:
    """Entropy in bits of the k likeliest next tokens: how many answers are still open.

    H = -sum_{i <= k} q_i log2 q_i;  q_i = p_i / mass, or p_i itself where not renormalized
    H_raw = mass * H_renormalized - mass * log2 mass

    Shapes: logits [..., V] -> [...], in float32 or better.
    Fields: k >= 1, above V it is V; renormalize keeps entropy and mass apart. The paper leaves
            open which is meant; the default is ours.
    Raises: UserError where k is below 1.
    """
    top, total = _top_and_total(logits, k)
    return _entropy_bits(top, total, renormalize)


def top_k_mass(logits: Tensor, k: int) -> Tensor:
    """The probability that the k likeliest next tokens share, [..., V] -> [...]."""
    top, total = _top_and_total(logits, k)
    return (top.logsumexp(-1) - total).exp()


def top_k_statistics(
    logits: Iterable[Tensor], k: int = TOP_K, renormalize: bool = True
) -> TokenStatistics:
    """`top_k_entropy` and `top_k_mass` of logits that come a few rows at a time.

    Shapes: parts [n, V] of at least one tensor -> [S] each, S rows in the order of the stream.
    Raises: UserError where k is below 1.
    """
    parts = []
    for rows in logits:
        top, total = _top_and_total(rows, k)
        mass = (top.logsumexp(-1) - total).exp()
        parts.append((_entropy_bits(top, total, renormalize), mass))
    return TokenStatistics(*map(torch.cat, zip(*parts, strict=True)))


def overoptimisation_metrics(
    logits: Tensor,
    chosen_token_logps: Tensor,
    chosen_mask: Tensor,
    k: int = TOP_K,
    renormalize: bool = True,
) -> OveroptimisationMetrics:
    """Likelihood, top-k entropy and mass of the policy on chosen completions, teacher-forced.

    Shapes: logits [B, T, V], chosen_token_logps and chosen_mask [B, T], all shifted already:
            position t predicts the token whose log-probability stands at t.
    Edges:  an example without a position does not count; NaN where none has one.
    """
    mask = chosen_mask.bool()
    return OveroptimisationMetrics(
        _mean_of_means(chosen_token_logps, mask),
        _mean_of_means(top_k_entropy(logits, k, renormalize), mask),
        _mean_of_means(top_k_mass(logits, k), mask),
    )


def expectation_adjusted_distinct(
    sequences: Sequence[Sequence[int]], n: int | Sequence[int], vocab_size: int
) -> float:
    """Distinct n-grams over as many as random text of that length would have: diversity.

    EAD_n = N_n / (V * (1 - ((V - 1) / V)^C_n));  N_n distinct n-grams, C_n all, V vocab_size

    Fields: sequences holds one output per prompt; of several orders n the mean is taken over those
            that have an n-gram.
    Edges:  above 1 by about (C_n - 1) / (2 V) where all differ; NaN where there is no n-gram.
    Raises: UserError where n or vocab_size is below 1.
    """
    orders = [n] if isinstance(n, int) else list(n)
    check_at_least(1, vocab_size=vocab_size, n=min(orders, default=0))
    values = []
    for order in orders:
        grams = [
            tuple(sequence[start : start + order])
            for sequence in sequences
            for start in range(len(sequence) - order + 1)
        ]
        if grams:
            expected = vocab_size * (1 - (1 - 1 / vocab_size) ** len(grams))
            values.append(len(set(grams)) / expected)
    return sum(values) / len(values) if values else math.nan


def win_probability(rewards: ArrayLike, competitor_rewards: ArrayLike) -> NDArray[np.float64]:
    """Bradley and Terry's probability that an output beats the competitor's, one per prompt.

    P_win = sigmoid(rewards - competitor_rewards); `trueup.stats.mean` of it has an interval.
    A proxy: the rewards must not come from the model that training was rewarded by.
    """
    ours, theirs = (np.asarray(each, dtype=np.float64) for each in (rewards, competitor_rewards))
    wins: NDArray[np.float64] = np.asarray(expit(ours - theirs))
    return wins


def overoptimisation_flags(
    entropy_bits: Sequence[float],
    mass: Sequence[float],
    entropy_tolerance: float = 0.02,
    mass_tolerance: float = MASS_TOLERANCE,
    patience: int = 2,
    smoothing: float = 0.0,
) -> OveroptimisationFlags:
    """Whether entropy, once risen, has turned, and whether mass has left the top k.

    entropy turned: `patience` evaluations in a row below the highest so far - entropy_tolerance,
                    where the highest so far is not the first; suggests the highest
    mass fell     : `patience` evaluations in a row below the first - mass_tolerance; suggests the
                    last one before that is not

    Fields: smoothing in [0, 1) is the weight of the past, x_t = smoothing * x_{t-1} + (1 -
            smoothing) * x_t; 0 is none, 0.5 suits noisy series.
    Edges:  where both signs show, the earlier suggestion is given.
    Raises: UserError where the series differ in length, are empty or hold no finite number.
    """
    check_at_least(0, entropy_tolerance=entropy_tolerance, mass_tolerance=mass_tolerance)
    check_at_least(1, patience=patience)
    check_between(0, math.nextafter(1, 0), smoothing=smoothing)
    if len(entropy_bits) != len(mass) or not len(mass):
        raise UserError(
            f"entropy_bits and mass must have one length, got {len(entropy_bits)} and {len(mass)}"
        )
    if not np.isfinite([*entropy_bits, *mass]).all():
        raise UserError("entropy_bits and mass must be finite; a training that diverged has none")
    entropies, masses = _smoothed(entropy_bits, smoothing), _smoothed(mass, smoothing)
    tops = [entropies.index(max(entropies[: t + 1])) for t in range(len(entropies))]
    has_fallen = [
        h < entropies[top] - entropy_tolerance for h, top in zip(entropies, tops, strict=True)
    ]
    is_thin = [m < masses[0] - mass_tolerance for m in masses]
    falls = ends_of_runs(has_fallen, patience)
    turned = next((t for t in falls if tops[t] > 0), None)
    fell = next(iter(ends_of_runs(is_thin, patience)), None)
    suggestions = [] if turned is None else [tops[turned]]
    if fell is not None:
        suggestions.append(max(s for s in range(fell) if not is_thin[s]))
    return OveroptimisationFlags(
        entropy_turned=turned,
        mass_fell=fell,
        entropy_never_rose=turned is None and bool(falls),
        suggested_index=min(suggestions, default=None),
    )


def overoptimisation_report(
    steps: Sequence[int],
    evaluations: Sequence[OveroptimisationMetrics],
    **tolerances: Unpack[Tolerances],
) -> OveroptimisationReport:
    """The evaluations of some training steps as series, with what they show.

    Raises: UserError where steps do not increase, or there is not one for each evaluation.
    """
    if len(steps) != len(evaluations) or any(b <= a for a, b in pairwise(steps)):
        raise UserError(
            f"steps must increase, one for each of {len(evaluations)} evaluations, got {[*steps]}"
        )
    likelihoods, entropies, masses = ([float(e[i]) for e in evaluations] for i in range(3))
    return OveroptimisationReport(
        steps=steps,
        chosen_likelihood=likelihoods,
        entropy_bits=entropies,
        mass=masses,
        flags=overoptimisation_flags(entropies, masses, **tolerances),
    )


def ends_of_runs(signs: Sequence[bool], length: int) -> list[int]:
    """The places at which at least `length` signs in a row, this one the last, are True."""
    return [t for t in range(length - 1, len(signs)) if all(signs[t + 1 - length : t + 1])]


def _top_and_total(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits [..., k], and the log of all of them summed [...]."""
    check_at_least(1, k=k)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.topk(min(k, wide.shape[-1]), sorted=False).values, wide.logsumexp(-1)


def _entropy_bits(top: Tensor, total: Tensor, renormalize: bool) -> Tensor:
    """Entropy of the top tokens; a token without probability adds nothing."""
    logps = top.log_softmax(-1) if renormalize else top - total[..., None]
    entropy: Tensor = torch.special.entr(logps.exp()).sum(-1) / BITS
    return entropy


def _mean_of_means(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over rows of each row's mean where the mask is True, [B, T] -> []."""
    lengths = mask.sum(-1)
    sums = torch.where(mask, values, 0).sum(-1)
    return (sums / lengths.clamp(min=1))[lengths > 0].mean()


def _smoothed(values: Sequence[float], smoothing: float) -> list[float]:
    """The exponential moving average that begins at the first value."""
    result: list[float] = []
    for value in values:
        before = result[-1] if result else float(value)
        result.append(smoothing * before + (1 - smoothing) * float(value))
    return result
