"""The chat part of the OpenAI protocol as plain data: what is asked and what comes back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from trueup.errors import UserError, check_at_least, check_between

# A second request for further samples of one prompt must not repeat the first one's seed.
_SEED_STRIDE = 1_000_003
_SEED_MODULUS = 2**31


@dataclass(frozen=True)
class TokenLogp:
    """One token of an answer: its text, its log-probability in nats, and the likeliest instead."""

    token: str
    logp: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer of a chat model.

    Fields: reason is `eos`, `stop` (a stop string), `length`, or the server's own word;
            logprobs are None where they were not asked for or the server gives none;
            prompt_tokens and completion_tokens are the server's counts, None where it gives none or
            only a sum over several samples; served_by is the server's system fingerprint; cached
            says that no call was made for it.
    """

    text: str
    reason: str
    logprobs: tuple[TokenLogp, ...] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    served_by: str | None = None
    cached: bool = False

    @property
    def logps(self) -> list[float] | None:
        """The tokens' log-probabilities in nats, as a white-box `Sample` has them."""
        return None if self.logprobs is None else [token.logp for token in self.logprobs]

    def as_dict(self) -> dict[str, Any]:
        """The answer as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_cache(cls, kept: Mapping[str, Any]) -> Self:
        """The answer that `as_dict` wrote, marked as cached."""
        logprobs = kept["logprobs"]
        tokens = logprobs and tuple(
            TokenLogp(one["token"], one["logp"], tuple((text, logp) for text, logp in one["top"]))
            for one in logprobs
        )
        return cls(**{**kept, "logprobs": tokens, "cached": True})


@dataclass(frozen=True)
class Usage:
    """The tokens of one call, as the server counts them; 0 where it does not."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """Everything beside the messages that shapes an answer.

    Fields: seed None sends none, for servers that refuse it; top_logprobs None asks for no
            log-probabilities, 0 for the sampled tokens' alone; extra are further fields of the
            request, as the server names them.
    """

    max_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = 0
    top_logprobs: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_at_least(1, max_tokens=self.max_tokens)
        check_at_least(0, temperature=self.temperature)
        check_between(0, 1, top_p=self.top_p)
        if self.top_logprobs is not None:
            check_at_least(0, top_logprobs=self.top_logprobs)
        taken = [name for name in self.extra if name in _OWN_FIELDS]
        if taken:
            raise UserError(f"extra must not set {taken[0]!r}; it is an argument of its own")

    def body(
        self, model: str, asked: list[dict[str, str]] | str, *, first: int, n: int, limit_field: str
    ) -> dict[str, Any]:
        """The request for samples `first` to `first + n - 1`; defaults are left out.

        Fields: asked are messages, or a text that is to be gone on with; limit_field is the
                server's name for max_tokens.
        """
        body: dict[str, Any] = {
            **self.extra,
            "model": model,
            "prompt" if isinstance(asked, str) else "messages": asked,
            limit_field: self.max_tokens,
            "temperature": self.temperature,
        }
        if self.top_p < 1:
            body["top_p"] = self.top_p
        if self.stop:
            body["stop"] = list(self.stop)
        if self.seed is not None:
            body["seed"] = (self.seed + _SEED_STRIDE * first) % _SEED_MODULUS
        if n > 1:
            body["n"] = n
        if self.top_logprobs is not None:
            body["logprobs"] = True
        if self.top_logprobs:
            body["top_logprobs"] = self.top_logprobs
        return body

    def as_dict(self) -> dict[str, Any]:
        """The settings as a cache key holds them."""
        return asdict(self)


_OWN_FIELDS = (
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "n",
    "logprobs",
    "top_logprobs",
    "stream",
)


def read_reply(reply: Any, settings: ChatSettings) -> tuple[list[Answer], Usage]:
    """The answers and the tokens that a server's reply holds.

    Raises: ValueError where it is no reply of the protocol.
    """
    try:
        usage = reply.get("usage") or {}
        used = Usage(_count(usage, "prompt_tokens") or 0, _count(usage, "completion_tokens") or 0)
        served_by = reply.get("system_fingerprint")
        shared = Answer(
            text="",
            reason="",
            prompt_tokens=_count(usage, "prompt_tokens"),
            served_by=served_by if isinstance(served_by, str) else None,
        )
        answers = [_answer(choice, settings, shared) for choice in reply["choices"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if len(answers) == 1 and answers[0].completion_tokens is None:
        answers = [replace(answers[0], completion_tokens=_count(usage, "completion_tokens"))]
    return answers, used


def _answer(choice: Mapping[str, Any], settings: ChatSettings, shared: Answer) -> Answer:
    message = {"content": choice["text"]} if "text" in choice else choice["message"]
    content, refusal = message.get("content"), message.get("refusal")
    text = _text(content if content is not None or not refusal else refusal)
    reason = "refusal" if content is None and refusal else _reason(choice, settings)
    logprobs = _logprobs(choice)
    if settings.top_logprobs is None:
        logprobs = None
    return replace(
        shared,
        text=text,
        reason=reason,
        logprobs=logprobs,
        completion_tokens=None if logprobs is None else len(logprobs),
    )


def _text(content: Any) -> str:
    """The content as text; some servers send it in parts, and none for an empty answer."""
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(_text(part["text"]) for part in content if part.get("type") == "text")
    if not isinstance(content, str):
        raise TypeError(f"content is a {type(content).__name__}")
    # An answer cut within a character may hold half of it, which no file could keep.
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _reason(choice: Mapping[str, Any], settings: ChatSettings) -> str:
    """Why the answer ended; the protocol's `stop` is told apart where the server says more."""
    reason = str(choice.get("finish_reason"))
    if reason != "stop":
        return reason
    if "stop_reason" in choice:  # vLLM: the string or the token that stopped it
        return "stop" if isinstance(choice["stop_reason"], str) else "eos"
    return "stop" if settings.stop else "eos"


def _logprobs(choice: Mapping[str, Any]) -> tuple[TokenLogp, ...] | None:
    listed = (choice.get("logprobs") or {}).get("content")
    if listed is None:
        return None
    return tuple(
        TokenLogp(
            _text(token["token"]),
            float(token["logprob"]),
            tuple(
                (_text(other["token"]), float(other["logprob"]))
                for other in token.get("top_logprobs") or ()
            ),
        )
        for token in listed
    )


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and value >= 0 else None
