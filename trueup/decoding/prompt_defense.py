"""Prompt defence as a step before the model: a text that asks it to treat all groups alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from trueup.data.messages import Prompt
from trueup.decoding.protocol import DecoderNeeds
from trueup.judging import prompt_defense as judging
from trueup.models.writer import Writer


@dataclass(frozen=True, kw_only=True)
class PromptDefense(judging.PromptDefense):
    """A text that asks to treat all groups alike stands before every prompt.

    `trueup.judging.prompt_defense.PromptDefense` in a chain of decoders; answers stay whole.

    Cost: the text is read as a part of every prompt.
    """

    role: ClassVar[Literal["prompt"]] = "prompt"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds()
    arxiv: ClassVar[str] = "2410.13334"

    def prepare(self, prompts: Sequence[Prompt], writer: Writer) -> list[Prompt]:
        """Every prompt with the defence; the writer's own system turn stays before it."""
        system = getattr(writer, "system", None)
        return [self.prepared(prompt, system=system) for prompt in prompts]

    def finish(self, text: str) -> str:
        """The answer as it is."""
        return text
