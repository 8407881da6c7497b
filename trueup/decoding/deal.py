"""DeAL: beam search whose beams are kept by likelihood and by what a lookahead earns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from trueup.data.messages import Prompt
from trueup.decoding.alignment_prompt import with_instruction
from trueup.decoding.beams import Beam
from trueup.decoding.protocol import Decoded, DecoderNeeds, Request
from trueup.decoding.rewards import Rewards, prompt_texts
from trueup.decoding.search_driver import Plan, search
from trueup.errors import UserError, check_at_least, check_choice
from trueup.models.language_model import LanguageModel
from trueup.models.writer import Writer


@dataclass(frozen=True, kw_only=True)
class DeAL:
    """Decoding-time alignment: a reward-guided beam search with greedy lookahead.

    c(y_1..t) = log P(y_1..t | prompt) + lam * h,   h = sum_i weight_i * reward_i
    unit "token": every beam has its top_k likeliest next tokens; each is continued greedily by up
    to `lookahead` tokens; h is of that text, log P of the committed tokens only; the num_beams
    largest c are kept. A beam that has ended keeps its c and its place.
    unit "segment": every beam has top_k continuations of `lookahead` tokens, by beam search; they
    are kept by h alone. About lookahead times cheaper, and another score than the paper's.

    Units:  log P in nats, a sum; rewards as they come, so standardise a learned one.
    Fields: lam 0 is greedy or beam search; lookahead 0 scores the bare prefix; weights by name or
            in the rewards' order, needed where there are several; alignment_prompt states the
            objective in words before the prompt, for the model and not for the rewards;
            length_penalty g divides log P by t^g, 0 in the paper: without it short ended beams win.
    Cost:   at most num_beams * top_k * (1 + lookahead) forward passes and num_beams * top_k rewards
            per token; the lookahead of a child that is kept is not read again.
    Edges:  ties in c go to the likelier, then the lower token id. A reward of 0 or 1 is flat
            until it is met: lookahead 0 is then beam search.
    Raises: UserError where a field leaves its range, more completions are asked for than beams
            are kept, or as `Search.decode` says.
    Source: Huang et al. 2024, arXiv 2402.06147; no official code. lam, ended beams and ties are
            our choice; the segments are those of IBM's AISteer360 (Apache-2.0).
    """

    lam: float = 1.0
    top_k: int = 5
    num_beams: int = 1
    lookahead: int = 32
    weights: Mapping[str, float] | tuple[float, ...] | None = None
    unit: Literal["token", "segment"] = "token"
    alignment_prompt: str | None = None
    length_penalty: float = 0.0
    name: ClassVar[str] = "deal"
    role: ClassVar[Literal["search"]] = "search"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(rewards=1, white_box=True)
    arxiv: ClassVar[str] = "2402.06147"

    def __post_init__(self) -> None:
        check_at_least(0, lam=self.lam, lookahead=self.lookahead)
        check_at_least(1, top_k=self.top_k, num_beams=self.num_beams)
        check_at_least(0, length_penalty=self.length_penalty)
        check_choice(("token", "segment"), unit=self.unit)
        if self.unit == "segment" and self.lookahead < 2:
            raise UserError(f"lookahead must be at least 2 for segments, got {self.lookahead}")

    def decode(
        self, lm: Writer, prompts: Sequence[Prompt], request: Request
    ) -> list[list[Decoded]]:
        """The best `n` of the kept beams of every prompt."""
        assert isinstance(lm, LanguageModel)
        count = request.sampling.n
        if count > self.num_beams:
            raise UserError(f"n must be at most num_beams, {self.num_beams}, got {count}")
        rewards = Rewards(request.rewards, self.weights, prompt_texts(lm, prompts, request.asked))
        plan = Plan(
            top_k=self.top_k,
            num_beams=self.num_beams,
            lookahead=self.lookahead if self.unit == "token" else 0,
            segment=self.lookahead if self.unit == "segment" else 1,
            judge=lambda children: self._judged(rewards, children),
        )
        read = [with_instruction(prompt, self.alignment_prompt) for prompt in prompts]
        return [beams[:count] for beams in search(lm, read, plan, request.sampling)]

    def _judged(self, rewards: Rewards, children: Sequence[Beam]) -> list[Beam]:
        """The children with h and c."""
        parts = rewards.parts(
            [beam.prompt for beam in children], [beam.texts[0] for beam in children]
        )
        values = np.array([rewards.total(part) for part in parts])
        if self.unit == "segment":
            scores = values
        else:
            lengths = np.array([len(beam.token_ids) for beam in children])
            logps = np.array([beam.logp for beam in children]) / lengths**self.length_penalty
            scores = deal_score(logps, values, self.lam)
        return [
            replace(beam, value=value, score=score, parts=part)
            for beam, value, score, part in zip(
                children, values.tolist(), scores.tolist(), parts, strict=True
            )
        ]


def deal_score(logps: np.ndarray, heuristic: np.ndarray, lam: float) -> np.ndarray:
    """DeAL's c = log P + lam * h on plain arrays, [N] in, [N] out."""
    return logps + lam * heuristic
