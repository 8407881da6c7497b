"""What a decoder is: a step before the model, an edit of it, or the search for the text itself.

A chain holds any number of prompt steps, then any number of edits, then one search; the search is
plain sampling where none is named. `guide-align+deal` is such a chain.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from trueup.data.messages import Prompt
from trueup.models.language_model import LanguageModel
from trueup.models.reward import Reward
from trueup.models.sampling import Sampling
from trueup.models.writer import Writer

Ending = Literal["eos", "stop", "length"]


@dataclass(frozen=True, kw_only=True)
class DecoderNeeds:
    """What the user must give.

    Fields: rewards is how many are needed at least; white_box whether log-probabilities, a cache
            or weights of the model are used, which no endpoint gives; models names other models
            that the decoder asks (an aligned baseline, a teacher).
    """

    rewards: int = 0
    white_box: bool = False
    models: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a search: how to sample, and what to aim at.

    Fields: sampling holds n, max_new_tokens, temperature, top_k, top_p, stop and seed; rewards
            score (prompts, completions), by name; asked are the prompts as the user wrote them,
            which rewards read, where a step has changed what the model reads.
    """

    sampling: Sampling = field(default_factory=Sampling)
    rewards: Mapping[str, Reward] = field(default_factory=dict)
    asked: Sequence[Prompt] | None = None


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One completion, and why it is this one.

    Fields: token_ids and logps as in `Sample`, empty where a black box wrote the text; score is
            what the search chose by, None where it did not; rewards its parts by name; trace what
            was considered, a mapping per step, for the report.
    """

    text: str
    token_ids: Sequence[int] = ()
    logps: Sequence[float] = ()
    reason: Ending = "length"
    score: float | None = None
    rewards: Mapping[str, float] = field(default_factory=dict)
    trace: Sequence[Mapping[str, Any]] = ()


class PromptStep(Protocol):
    """Changes prompts before the model reads them; any model will do.

    A step that lays out the whole prompt has two more fields: `words`, which all prompts begin
    with, and `stop`, texts that end an answer. Without `stop`, `finish` must leave answers alone.
    """

    name: ClassVar[str]
    role: ClassVar[Literal["prompt"]]
    needs: ClassVar[DecoderNeeds]

    def prepare(self, prompts: Sequence[Prompt], writer: Writer) -> list[Prompt]:
        """The prompts that the model reads instead; `writer` is the model itself."""
        ...

    def finish(self, text: str) -> str:
        """The answer as the user sees it, cut where the prompt's form says that it ends."""
        ...


class ModelEdit(Protocol):
    """Changes what the model computes while it decodes, and puts all back bit for bit."""

    name: ClassVar[str]
    role: ClassVar[Literal["edit"]]
    needs: ClassVar[DecoderNeeds]

    def applied(self, lm: LanguageModel) -> AbstractContextManager[None]:
        """The model is changed inside the block, and as it was behind it."""
        ...


class Search(Protocol):
    """Finds the text: samples, looks ahead, scores, keeps."""

    role: ClassVar[Literal["search"]]

    @property
    def name(self) -> str:
        """As it is registered."""
        ...

    @property
    def needs(self) -> DecoderNeeds:
        """What the user must give."""
        ...

    def decode(
        self, lm: Writer, prompts: Sequence[Prompt], request: Request
    ) -> list[list[Decoded]]:
        """`request.sampling.n` completions of every prompt, the best first.

        The same seed gives the same texts in any order and any batch of prompts. A search whose
        `needs.white_box` is set is only ever given a `LanguageModel`.
        Raises: UserError where a reward fails or is NaN, naming the prompt; where a prompt leaves
                no room in the context, saying by how much.
        """
        ...


Decoder = PromptStep | ModelEdit | Search
