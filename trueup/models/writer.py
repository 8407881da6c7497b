"""Whatever writes: a language model here, an endpoint, or an object with this one function."""

from collections.abc import Sequence
from typing import Any, Protocol


class Text(Protocol):
    """One completion."""

    @property
    def text(self) -> str:
        """What was written, without the prompt."""
        ...


class Writer(Protocol):
    """A model that writes: `LanguageModel`, an endpoint, or whatever has this one function."""

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
    ) -> Sequence[Sequence[Text]]:
        """`n` completions of every prompt; the same seed gives the same ones in any batch."""
        ...
