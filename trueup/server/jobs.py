"""What the server's engines work on: a job per request, pieces of its choices as they come."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trueup.models.chat_protocol import TokenLogp
from trueup.models.sampling import Sampling
from trueup.server.failures import ServerFailure


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one choice got: its next text, the tokens behind it, and why it ended, once it has.

    Fields: tokens are there where log-probabilities were asked for; n_tokens counts the tokens
            since the last piece; reason is `eos`, `stop`, `length` or another server's own word;
            stopped_by is the stop string.
    """

    choice: int
    text: str = ""
    tokens: Sequence[TokenLogp] = ()
    n_tokens: int = 0
    reason: str | None = None
    stopped_by: str | None = None


Told = Piece | ServerFailure


@dataclass(kw_only=True, eq=False)
class Job:
    """One request on its way through an engine.

    Fields: prompts are token ids for the batch that samples, texts or messages for a search; the
            choices are `sampling.n` of the first prompt, then of the next; has_seed says whether
            the client named the seed; top_logprobs None wants no log-probabilities; is_streamed
            wants pieces as they come, else one at the end of each choice; tell takes the pieces,
            or the failure that ends the job; is_cancelled says that nobody waits any more.
    """

    prompts: Sequence[Any]
    sampling: Sampling
    tell: Callable[[Told], None]
    has_seed: bool = True
    top_logprobs: int | None = None
    is_streamed: bool = False
    is_cancelled: bool = False

    @property
    def n_choices(self) -> int:
        """How many choices the reply has."""
        return len(self.prompts) * self.sampling.n


Deliver = Callable[[Sequence[tuple[Job, Told]]], None]


def deliver_here(told: Sequence[tuple[Job, Told]]) -> None:
    """Tell every job its news on the engine's own thread."""
    for job, news in told:
        job.tell(news)


class Engine(Protocol):
    """What turns jobs into pieces, on threads of its own."""

    def start(self, deliver: Deliver) -> None:
        """Begin to work; `deliver` is called on the engine's threads."""
        ...

    def submit(self, job: Job) -> None:
        """Take the job into the queue; raises ServerFailure where that is full."""
        ...

    def cancel(self, job: Job) -> None:
        """Forget the job, so that its place is free."""
        ...

    def close(self) -> None:
        """Take nothing more, finish what is there, and end the threads."""
        ...

    def numbers(self) -> dict[str, float]:
        """What there is to count now, by the names of the metrics."""
        ...
