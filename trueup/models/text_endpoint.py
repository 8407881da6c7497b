"""A server of the OpenAI protocol as a writer that goes on with texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trueup.files import content_hash
from trueup.models.chat_budget import EndpointWork
from trueup.models.chat_protocol import Answer

if TYPE_CHECKING:
    from trueup.models.endpoint import Endpoint


class TextEndpoint:
    """An endpoint whose prompts are texts that the model goes on with."""

    def __init__(self, endpoint: "Endpoint") -> None:
        self.endpoint = endpoint

    @property
    def name(self) -> str:
        """The model's name, as the server knows it."""
        return self.endpoint.name

    @property
    def work(self) -> EndpointWork:
        """What the server was asked so far, in whichever way."""
        return self.endpoint.work

    @property
    def fingerprint(self) -> str:
        """A hash that is not the chat's."""
        return content_hash(f"text {self.endpoint.fingerprint}")

    def sample(
        self,
        prompts: Sequence[Any],
        *,
        n: int = 1,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[list[Answer]]:
        """`Endpoint.complete` under the words of `LanguageModel.sample`."""
        return self.endpoint.complete(
            prompts,
            n=n,
            max_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=stop,
            seed=seed,
        )
