"""Pieces as the replies of the protocol: whole ones and the chunks of a stream."""

import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

from trueup.models.chat_protocol import TokenLogp
from trueup.server.jobs import Piece

_LEAST_LOGP = -9999.0  # JSON has no infinity; the protocol writes this
_FINISH_REASONS = {"eos": "stop", "stop": "stop", "length": "length"}


class Form(Protocol):
    """One kind of reply."""

    def whole(self, choices: Sequence[Piece], usage: dict[str, int] | None) -> dict[str, Any]:
        """The reply with all choices."""
        ...

    def chunks(self, pieces: Sequence[Piece]) -> Iterator[dict[str, Any]]:
        """The stream's chunks for these pieces."""
        ...

    def last(self, usage: dict[str, int]) -> dict[str, Any]:
        """The chunk that only tells the usage."""
        ...


class _Heading:
    """What every reply and every chunk of one request begins with."""

    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, model: str, fingerprint: str) -> None:
        self._common = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, choices: Sequence[Piece], usage: dict[str, int] | None) -> dict[str, Any]:
        """The reply with all choices; a usage that nobody counted is left out."""
        told = {"object": self.whole_object, "choices": [self._choice(one) for one in choices]}
        counted = {} if usage is None else {"usage": usage}
        return {**self._common, **told, **counted}

    def last(self, usage: dict[str, int]) -> dict[str, Any]:
        """The chunk that only tells the usage."""
        return {**self._chunk([]), "usage": usage}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._common, "object": self.chunk_object, "choices": choices}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError


class ChatForm(_Heading):
    """Replies of `/v1/chat/completions`."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, model: str, fingerprint: str) -> None:
        super().__init__(model, fingerprint)
        self._opened: set[int] = set()

    def chunks(self, pieces: Sequence[Piece]) -> Iterator[dict[str, Any]]:
        """A choice's first chunk names the role."""
        for piece in pieces:
            delta = {"content": piece.text}
            if piece.choice not in self._opened:
                self._opened.add(piece.choice)
                delta = {"role": "assistant", **delta}
            yield self._chunk([{**_ending(piece), "delta": delta, "logprobs": _content(piece)}])

    def _choice(self, piece: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text}
        return {**_ending(piece), "message": message, "logprobs": _content(piece)}


class TextForm(_Heading):
    """Replies of `/v1/completions`."""

    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def __init__(self, model: str, fingerprint: str) -> None:
        super().__init__(model, fingerprint)
        self._offsets: Counter[int] = Counter()

    def chunks(self, pieces: Sequence[Piece]) -> Iterator[dict[str, Any]]:
        """One chunk per piece."""
        for piece in pieces:
            yield self._chunk([self._choice(piece)])

    def _choice(self, piece: Piece) -> dict[str, Any]:
        return {**_ending(piece), "text": piece.text, "logprobs": self._logprobs(piece)}

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        """Columns of tokens, whose offsets count from the completion's beginning."""
        if not piece.tokens:
            return None
        offsets = []
        for token in piece.tokens:
            offsets.append(self._offsets[piece.choice])
            self._offsets[piece.choice] += len(token.token)
        return {
            "tokens": [token.token for token in piece.tokens],
            "token_logprobs": [_number(token.logp) for token in piece.tokens],
            "top_logprobs": [_by_text(token) for token in piece.tokens],
            "text_offset": offsets,
        }


def _by_text(token: TokenLogp) -> dict[str, float]:
    """The likeliest tokens by their text; of several with one text the likeliest."""
    return {text: _number(logp) for text, logp in reversed(token.top)}


def _ending(piece: Piece) -> dict[str, Any]:
    """The choice's number and, with its last piece, what ended it."""
    reason = piece.reason and _FINISH_REASONS.get(piece.reason, piece.reason)
    return {
        "index": piece.choice,
        "finish_reason": reason,
        "stop_reason": piece.stopped_by,
    }


def _content(piece: Piece) -> dict[str, Any] | None:
    if not piece.tokens:
        return None
    return {"content": [_token(token) for token in piece.tokens]}


def _token(token: TokenLogp) -> dict[str, Any]:
    return {
        **_word(token.token, token.logp),
        "top_logprobs": [_word(text, logp) for text, logp in token.top],
    }


def _word(text: str, logp: float) -> dict[str, Any]:
    """A token; its bytes are null where it is only a part of a character."""
    known = None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())
    return {"token": text, "logprob": _number(logp), "bytes": known}


def _number(logp: float) -> float:
    return max(logp, _LEAST_LOGP)
