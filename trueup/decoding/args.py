"""ARGS: every next token is chosen by likelihood and the reward of the text so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from trueup.data.messages import Prompt
from trueup.decoding.beams import Beam
from trueup.decoding.protocol import Decoded, DecoderNeeds, Request
from trueup.decoding.rewards import Rewards, prompt_texts
from trueup.decoding.search_driver import Plan, search
from trueup.decoding.token_choice import check_count, token_choice
from trueup.errors import check_at_least, check_choice, check_positive
from trueup.models.language_model import LanguageModel
from trueup.models.writer import Writer


@dataclass(frozen=True, kw_only=True)
class ARGS:
    """Alignment as reward-guided search: no lookahead, one reward per candidate token.

    score(z) = log pi(z | prefix) + weight * reward(prompt, prefix + z), over the top_k likeliest
    greedy takes the best score, sample draws from softmax(score / temperature).

    Fields: weight 0 is greedy decoding, or top-k sampling; weights mix several rewards, by name
            or in their order; temperature is that of the draw.
    Cost:   1 forward pass and top_k rewards per token.
    Raises: UserError where a field leaves its range, n is above 1 for greedy, or as
            `Search.decode` says.
    Source: Khanov, Burapacheep, Li 2024, arXiv 2402.01694; the authors' code adds the raw logit,
            which differs by a constant and so chooses alike, and draws at temperature 0.7.
    """

    weight: float = 1.0
    top_k: int = 10
    sample: Literal["greedy", "sample"] = "greedy"
    temperature: float = 0.7
    weights: Mapping[str, float] | tuple[float, ...] | None = None
    name: ClassVar[str] = "args"
    role: ClassVar[Literal["search"]] = "search"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(rewards=1, white_box=True)
    arxiv: ClassVar[str] = "2402.01694"

    def __post_init__(self) -> None:
        check_at_least(0, weight=self.weight)
        check_at_least(1, top_k=self.top_k)
        check_choice(("greedy", "sample"), sample=self.sample)
        check_positive(temperature=self.temperature)

    def decode(
        self, lm: Writer, prompts: Sequence[Prompt], request: Request
    ) -> list[list[Decoded]]:
        """One completion of every prompt, or as many draws as are asked for."""
        assert isinstance(lm, LanguageModel)
        check_count(request.sampling.n, self.sample)
        rewards = Rewards(request.rewards, self.weights, prompt_texts(lm, prompts, request.asked))
        plan = Plan(
            top_k=self.top_k,
            judge=lambda children: self._judged(rewards, children),
            keep=token_choice(self.sample, self.temperature),
            searches=request.sampling.n,
        )
        return search(lm, prompts, plan, request.sampling)

    def _judged(self, rewards: Rewards, children: Sequence[Beam]) -> list[Beam]:
        """The children with the reward of their text and the score of their last token."""
        parts = rewards.parts(
            [beam.prompt for beam in children], [beam.texts[0] for beam in children]
        )
        values = [rewards.total(part) for part in parts]
        return [
            replace(beam, value=value, score=beam.logps[-1] + self.weight * value, parts=part)
            for beam, value, part in zip(children, values, parts, strict=True)
        ]
