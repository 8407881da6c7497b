"""The OpenAI protocol as schemas: what is read, and what is written."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _unicode(text: str) -> str:
    """The text; raises ValueError where it holds half of a surrogate pair, as JSON can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text is not valid Unicode") from None
    return text


Text = Annotated[str, AfterValidator(_unicode)]
TokenIds = list[Annotated[int, Field(ge=0)]]


class Read(BaseModel):
    """A part of a request; a field that is not known is refused, not overlooked."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Read):
    """One part of a message's content."""

    type: Literal["text"]
    text: Text


class ChatMessage(Read):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart]
    name: Text | None = None

    def plain(self) -> dict[str, str]:
        """The turn with its content as one text."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": self.role, "content": text}


class StreamOptions(Read):
    """What a stream holds beside its choices."""

    include_usage: bool = False


class Asked(Read):
    """The fields that both kinds of requests have.

    Fields: top_k is ours, 0 cuts nothing off; presence_penalty and frequency_penalty may only be
            0, which clients send by themselves; user is taken and not used.
    """

    model: Annotated[Text, Field(min_length=1)]
    n: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    user: Text | None = None

    def stops(self) -> tuple[str, ...]:
        """The stop strings; an empty one would stop everything and is none."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Asked):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class CompletionRequest(Asked):
    """The body of `/v1/completions`; a prompt is text or token ids, or a list of either."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[TokenIds, Field(min_length=1)]
        | Annotated[list[Annotated[TokenIds, Field(min_length=1)]], Field(min_length=1)]
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    def prompts(self) -> list[Any]:
        """The prompts one by one."""
        given: Any = self.prompt
        is_one = isinstance(given, str) or isinstance(given[0], int)
        return [given] if is_one else list(given)


class Usage(BaseModel):
    """Tokens, as the model counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(BaseModel):
    """A token that might have stood there."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token and what might have stood there instead."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """The log-probabilities of a choice, in nats."""

    content: list[TokenLogprob]


class AnswerMessage(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    """One answer; stop_reason is the stop string that ended it, where one did."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: str | None


class ChatReply(BaseModel):
    """The reply of `/v1/chat/completions`; usage is missing where nobody counts tokens."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class TextLogprobs(BaseModel):
    """The log-probabilities of a choice in the form of `/v1/completions`."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One completion."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str
    stop_reason: str | None


class CompletionReply(BaseModel):
    """The reply of `/v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The reply of `/v1/models`."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(BaseModel):
    """The reply of `/health`."""

    status: Literal["ok"]


class ErrorWords(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The reply of a request that gets no answer."""

    error: ErrorWords
