"""Another server of the protocol as the writer behind this one."""

from collections.abc import Sequence

import httpx2

from trueup.errors import TrueupError, UserError
from trueup.models.api_key import ApiKey
from trueup.models.encoding import Prompt
from trueup.models.endpoint import Endpoint, connect
from trueup.models.writer import Text, Writer
from trueup.server.failures import ServerFailure

WORKERS = 32  # requests that are under way at once


class Upstream:
    """An endpoint whose refusals are this server's 502: the client is not to blame for them."""

    def __init__(self, endpoint: Endpoint, *, is_text: bool = False) -> None:
        self.endpoint = endpoint
        self.writer: Writer = endpoint.completing() if is_text else endpoint

    def completing(self) -> "Upstream":
        """The same server as a writer that goes on with texts, in place of answering turns."""
        return Upstream(self.endpoint, is_text=True)

    @classmethod
    def at(cls, url: str, model: str, *, api_key_env: str, timeout: float) -> "Upstream":
        """The server at this URL, asked anew each time; raises UserError where it cannot be."""
        return cls(
            connect(
                url,
                model,
                api_key_env=api_key_env,
                cache=False,
                max_concurrency=WORKERS,
                timeout=timeout,
                retries=2,
            )
        )

    @property
    def name(self) -> str:
        """The model's name, as the server above knows it."""
        return self.endpoint.name

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Sequence[Sequence[Text]]:
        """The endpoint's answers.

        Raises: ServerFailure where it gives none; its words may hold no key.
        """
        try:
            return self.writer.sample(
                prompts,
                n=n,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                stop=stop,
                seed=seed,
            )
        except TrueupError as error:
            raise ServerFailure(
                502, f"the server above gave no answer: {error}", kind="server_error"
            ) from error


def only_model(url: str, api_key_env: str) -> str:
    """The one model that the server at the URL has.

    Raises: UserError where it has several or none, or does not say.
    """
    url = connect(url, "any", api_key_env=api_key_env, cache=False).url  # checked, holds no secret
    try:
        reply = httpx2.get(f"{url}/models", auth=ApiKey(api_key_env), timeout=10.0)
        names = [str(card["id"]) for card in reply.raise_for_status().json()["data"]]
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{url}: does not say which models it has ({type(error).__name__}); give URL#NAME"
        ) from error
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise UserError(f"{url}: has {len(names)} models ({known:.200}); give URL#NAME")
    return names[0]
