"""Chains of decoders: prompt steps, then edits, then one search, in this declared order."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from trueup.data.messages import Prompt
from trueup.decoding import decoder_class
from trueup.decoding.plain import PlainSearch
from trueup.decoding.protocol import (
    Decoded,
    Decoder,
    DecoderNeeds,
    ModelEdit,
    PromptStep,
    Request,
    Search,
)
from trueup.errors import UserError, build
from trueup.files import content_hash
from trueup.models.language_model import LanguageModel
from trueup.models.prefix_cache import PrefixedModel
from trueup.models.reward import reward_identity
from trueup.models.writer import Completing, Writer

ROLES = {"prompt": "prompt steps", "edit": "edits", "search": "one search"}


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Decoders one after the other, itself a search: `guide-align+deal`.

    A prompt goes through the prompt steps from left to right; the search decodes what they made of
    it, with the model edited; the answer is finished from right to left. Rewards read the prompt
    as the user wrote it.

        with chain.applied(lm):
            found = chain.decode(chain.writer(lm), prompts, request)

    Raises: UserError where the order is another one, a decoder stands twice, or a step that begins
            every prompt with its own words is followed by another step.
    """

    parts: tuple[Decoder, ...]
    role: ClassVar[Literal["search"]] = "search"

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise UserError(f"a decoder stands once in a chain, got {self.name}")
        roles = [part.role for part in self.parts]
        order = list(ROLES)
        if roles != sorted(roles, key=order.index) or roles.count("search") > 1:
            told = ", ".join(f"{part.name} ({part.role})" for part in self.parts)
            raise UserError(f"a chain is {', '.join(ROLES.values())}, in this order; got {told}")
        for step, following in zip(self.steps, self.steps[1:], strict=False):
            if _words_of(step):
                raise UserError(
                    f"{step.name} lays out the whole prompt, which {following.name} cannot change "
                    f"then; write {following.name}+{step.name}"
                )

    @property
    def name(self) -> str:
        """The parts' names with a plus between them."""
        return "+".join(part.name for part in self.parts)

    @property
    def steps(self) -> list[PromptStep]:
        """The prompt steps."""
        return [part for part in self.parts if part.role == "prompt"]

    @property
    def edits(self) -> list[ModelEdit]:
        """The edits."""
        return [part for part in self.parts if part.role == "edit"]

    @cached_property
    def search(self) -> Search:
        """The search, plain sampling where none is named."""
        found = [part for part in self.parts if part.role == "search"]
        return found[0] if found else PlainSearch()

    @property
    def needs(self) -> DecoderNeeds:
        """What all parts need together."""
        needs = [part.needs for part in self.parts]
        return DecoderNeeds(
            rewards=sum(each.rewards for each in needs),
            white_box=bool(self.edits) or any(each.white_box for each in needs),
            models=tuple(name for each in needs for name in each.models),
        )

    @property
    def reads(self) -> str:
        """The contract of the rows that the search reads."""
        return str(getattr(self.search, "reads", "prompts"))

    @property
    def stop(self) -> tuple[str, ...]:
        """The texts that end an answer in the form that the steps give the prompt."""
        return tuple(text for step in self.steps for text in getattr(step, "stop", ()))

    @property
    def is_sampled(self) -> bool:
        """Whether tokens are sampled one by one and answers stay as the model writes them."""
        return self.search.name == "sample" and not self.stop

    def settings(self) -> dict[str, dict[str, Any]]:
        """Every part's settings by its name, as JSON holds them."""
        return {part.name: _settings(part) for part in self.parts}

    def files(self) -> dict[str, str]:
        """Every file and folder that a setting names, with a hash of what lies there."""
        named = {
            value
            for part in self.parts
            for value, default in _values(part)
            if isinstance(value, str | Path) and value != default and str(value)
        }
        found = sorted(Path(value) for value in named if Path(value).exists())
        return {str(path): content_hash(path) for path in found}

    @contextlib.contextmanager
    def applied(self, lm: Writer) -> Iterator[None]:
        """The model is edited inside the block, and as it was behind it."""
        self.check_model(lm)
        with ExitStack() as stack:
            for edit in self.edits:
                block: AbstractContextManager[None] = edit.applied(cast("LanguageModel", lm))
                stack.enter_context(block)
            yield

    def writer(self, lm: Writer) -> Writer:
        """The model to decode with.

        Where a step lays out the whole prompt, a model here reads the beginning that all prompts
        share only once, and one behind a server goes on with the text, in place of being asked it.
        """
        words = _words_of(self.steps[-1]) if self.steps else ""
        if not words:
            return lm
        if isinstance(lm, LanguageModel):
            return PrefixedModel(lm, words)
        return lm.completing() if isinstance(lm, Completing) else lm

    def decode(
        self, lm: Writer, prompts: Sequence[Prompt], request: Request
    ) -> list[list[Decoded]]:
        """As `Search.decode`; to be called inside `applied`."""
        self.check_model(lm)
        self.check_rewards(request.rewards)
        read = self.prepared(prompts, lm)
        stops = (*request.sampling.stop, *self.stop)
        sampling = replace(request.sampling, stop=tuple(dict.fromkeys(stops)))
        asked = prompts if self.steps else None
        found = self.search.decode(
            lm, read, Request(sampling=sampling, rewards=request.rewards, asked=asked)
        )
        return [
            [replace(one, text=self.finished(one.text)) for one in several] for several in found
        ]

    def prepared(self, prompts: Sequence[Prompt], lm: Writer) -> list[Prompt]:
        """The prompts as the steps make them."""
        read = list(prompts)
        if self.steps and any(isinstance(prompt, Mapping) for prompt in read):
            raise UserError(
                f"{self.steps[0].name} changes texts and messages, got prefix, docs and suffix; "
                "mark the documents in the text, with <doc> and </doc>"
            )
        for step in self.steps:
            read = step.prepare(read, lm)
        return read

    def finished(self, text: str) -> str:
        """The answer as the user sees it."""
        for step in reversed(self.steps):
            text = step.finish(text)
        return text

    def check_model(self, lm: Writer) -> None:
        """Raise UserError where a part needs the model itself and this one is behind a server."""
        if isinstance(lm, LanguageModel):
            return
        for part in self.parts:
            if part.needs.white_box or part.role == "edit":
                raise UserError(
                    f"{part.name} needs the model itself, got one behind a server; give its folder"
                )

    def check_rewards(self, rewards: Mapping[str, Any]) -> None:
        """Raise UserError where there are too few, or any that nobody reads."""
        least = self.needs.rewards
        if len(rewards) < least:
            raise UserError(f"{self.name} needs a reward, got none; give --reward, or reward=")
        if rewards and not least:
            raise UserError(
                f"{self.name} reads no reward, got {', '.join(rewards)}; take a search that does, "
                "such as best-of-n or deal"
            )


def compose(
    chain: str | Decoder | Sequence[Decoder], settings: Mapping[str, Any] | None = None
) -> Chain:
    """A chain by its parts' names with a plus between them, or of instances.

    Fields: settings are fields of the parts, by FIELD, or PART.FIELD where several have it.
    Raises: UserError for an unknown name or field, for a field that several parts have, or as
            `Chain` says.
    """
    given = dict(settings or {})
    if not isinstance(chain, str):
        return Chain(parts=tuple(_changed(_parts(chain), given)))
    names = [name.strip() for name in chain.split("+")]
    classes = {name: decoder_class(name) for name in names}
    dealt = _dealt(given, {name: _fields(cls) for name, cls in classes.items()})
    return Chain(parts=tuple(_built(name, classes[name], dealt[name]) for name in names))


def _built(name: str, cls: type[Decoder], settings: Mapping[str, Any]) -> Decoder:
    """The decoder with these settings; a field that must be given and is not is told."""
    missing = [
        field.name
        for field in dataclasses.fields(cast("Any", cls))
        if field.init
        and field.name not in settings
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{name} needs {', '.join(missing)}; give --set {missing[0]}=...")
    return build(name, cls, settings)


def _parts(chain: Decoder | Sequence[Decoder]) -> Sequence[Decoder]:
    """The decoders of a chain, whichever way they are given."""
    if isinstance(chain, Chain):
        return chain.parts
    return list(chain) if isinstance(chain, Sequence) else [chain]


def _changed(parts: Sequence[Decoder], settings: Mapping[str, Any]) -> Sequence[Decoder]:
    """The instances with some of their fields changed."""
    if not settings:
        return parts
    known = {part.name: _fields(type(part)) for part in parts}
    dealt = _dealt(settings, known)
    return [
        build(part.name, type(part), {n: getattr(part, n) for n in known[part.name]} | own)
        for part, own in zip(parts, dealt.values(), strict=True)
    ]


def _dealt(
    settings: Mapping[str, Any], known: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Every setting under the part that has it.

    Raises: UserError where none has it, or several have and none is named.
    """
    dealt: dict[str, dict[str, Any]] = {name: {} for name in known}
    spelled = {name.replace("-", "_"): name for name in known}
    for key, value in settings.items():
        owner, dot, field = key.rpartition(".")
        owners = [spelled.get(owner, owner)] if dot else [n for n in known if field in known[n]]
        owners = [name for name in owners if field in known.get(name, ())]
        if len(owners) > 1:
            raise UserError(f"{field!r} is a field of {', '.join(owners)}; say {owners[0]}.{field}")
        if not owners:
            told = "; ".join(f"{name}: {', '.join(of) or 'none'}" for name, of in known.items())
            raise UserError(f"{'+'.join(known)} has no field {key!r}; known: {told}")
        dealt[owners[0]][field] = value
    return dealt


def _fields(cls: type[Decoder]) -> list[str]:
    """The names of a decoder's fields; another package's may be no dataclass."""
    if not dataclasses.is_dataclass(cls):
        return []
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _values(part: Decoder) -> list[tuple[Any, Any]]:
    """Every field's value, and its default."""
    if not dataclasses.is_dataclass(part):
        return []
    fields = [field for field in dataclasses.fields(part) if field.init]
    return [(getattr(part, field.name), field.default) for field in fields]


def _settings(part: Decoder) -> dict[str, Any]:
    """A decoder's fields as JSON holds them."""
    return {name: _told(getattr(part, name)) for name in _fields(type(part))}


def _told(value: Any) -> Any:
    """A field's value as JSON holds it; a model or reward by what tells it from others."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _told(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_told(each) for each in value]
    known = getattr(value, "fingerprint", None)
    return known if isinstance(known, str) else reward_identity(value)


def _words_of(step: PromptStep) -> str:
    """What a step begins every prompt with, itself all of the prompt's layout; else nothing."""
    return str(getattr(step, "words", ""))
