"""Plain sampling: what a chain searches by where it names no search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from trueup.data.messages import Prompt
from trueup.decoding.pools import decoded, written
from trueup.decoding.protocol import Decoded, DecoderNeeds, Request
from trueup.models.writer import Writer


@dataclass(frozen=True, kw_only=True)
class PlainSearch:
    """Samples, or takes the likeliest token at temperature 0; any writer will do.

    Cost: 1 forward pass per token.
    """

    name: ClassVar[str] = "sample"
    role: ClassVar[Literal["search"]] = "search"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds()

    def decode(
        self, lm: Writer, prompts: Sequence[Prompt], request: Request
    ) -> list[list[Decoded]]:
        """`request.sampling.n` samples of every prompt, as the writer gives them."""
        texts = written(lm, prompts, request.sampling, n=request.sampling.n)
        return [[decoded(text) for text in several] for several in texts]
