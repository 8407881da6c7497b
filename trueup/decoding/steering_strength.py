"""How strongly to steer: what it wins on held-out data, and what it costs on neutral text."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from trueup.data.messages import Prompt
from trueup.decoding.rewards import opened_reward, prompt_texts
from trueup.decoding.steering_vectors import Pairs, SteeringVector, read_pairs
from trueup.errors import UserError, check_at_least
from trueup.models.language_model import LanguageModel
from trueup.models.residual_stream import Add, edited
from trueup.models.reward import Reward
from trueup.models.sampling import Sampling

Measure = Callable[[LanguageModel], float]

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class StrengthPoint:
    """One strength: its share of a token's norm, what is won, the perplexity of neutral text."""

    strength: float
    relative_norm: float
    value: float
    perplexity: float

    def __str__(self) -> str:
        return (
            f"strength {self.strength:+.3g}  relative norm {self.relative_norm:.3f}  "
            f"value {self.value:.4f}  perplexity {self.perplexity:.3f}"
        )


def strength_curve(
    lm: LanguageModel,
    vector: SteeringVector,
    measure: Measure,
    neutral: Sequence[str],
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> list[StrengthPoint]:
    """What each strength gives, in the order of strengths; 0, the model as it is, is among them.

    Fields: measure says how good the steered model is, larger is better: `margin_on` or
            `reward_on`, of data that the vector was not made of; neutral are texts that have
            nothing to do with the behaviour.
    Raises: UserError where there is no neutral text.
    """
    if not neutral:
        raise UserError(
            "neutral text is missing; give some texts on which steering must cost nothing"
        )
    return [
        _point(lm, vector, measure, neutral, strength) for strength in sorted({0.0, *strengths})
    ]


def choose_strength(curve: Sequence[StrengthPoint], *, slack: float = 0.05) -> StrengthPoint:
    """The best value among strengths that keep the perplexity; the smaller of equal ones.

    Fields: slack is the share by which the perplexity may rise above that of strength 0.
    """
    check_at_least(0, slack=slack)
    clean = next(point for point in curve if point.strength == 0)
    kept = [point for point in curve if point.perplexity <= (1 + slack) * clean.perplexity]
    return max(kept, key=lambda point: (point.value, -abs(point.strength)))


def margin_on(pairs: Pairs) -> Measure:
    """Held-out pairs: the mean of log P(aligned) - log P(contrast), each per token, in nats."""
    table = read_pairs(pairs)
    prompts = [row["prompt"] for row in table]
    answers = [(row["chosen"], row["rejected"]) for row in table]

    def measure(lm: LanguageModel) -> float:
        scores = lm.score(prompts, answers)
        means = np.array(scores.logps) / np.array(scores.lengths)  # [N, 2]
        return float((means[:, 0] - means[:, 1]).mean())

    return measure


def reward_on(
    prompts: Sequence[Prompt], reward: Reward | str, sampling: Sampling | None = None
) -> Measure:
    """Held-out prompts: the mean reward of what is written, greedily unless said otherwise."""
    how = sampling or Sampling(temperature=0)
    scorer = opened_reward(reward)

    def measure(lm: LanguageModel) -> float:
        asked = prompt_texts(lm, prompts)
        found = lm.sample(prompts, **vars(how))
        flat = [(text, one.text) for text, own in zip(asked, found, strict=True) for one in own]
        values = np.array(scorer(*map(list, zip(*flat, strict=True))), dtype=float)
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise UserError(f"the reward of {flat[place][1]!r:.60} is {values[place]}, no number")
        return float(values.mean())

    return measure


def perplexity(lm: LanguageModel, texts: Sequence[str]) -> float:
    """Exp of minus the mean log-probability over all tokens of the texts."""
    return math.exp(-float(np.concatenate(lm.text_token_logps(texts)).mean()))


def _point(
    lm: LanguageModel,
    vector: SteeringVector,
    measure: Measure,
    neutral: Sequence[str],
    strength: float,
) -> StrengthPoint:
    """One strength."""
    change = Add(strength * vector.direction)
    with edited(lm.model, vector.layer, change) if strength else nullcontext():
        return StrengthPoint(
            strength=strength,
            relative_norm=vector.relative_norm(strength),
            value=measure(lm),
            perplexity=perplexity(lm, neutral),
        )
