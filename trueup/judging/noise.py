"""The noise floor: how often a judge gives the same verdict when it is asked the same again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trueup.data.messages import Prompt
from trueup.errors import check_at_least
from trueup.judging.judges import PairJudge
from trueup.judging.verdicts import Verdict
from trueup.stats import Estimate, mean, proportion


@dataclass(frozen=True, kw_only=True)
class RepeatNoise:
    """What repeated questions show of a judge.

    Fields: agreement is the floor below which a robustness tells something; unread counts the
            verdicts of `asked` that could not be read; verdicts [n][N] are those of every round.
    """

    agreement: Estimate
    unread: int
    asked: int
    verdicts: tuple[tuple[Verdict | None, ...], ...]

    def __str__(self) -> str:
        return f"{self.agreement}  unread {self.unread} of {self.asked}"


def repeat_noise(
    judge_of: Callable[[int], PairJudge],
    prompts: Sequence[Prompt],
    firsts: Sequence[str],
    seconds: Sequence[str],
    *,
    n: int = 5,
    level: float = 0.95,
) -> RepeatNoise:
    """Ask the same questions n times: the share of agreeing pairs of verdicts, a mean over items.

    agreement_i = sum over verdicts v of c_v (c_v - 1) / (m (m - 1)), c_v of m read verdicts say v
    A judge of two answers that says "first" with chance p_i has mean p_i^2 + (1 - p_i)^2 of it.
    Fields: judge_of makes the judge from a seed, 0 to n - 1: `lambda seed:
            TextJudge(ask=asker(model, temperature=0.7, seed=seed))`.
    Edges:  an item with fewer than two read verdicts does not count. Items that all agree have
            Wilson's interval, others Student's.
    """
    check_at_least(2, n=n)
    rounds = [judge_of(seed)(prompts, firsts, seconds) for seed in range(n)]
    found = np.array([agreement(several) for several in zip(*rounds, strict=True)])
    counted = found[~np.isnan(found)]
    if (counted == 1).all():
        estimate = proportion(len(counted), len(counted), metric="noise_floor", level=level)
    else:
        estimate = mean(counted, metric="noise_floor", level=level)
    return RepeatNoise(
        agreement=estimate,
        unread=sum(verdict is None for one in rounds for verdict in one),
        asked=n * len(prompts),
        verdicts=tuple(map(tuple, rounds)),
    )


def agreement(verdicts: Sequence[Verdict | None]) -> float:
    """The share of pairs of read verdicts that are the same; NaN for fewer than two."""
    read = [verdict for verdict in verdicts if verdict is not None]
    if len(read) < 2:
        return float("nan")
    counts = np.unique(read, return_counts=True)[1]
    return float((counts * (counts - 1)).sum()) / (len(read) * (len(read) - 1))
