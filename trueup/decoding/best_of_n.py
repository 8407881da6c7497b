"""Best-of-n: several samples of a prompt, and the one with the highest reward."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from trueup.data.messages import Prompt
from trueup.decoding.pools import Candidate, best, check_pool, written
from trueup.decoding.protocol import Decoded, DecoderNeeds, Request
from trueup.decoding.rewards import Rewards, prompt_texts
from trueup.errors import check_at_least
from trueup.models.writer import Writer


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """The best of `candidates` independent samples, by reward; any writer will do.

    u = quantile of a sample's reward among the model's own; best of n has the density n u^(n-1)
    KL to the model     log n - (n-1) / n nats: exact without ties, else an upper bound
    wins                n / (n+1) against one sample, n / (n+m) against the best of m
    The reward rises with log n while text the reward is wrong about rises with it.

    Fields: weights mix several rewards, by name or in their order, and are needed for several.
    Cost:   `candidates` forward passes per token, in one batch; a reward for each candidate.
    Edges:  ties go to the sample drawn first; n asked for are the n best of the candidates.
    Raises: UserError where n is above `candidates`, the temperature is 0, or as `Search.decode`
            says.
    Source: Stiennon et al. 2020, arXiv 2009.01325; the bound's proof: Beirami et al. 2024,
            arXiv 2401.01879.
    """

    candidates: int = 16
    weights: Mapping[str, float] | tuple[float, ...] | None = None
    name: ClassVar[str] = "best-of-n"
    role: ClassVar[Literal["search"]] = "search"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(rewards=1)
    arxiv: ClassVar[str] = "2009.01325"

    def __post_init__(self) -> None:
        check_at_least(1, candidates=self.candidates)

    def decode(
        self, lm: Writer, prompts: Sequence[Prompt], request: Request
    ) -> list[list[Decoded]]:
        """The best `n` candidates of every prompt."""
        check_pool(request.sampling, self.candidates, "candidates")
        rewards = Rewards(request.rewards, self.weights, prompt_texts(lm, prompts, request.asked))
        pools = written(lm, prompts, request.sampling, n=self.candidates)
        places = [place for place, pool in enumerate(pools) for _ in pool]
        texts = [text for pool in pools for text in pool]
        found: list[list[Candidate]] = [[] for _ in prompts]
        parts = rewards.parts(places, [text.text for text in texts])
        for place, text, part in zip(places, texts, parts, strict=True):
            value = rewards.total(part)
            found[place].append(
                Candidate(text=text, value=value, score=value, parts=part, notes={})
            )
        return [best(pool, request.sampling.n) for pool in found]


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n to the model itself in nats, log n - (n-1)/n; a bound where rewards tie."""
    return math.log(n) - (n - 1) / n


def best_of_n_win_rate(n: int, against: int = 1) -> float:
    """How often the best of n beats the best of `against` from the same model, ties a half."""
    return n / (n + against)
