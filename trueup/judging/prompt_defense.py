"""Prompt defence: a text beside every prompt that asks a model to treat all groups alike."""

import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, ClassVar, Literal, Protocol, get_args

from trueup.data.canonical import canonical
from trueup.data.messages import Message, turns_of, with_system
from trueup.errors import UserError, check_choice
from trueup.files import content_hash
from trueup.judging.asking import Ask, Sampler
from trueup.models.writer import Counted, OtherModel, Text

Place = Literal["system", "prefix", "suffix"]
Turns = str | Sequence[Mapping[str, str]]


class Chat(Sampler, OtherModel, Protocol):
    """A model that writes, as every audit takes it."""


@dataclass(frozen=True, kw_only=True)
class PromptDefense:
    """A defence by prompt alone: before it answers, a model is told to look past who is asking.

    system  the text is a system turn, behind the system turn that is there
    prefix  the text stands before the user's last turn, a blank line between
    suffix  the text stands behind it
    It costs its own tokens in every prompt, and no further call of a model.
    Fields: text is by default that of prompt_defense.toml.
    Edges:  a prompt that is text, not turns, stays text with a prefix or a suffix; with a system
            turn it becomes the user's turn of a conversation.
    Raises: UserError where the text is blank or the place unknown.
    Use:    where answers depend on the group that a request names; measure with `group-swap`, with
            rows flagged benign: a defence that makes a model refuse everything leaves no gap.
    Source: Lee and Seong 2024, arXiv 2410.13334 (PCDefense); wording and places are ours.
    """

    text: str = ""
    where: Place = "system"

    name: ClassVar[str] = "prompt-defense"

    def __post_init__(self) -> None:
        check_choice(get_args(Place), where=self.where)
        if self.text and not self.text.strip():
            raise UserError(f"text is blank, got {self.text!r}; leave it out for the default")

    @property
    def words(self) -> str:
        """The text that is added."""
        return self.text.strip() or _default()

    def prepared(self, prompt: Turns, *, system: str | None = None) -> str | list[Message]:
        """The prompt with the defence.

        Fields: system is what the model would put before a prompt without a system turn.
        """
        if isinstance(prompt, str) and self.where != "system":
            return self._beside(prompt)
        own = turns_of(prompt)
        if self.where == "system":
            return with_system(own, self.words, otherwise=system)
        last = max((at for at, turn in enumerate(own) if turn["role"] == "user"), default=None)
        if last is None:
            raise UserError(f"{self.name} needs a user's turn to stand beside, got {prompt!r:.60}")
        changed = {**own[last], "content": self._beside(own[last]["content"])}
        return [*own[:last], changed, *own[last + 1 :]]

    def wrapped(self, model: Chat) -> "Defended":
        """The model behind the defence, for everything that takes a model that writes.

        Raises: UserError where the model does not write.
        """
        if not hasattr(model, "sample"):
            raise UserError(f"{self.name} needs a model that writes, got {model!r}")
        return Defended(model, self)

    def asking(self, ask: Ask) -> Ask:
        """A function from prompts to answers behind the defence."""

        def asked(prompts: Sequence[Any]) -> list[str]:
            return ask([self.prepared(prompt) for prompt in prompts])

        return asked

    def _beside(self, text: str) -> str:
        """The text with the defence before or behind it."""
        parts = (self.words, text) if self.where == "prefix" else (text, self.words)
        return "\n\n".join(parts)


@dataclass(frozen=True, eq=False)
class Defended:
    """A model whose every prompt carries a defence; it writes, and does nothing else."""

    model: Chat
    defense: PromptDefense

    @property
    def name(self) -> str:
        """The model's name, and that it is defended."""
        return f"{self.model.name} + {self.defense.name}"

    @property
    def fingerprint(self) -> str:
        """A hash of the model's own, the defence's text and its place."""
        defense = {"text": self.defense.words, "where": self.defense.where}
        return content_hash(canonical({"model": self.model.fingerprint, **defense}))

    @property
    def work(self) -> Counted:
        """What the model was asked, the defence's tokens among it."""
        return self.model.work

    def sample(self, prompts: Sequence[Turns], **settings: Any) -> Sequence[Sequence[Text]]:
        """The model's texts for the prompts with the defence; settings as the model's own."""
        system = getattr(self.model, "system", None)
        prepared = [self.defense.prepared(prompt, system=system) for prompt in prompts]
        return self.model.sample(prepared, **settings)


@functools.cache
def _default() -> str:
    """The text of prompt_defense.toml."""
    text = files("trueup.judging").joinpath("prompt_defense.toml").read_text(encoding="utf-8")
    words: str = tomllib.loads(text)["text"]
    return words.strip()
