"""Prompts on their way from a request to an engine: read, counted, refused where they are wrong."""

import threading
from dataclasses import dataclass
from typing import Any, Protocol

import jinja2

from trueup.decoding.compose import Chain, compose
from trueup.errors import UserError
from trueup.models.encoding import Prompt
from trueup.models.language_model import LanguageModel
from trueup.server.failures import ServerFailure


@dataclass(frozen=True)
class Prepared:
    """A prompt as an engine takes it; n_tokens is None where nobody here can count."""

    payload: Any
    n_tokens: int | None


class PromptReader(Protocol):
    """What makes an engine's prompts of a request's.

    Fields: context is how many tokens the model reads, None where nobody here knows.
    """

    context: int | None

    def read(self, prompt: Prompt | list[int]) -> Prepared:
        """The prompt for the engine; raises ServerFailure where it cannot be read."""
        ...


class LocalPrompts:
    """Prompts for a model here; threads share it.

    Fields: as_tokens gives the engine token ids, else the prompt as it came; chain has the steps
            that change a prompt before the model reads it.
    """

    def __init__(self, lm: LanguageModel, *, as_tokens: bool, chain: Chain | None = None) -> None:
        self.context: int | None = lm.max_length
        self._lm = lm
        self._chain = chain or compose("sample")
        self._as_tokens = as_tokens
        self._lock = threading.Lock()  # tokenizers are not made for several threads

    def read(self, prompt: Prompt | list[int]) -> Prepared:
        """The prompt and how many tokens it has."""
        is_tokens = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int)
        tokens: list[int] = self._checked(prompt) if is_tokens else self._encoded(prompt)
        if not tokens:
            raise ServerFailure(400, "the prompt is empty; it needs some text", param="prompt")
        return Prepared(tokens if self._as_tokens else prompt, len(tokens))

    def _checked(self, tokens: Any) -> list[int]:
        if not self._as_tokens or self._chain.steps:
            raise ServerFailure(400, "this decoder reads text, got token ids", param="prompt")
        size = self._lm.model.get_input_embeddings().num_embeddings
        wrong = [token for token in tokens if token >= size]
        if wrong:
            message = f"a token id must be below {size}, got {wrong[0]}"
            raise ServerFailure(400, message, param="prompt")
        return list(tokens)

    def _encoded(self, prompt: Any) -> list[int]:
        try:
            with self._lock:
                [read] = self._chain.prepared([prompt], self._lm)
                return self._lm.encoder.prompt(read)
        except UserError as error:
            raise ServerFailure(400, str(error), code="decoder_refused") from error
        except jinja2.TemplateError as error:
            message = f"the model's chat template refuses the messages ({error})"
            raise ServerFailure(400, message, param="messages") from error


class UpstreamPrompts:
    """Prompts for a chat model behind an endpoint."""

    context: int | None = None

    def read(self, prompt: Prompt | list[int]) -> Prepared:
        """The messages as they are."""
        if isinstance(prompt, str) or not isinstance(prompt[0], dict):
            raise ServerFailure(
                400, "the server above is a chat model; ask /v1/chat/completions", param="prompt"
            )
        return Prepared(prompt, None)
