"""What PORTIA did to a judge: consistency, fixes, breakage, ties and agreement, with intervals."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike

from trueup.judging.verdicts import Verdict
from trueup.stats import Estimate, Labels, bootstrap, proportion
from trueup.stats.estimate import Array


def consistency_rate(consistent: ArrayLike, **labels: Unpack[Labels]) -> Estimate:
    """The share of pairs with the same verdict in both orders.

    A judge that always says "tie" reaches 1: read `tie_rate`, `breakage` and `agreement_rate` too.
    """
    return _share(np.asarray(consistent, dtype=np.float64), "consistency", 1.0, labels)


def fix_rate(before: ArrayLike, after: ArrayLike, **labels: Unpack[Labels]) -> Estimate:
    """The share of inconsistent pairs that became consistent; NaN where there were none."""
    return _share(fixed(before, after), "fix rate", 1.0, labels)


def breakage(
    before: ArrayLike,
    after: ArrayLike,
    verdicts_before: Sequence[Verdict | None],
    verdicts_after: Sequence[Verdict | None],
    **labels: Unpack[Labels],
) -> Estimate:
    """The share of consistent pairs that became inconsistent or changed their verdict.

    0 by construction where a plain check comes first: measure it without that stage.
    """
    numbers = broken(before, after, verdicts_before, verdicts_after)
    return _share(numbers, "breakage", 0.0, labels)


def tie_rate(verdicts: Sequence[Verdict | None], **labels: Unpack[Labels]) -> Estimate:
    """The share of ties among the verdicts that could be read."""
    return _share(tied(verdicts), "tie rate", None, labels)


def agreement_rate(
    verdicts: Sequence[Verdict | None], truths: Sequence[Verdict | None], **labels: Unpack[Labels]
) -> Estimate:
    """The share of verdicts that are the label's, ties too; one that was not read is none."""
    return _share(agreeing(verdicts, truths), "agreement", 1.0, labels)


def relative_improvement(
    before: ArrayLike, after: ArrayLike, *, rng: np.random.Generator, **labels: Unpack[Labels]
) -> Estimate:
    """How much consistency grew: (rate after - rate before) / rate before, with a bootstrap."""
    labels.setdefault("metric", "relative improvement")
    terms = np.stack([np.asarray(side, dtype=np.float64) for side in (before, after)], axis=1)
    return bootstrap(terms, lambda sums: sums[..., 1] / sums[..., 0] - 1, rng=rng, **labels)


def fixed(before: ArrayLike, after: ArrayLike) -> Array:
    """1 for each inconsistent pair that became consistent, 0 for others, NaN where it was, [N]."""
    was, now = np.asarray(before, dtype=bool), np.asarray(after, dtype=np.float64)
    return np.where(was, np.nan, now)


def broken(
    before: ArrayLike,
    after: ArrayLike,
    verdicts_before: Sequence[Verdict | None],
    verdicts_after: Sequence[Verdict | None],
) -> Array:
    """1 for each consistent pair that lost that or its verdict, NaN where it was not, [N]."""
    was, now = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    pairs = zip(verdicts_before, verdicts_after, strict=True)
    moved = np.array([one != other for one, other in pairs], dtype=bool)
    return np.where(was, (~now | moved).astype(np.float64), np.nan)


def tied(verdicts: Sequence[Verdict | None]) -> Array:
    """1 for a tie, 0 for a winner, NaN for a verdict that could not be read, [N]."""
    return np.array([np.nan if one is None else float(one == "tie") for one in verdicts])


def agreeing(verdicts: Sequence[Verdict | None], truths: Sequence[Verdict | None]) -> Array:
    """1 where a verdict is the label's, 0 where not, NaN where there is no label, [N]."""
    pairs = zip(verdicts, truths, strict=True)
    return np.array([np.nan if truth is None else float(one == truth) for one, truth in pairs])


def _share(numbers: Array, metric: str, ideal: float | None, labels: Labels) -> Estimate:
    """The share of ones among the numbers that count, with Wilson's interval."""
    counted = numbers[~np.isnan(numbers)]
    named: Labels = {"metric": metric, "ideal": ideal, **labels}
    return proportion(int(counted.sum()), len(counted), **named)
