"""Which candidate token goes on: the best by score, or one drawn."""

from collections.abc import Sequence

import numpy as np
import scipy.special

from trueup.decoding.beams import Beam, ranked
from trueup.decoding.search_driver import Keep
from trueup.errors import UserError


def token_choice(sample: str, temperature: float) -> Keep:
    """Keep the best child ("greedy"), or one drawn from softmax(score / temperature)."""

    def best(children: Sequence[Beam], rng: np.random.Generator) -> list[Beam]:
        return ranked(children)[:1]

    def drawn(children: Sequence[Beam], rng: np.random.Generator) -> list[Beam]:
        scores = np.array([beam.score for beam in children])
        place = rng.choice(len(children), p=scipy.special.softmax(scores / temperature))
        return [children[int(place)]]

    return best if sample == "greedy" else drawn


def check_count(count: int, sample: str) -> None:
    """Raise UserError where several completions are asked of a choice that has but one."""
    if count > 1 and sample == "greedy":
        raise UserError(f"n must be 1 with sample=greedy, got {count}; give sample=sample")
