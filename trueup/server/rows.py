"""One choice while it is sampled: its random numbers, its tokens, the text that they make."""

from functools import lru_cache
from typing import Any

import numpy as np

from trueup.decoding.protocol import Ending
from trueup.models.chat_protocol import TokenLogp
from trueup.server.jobs import Job, Piece
from trueup.server.text_stream import TextStream


class Words:
    """A tokenizer's tokens, one by one, as text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.of = lru_cache(maxsize=65536)(self._text)

    def _text(self, token: int) -> str:
        text: str = self.tokenizer.decode([token])
        return text


class Row:
    """One choice of a job.

    Fields: uniforms [max_new_tokens], one random number for each token; taken counts the tokens.
    """

    def __init__(self, job: Job, choice: int, uniforms: np.ndarray, words: Words) -> None:
        self.job = job
        self.choice = choice
        self.uniforms = uniforms
        self.taken = 0
        self._words = words
        self._text = TextStream(words.tokenizer, job.sampling.stop)
        self._parts: list[str] = []
        self._tokens: list[TokenLogp] = []
        self._told = 0

    @property
    def draw(self) -> float:
        """The random number of the next token."""
        return float(self.uniforms[self.taken])

    def take(self, token: int, logp: float, top: dict[int, float]) -> Piece | None:
        """Append a token; the piece that is to be told, None where there is nothing to tell yet.

        Fields: top are the likeliest tokens with their log-probabilities, where they are wanted.
        """
        self.taken += 1
        self._parts.append(self._text.push(token))
        if self.job.top_logprobs is not None:
            others = tuple((self._words.of(other), value) for other, value in top.items())
            self._tokens.append(TokenLogp(self._words.of(token), logp, others))
        reason = self._ending(token)
        if reason is not None:
            self._parts.append(self._text.finish())
        has_news = self.job.is_streamed and (self._tokens or any(self._parts))
        return self._piece(reason) if reason or has_news else None

    def _ending(self, token: int) -> Ending | None:
        if token == self._words.tokenizer.eos_token_id:
            return "eos"
        if self._text.stopped is not None:
            return "stop"
        return "length" if self.taken == self.job.sampling.max_new_tokens else None

    def _piece(self, reason: Ending | None) -> Piece:
        piece = Piece(
            choice=self.choice,
            text="".join(self._parts),
            tokens=tuple(self._tokens),
            n_tokens=self.taken - self._told,
            reason=reason,
            stopped_by=self._text.stopped,
        )
        self._parts, self._tokens, self._told = [], [], self.taken
        return piece
