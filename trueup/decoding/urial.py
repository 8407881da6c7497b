"""URIAL: an untuned model answers as an assistant behind an instruction and a few examples."""

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, ClassVar, Literal, get_args

from trueup.data.canonical import canonical
from trueup.data.messages import Message, Prompt
from trueup.decoding.protocol import DecoderNeeds
from trueup.errors import UserError, check_between, check_choice
from trueup.files import content_hash
from trueup.models.language_model import LanguageModel
from trueup.models.prefix_cache import PrefixedModel
from trueup.models.writer import Completing, Writer

Template = Literal["v4-help", "v4", "v1"]
OnMarks = Literal["escape", "reject"]

FENCE = "```"
STOPS = ("# Query", "# User")
EXAMPLES = 3
ROLES = {"user": "# Query:", "assistant": "# Answer:"}
_OPENING = re.compile(r"\s*```[^`]*[^`\s][^`]*")  # a fence with a language
_MARK = re.compile(r"(?:^|(?<=[\n\r]))#(?= (?:Query|Answer|User))")


@dataclass(frozen=True, kw_only=True)
class Urial:
    """An instruction and K restyled examples before every conversation, the same for all.

    prompt = prefix + every turn as: newline, "# Query:" or "# Answer:", newline, the turn between
             fences of three backticks, newline; the last answer is left open
    A system turn stands as an instruction of its own between the prefix and the first turn. The
    prefix costs about 700 words in every prompt, once for all of them behind `wrapped`, which also
    stops at the next query and gives what `finish` leaves.
    Fields: template "v4-help" has no refusal among its examples, "v4" has one and is safer; "v1"
            is that of the paper's tables, a query on one line; k examples, of which 0 leaves the
            instruction alone; prefix is other text instead of all this; on_marks says what becomes
            of a message line that looks like a turn's heading.
    Raises: UserError where a setting leaves its range; where a conversation has turns of tools, or
            ends with the assistant.
    Cost:   the prefix, read once for all prompts.
    Use:    for models that were never tuned to chat, with temperature 0. Not for code, mathematics
            or agents. Small models loop.
    Source: Lin et al. 2023, arXiv 2312.01552. The examples' words are ours, as are the system turn,
            earlier turns in "v1", and escaping. The authors' code deletes every fence of an
            answer; ours keeps blocks that open with a language.
    """

    template: Template = "v4-help"
    k: int = EXAMPLES
    prefix: str = ""
    on_marks: OnMarks = "escape"

    name: ClassVar[str] = "urial"
    role: ClassVar[Literal["prompt"]] = "prompt"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds()
    arxiv: ClassVar[str] = "2312.01552"
    stop: ClassVar[tuple[str, ...]] = STOPS

    def __post_init__(self) -> None:
        check_choice(get_args(Template), template=self.template)
        check_choice(get_args(OnMarks), on_marks=self.on_marks)
        check_between(0, EXAMPLES, k=self.k)

    @property
    def words(self) -> str:
        """The prefix, which all prompts begin with."""
        return self.prefix or prefix_of(self.template, self.k)

    def prompt(self, prompt: Prompt) -> str:
        """One conversation as the text that the model reads."""
        turns = _turns(prompt)
        if self.on_marks == "reject":
            _refuse_marks(turns)
        return self.words + urial_turns(turns, self.template)

    def prepare(self, prompts: Sequence[Prompt], writer: Writer) -> list[Prompt]:
        """Every conversation as text; the writer's own system turn counts where there is none."""
        system = getattr(writer, "system", None)
        return [self.prompt(_with_system(_turns(prompt), system)) for prompt in prompts]

    def finish(self, text: str) -> str:
        """The answer alone."""
        return parse_answer(text)

    def wrapped(self, writer: Writer) -> "UrialChat":
        """The model as an assistant: prepared, stopped, finished, the prefix read once.

        One behind a server goes on with the text, by the protocol's /completions.

        An edit that changes activations must be applied before, as `PrefixedModel` says.
        """
        if isinstance(writer, LanguageModel):
            writer = PrefixedModel(writer, self.words)
        elif isinstance(writer, Completing):
            writer = writer.completing()
        return UrialChat(writer, self)


@dataclass(frozen=True)
class Answered:
    """One answer."""

    text: str


@dataclass(frozen=True, eq=False)
class UrialChat:
    """A model behind `Urial`: whatever takes a model that writes takes it, audits too."""

    model: Any
    method: Urial

    @property
    def name(self) -> str:
        """The model's name, and the method's."""
        return f"{self.model.name} + {self.method.name}"

    @property
    def fingerprint(self) -> str:
        """A hash of the model's own and of all that the method adds."""
        told = {**vars(self.method), "words": self.method.words}
        return content_hash(canonical({"model": self.model.fingerprint, **told}))

    @property
    def work(self) -> Any:
        """What the model was asked, the prefix among it."""
        return self.model.work

    def sample(
        self, prompts: Sequence[Prompt], *, stop: Sequence[str] = (), **settings: Any
    ) -> list[list[Answered]]:
        """The model's answers; settings as the model's own."""
        prepared = self.method.prepare(prompts, self.model)
        stops = (*stop, *(mark for mark in STOPS if mark not in stop))
        found = self.model.sample(prepared, stop=stops, **settings)
        return [
            [Answered(self.method.finish(sample.text)) for sample in several] for several in found
        ]


def urial_prompt(
    messages: Prompt, *, template: Template = "v4-help", k: int = EXAMPLES, prefix: str = ""
) -> str:
    """The prompt of `Urial` for one message or conversation."""
    return Urial(template=template, k=k, prefix=prefix).prompt(messages)


def urial_turns(turns: Sequence[Message], template: Template) -> str:
    """A conversation in a template's layout, its last answer left open; headings are escaped."""
    has_system = turns[0]["role"] == "system"
    system = f"\n# Instruction\n\n{escaped(turns[0]['content'])}\n" if has_system else ""
    blocks = [_block(turn["role"], turn["content"], template) for turn in turns[int(has_system) :]]
    return system + "".join(blocks) + f"\n{ROLES['assistant']}\n{FENCE}\n"


def escaped(text: str) -> str:
    """The text with a backslash before what would be read as the heading of a turn."""
    return _MARK.sub(r"\\#", text)


def parse_answer(text: str) -> str:
    """What was written, cut where the answer ends.

    It ends at the first stop string, or at a line of three backticks that closes no block of its
    own; such a block opens with a line of three backticks and a language.
    """
    ends = [text.find(mark) for mark in STOPS if mark in text]
    lines: list[str] = []
    is_inside = False
    for line in text[: min(ends, default=len(text))].split("\n"):
        if line.strip() == FENCE and not is_inside:
            break
        if line.strip() == FENCE:
            is_inside = False
        elif _OPENING.fullmatch(line):
            is_inside = True
        lines.append(line)
    return "\n".join(lines).strip()


@functools.cache
def prefix_of(template: Template, k: int) -> str:
    """The instruction and the first k examples of a template."""
    known = _data()
    examples = [known["examples"][name] for name in known["templates"][template][:k]]
    turns = [
        _block(role, example[key].strip(), template)
        for example in examples
        for role, key in (("user", "query"), ("assistant", "answer"))
    ]
    return f"{known['instruction'].strip()}\n" + "".join(turns)


def _block(role: str, content: str, template: Template) -> str:
    """One closed turn."""
    text = escaped(content)
    if template == "v1" and role == "user":
        return f"\n{ROLES[role]}\n{FENCE}{text}{FENCE}\n"
    return f"\n{ROLES[role]}\n{FENCE}\n{text}\n{FENCE}\n"


def _turns(prompt: Prompt) -> list[Message]:
    """The prompt as turns of a system first, perhaps, then of user and assistant."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    turns = [
        {**turn, "role": "system" if turn["role"] == "developer" else turn["role"]}
        for turn in prompt
    ]
    for number, turn in enumerate(turns):
        if turn["role"] not in ROLES and not (turn["role"] == "system" and number == 0):
            raise UserError(
                f"urial lays out turns of user and assistant and a system turn before them, got "
                f"one of {turn['role']} as number {number + 1}; leave it out"
            )
    if not turns or turns[-1]["role"] != "user":
        raise UserError("urial answers a user's turn; the conversation must end with one")
    return turns


def _with_system(turns: list[Message], system: str | None) -> list[Message]:
    """The turns, the model's own system turn before them where they have none."""
    if not system or turns[0]["role"] == "system":
        return turns
    return [{"role": "system", "content": system}, *turns]


def _refuse_marks(turns: Sequence[Message]) -> None:
    """Raise UserError where a message has a line that looks like the heading of a turn."""
    for number, turn in enumerate(turns, start=1):
        found = _MARK.search(turn["content"])
        if found:
            line = turn["content"][found.start() :].splitlines()[0]
            raise UserError(
                f"message {number} holds a heading of the prompt's own form, got {line[:40]!r}; "
                "take it out, or set on_marks to escape"
            )


@functools.cache
def _data() -> Mapping[str, Any]:
    """The instruction and the examples of urial.toml."""
    text = files("trueup.decoding").joinpath("urial.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
