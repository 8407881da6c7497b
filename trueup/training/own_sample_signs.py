"""Signs that training on own samples has gone too far: held-out reward, KL, entropy, top-k mass."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trueup.stats import mean
from trueup.training.overoptimisation import ends_of_runs

PATIENCE = 2  # evaluations in a row, as of the signs of preference training
ALPHA = 0.05  # one-sided, shared by the earlier evaluations that a fall may be measured from
COLLAPSED = 0.5  # of the entropy before training
LEAKED = 0.05  # of the mass before training; samples differ, so it is wider than on fixed rows


@dataclass(frozen=True, kw_only=True)
class OwnSampleFlags:
    """Which of three signs a series of evaluations shows, by numbers counted from 0.

    Fields: reward_fell, entropy_collapsed, mass_fell, the evaluation at which each was seen, None
            where it was not. suggested_index is the evaluation to go back to, None without a sign.
    """

    reward_fell: int | None
    entropy_collapsed: int | None
    mass_fell: int | None
    suggested_index: int | None

    def told(self, steps: Sequence[int]) -> str:
        """The line, with the training step of each evaluation in place of its number."""
        signs = {
            "held-out reward fell while KL rose": self.reward_fell,
            "entropy collapsed": self.entropy_collapsed,
            "top-k mass fell": self.mass_fell,
        }
        told = [f"{sign} by {steps[at]}" for sign, at in signs.items() if at is not None]
        if self.suggested_index is not None:
            told.append(f"best {steps[self.suggested_index]}")
        return f"over-optimisation: {', '.join(told) or 'no sign'}"


def own_sample_flags(evaluations: Sequence[Mapping[str, float]]) -> OwnSampleFlags:
    """Whether held-out reward falls while KL rises, entropy collapses, or mass leaves the top k.

    reward fell       : reward_drop_low above 0 and kl above that of the evaluation with the
                        highest reward so far
    entropy collapsed : entropy_bits below half of its value before training
    mass fell         : top_k_mass below its value before training - 0.05
    Each shows where it holds for two evaluations in a row. The evaluation to go back to is, of
    those at which nothing holds, the first with the highest reward; without rewards the last one
    before the sign.

    Columns: those of `OwnSamples.measured`; the first row is from before training. A column that
             is not there, or NaN, is no sign.
    Edges:   fewer than two held-out prompts have no interval, and their reward is never seen to
             fall.
    Source:  Gao et al. 2023, arXiv 2210.10760: along sqrt(KL) the reward that counts rises, turns
             and falls. Shi et al. 2024, arXiv 2410.11677, for entropy and mass; on own samples a
             reward may well lower the entropy from the start, so its sign is a collapse here and
             not a turn. The rule and its numbers are ours.
    """
    signs = _signs(evaluations)
    seen = [next(iter(ends_of_runs(sign, PATIENCE)), None) for sign in signs]
    shown = [at for at in seen if at is not None]
    return OwnSampleFlags(
        reward_fell=seen[0],
        entropy_collapsed=seen[1],
        mass_fell=seen[2],
        suggested_index=_best(evaluations[: min(shown) + 1], signs) if shown else None,
    )


def good_on_own_samples(evaluations: Sequence[Mapping[str, float]]) -> tuple[bool, int]:
    """Whether the newest evaluation is the one to go back to, and 1 once a sign shows."""
    is_good = _best(evaluations, _signs(evaluations)) == len(evaluations) - 1
    return is_good, int(own_sample_flags(evaluations).suggested_index is not None)


def own_sample_note(evaluations: Sequence[Mapping[str, float]]) -> str:
    """What the signs and the ends of the series say, as a sentence."""
    if len(evaluations) <= PATIENCE:
        return (
            f"over-optimisation: {len(evaluations)} evaluations are too few to tell; set eval_every"
        )
    told = own_sample_flags(evaluations).told([int(row["step"]) for row in evaluations])
    first, last = evaluations[0], evaluations[-1]
    names = {"held-out reward": "reward", "KL": "kl", "entropy in bits": "entropy_bits"}
    ends = [
        f"{name} {first[column]:.3f} -> {last[column]:.3f}"
        for name, column in names.items()
        if column in first
    ]
    return f"{told}; {', '.join(ends)}"


def highest(evaluations: Sequence[Mapping[str, float]]) -> int:
    """The first evaluation with the highest reward; NaN is the lowest."""
    return int(np.nan_to_num([row["reward"] for row in evaluations], nan=-math.inf).argmax())


def reward_drop_low(best: ArrayLike, now: ArrayLike, *, earlier: int) -> float:
    """The least that the held-out reward has fallen: a lower bound of mean(best - now).

    Shapes: best, now [N], each prompt's mean reward at the best of `earlier` evaluations and at
            this one, drawn with the same random numbers.
    Edges:  the bound is one-sided at 0.05 / earlier, because the best is the highest of so many;
            NaN where N < 2 or no difference differs from another.
    """
    gaps = np.asarray(best, dtype=np.float64) - np.asarray(now, dtype=np.float64)
    return mean(gaps, level=1 - 2 * ALPHA / earlier).low


def _signs(evaluations: Sequence[Mapping[str, float]]) -> list[list[bool]]:
    """Which of the three signs hold at each evaluation, patience aside."""
    first = evaluations[0]
    entropy, mass = (first.get(name, math.nan) for name in ("entropy_bits", "top_k_mass"))
    return [
        [_falls(evaluations, t) for t in range(len(evaluations))],
        [row.get("entropy_bits", math.nan) < COLLAPSED * entropy for row in evaluations],
        [row.get("top_k_mass", math.nan) < mass - LEAKED for row in evaluations],
    ]


def _falls(evaluations: Sequence[Mapping[str, float]], t: int) -> bool:
    """Whether the reward is surely below the highest before it, at a higher KL."""
    row = evaluations[t]
    if not row.get("reward_drop_low", math.nan) > 0:
        return False
    return row["kl"] > evaluations[highest(evaluations[:t])]["kl"]


def _best(evaluations: Sequence[Mapping[str, float]], signs: Sequence[Sequence[bool]]) -> int:
    """Of the evaluations without a sign the first with the highest reward, or the last one."""
    good = [t for t in range(len(evaluations)) if not any(sign[t] for sign in signs)]
    if "reward" not in evaluations[0]:
        return good[-1]
    return good[highest([evaluations[t] for t in good])]
