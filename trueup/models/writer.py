"""What is asked of any model: a name, a fingerprint, counted work; and of one that writes."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


class Counted(Protocol):
    """Counters of what a model was asked to do."""

    def as_dict(self) -> Mapping[str, float]:
        """The counters by name."""
        ...


class OtherModel(Protocol):
    """What may be asked of any model: an endpoint, an encoder, static vectors."""

    @property
    def name(self) -> str:
        """As it was loaded."""
        ...

    @property
    def fingerprint(self) -> str:
        """What tells it from another one."""
        ...

    @property
    def work(self) -> Counted:
        """What it was asked so far."""
        ...


class Text(Protocol):
    """One completion."""

    @property
    def text(self) -> str:
        """What was written, without the prompt."""
        ...


@runtime_checkable
class Completing(Protocol):
    """A writer behind a server, which answers turns and can go on with texts as well."""

    def completing(self) -> "Writer":
        """The writer that goes on with texts."""
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
