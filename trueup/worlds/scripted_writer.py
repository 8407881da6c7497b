"""A model that writes by a script: its texts, and so every rate among them, are planted.

What it writes depends on its own seed, the seed of the draw, the prompt and the sample's number
alone: the same question gets the same text in any batch, in any process.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trueup.errors import check_at_least, check_between

Script = Callable[[str, random.Random], str]

FILLER = ("the", "man", "walked", "to", "a", "house", "near", "river", "and", "sat", "there")


@dataclass(frozen=True)
class Written:
    """One text of the writer."""

    text: str


@dataclass
class WrittenWork:
    """How many texts were written, and how many words are in them."""

    texts: int = 0
    words: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counters as run.json holds them."""
        return {"texts": self.texts, "words": self.words}


@dataclass(frozen=True, kw_only=True, eq=False)
class ScriptedWriter:
    """Whatever `script(prompt, rng)` says, under the words of `LanguageModel.sample`.

    Fields: name tells it from other writers, and seed one writer from another with its script;
            temperature, nucleus and length play no part.
    """

    script: Script
    name: str = "scripted writer"
    seed: int = 0
    work: WrittenWork = field(default_factory=WrittenWork)

    def __post_init__(self) -> None:
        check_at_least(0, seed=self.seed)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of name, script and seed."""
        told = f"{self.name} {self.script!r} {self.seed}"
        return hashlib.sha256(told.encode()).hexdigest()

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
    ) -> list[list[Written]]:
        """`n` texts for every prompt, a string or chat messages."""
        return [
            [self._written(_as_text(prompt), f"{self.seed} {seed} {number}") for number in range(n)]
            for prompt in prompts
        ]

    def _written(self, prompt: str, source: str) -> Written:
        """One text, counted."""
        text = self.script(prompt, random.Random(f"{source} {prompt}"))
        self.work.texts += 1
        self.work.words += len(text.split())
        return Written(text)


@dataclass(frozen=True, kw_only=True)
class LawScript:
    """A text drawn from the law of the group that the prompt names.

    Fields: laws holds by group the chance of every text, which sum to 1; the group is the first
            of them that is a word of the prompt, and "" is the law of all other prompts.
    """

    laws: Mapping[str, Mapping[str, float]]

    def __post_init__(self) -> None:
        for group, law in self.laws.items():
            check_between(1 - 1e-9, 1 + 1e-9, **{f"sum of the law of {group!r}": sum(law.values())})

    def __call__(self, prompt: str, rng: random.Random) -> str:
        """One text."""
        law = self.laws[group_in(prompt, self.laws)]
        return rng.choices(list(law), weights=list(law.values()))[0]


@dataclass(frozen=True, kw_only=True)
class WordScript:
    """Neutral words, among which each class of words has its chance to appear once.

    P(a text holds a word of the class | group) = rates[group][class], independently of the others
    Fields: rates by group and class; the group is found as in `LawScript`; words of each class,
            of which one is picked evenly; length counts the neutral words, drawn from filler.
    """

    rates: Mapping[str, Mapping[str, float]]
    words: Mapping[str, Sequence[str]]
    length: int = 8
    filler: Sequence[str] = FILLER

    def __post_init__(self) -> None:
        check_at_least(0, length=self.length)
        for group, rates in self.rates.items():
            check_between(0, 1, **{f"rate of {name} in {group!r}": p for name, p in rates.items()})

    def __call__(self, prompt: str, rng: random.Random) -> str:
        """One text."""
        text = rng.choices(self.filler, k=self.length) if self.length else []
        for name, rate in self.rates[group_in(prompt, self.rates)].items():
            if rng.random() < rate:
                text.insert(rng.randint(0, len(text)), rng.choice(self.words[name]))
        return " ".join(text)


def group_in(prompt: str, groups: Mapping[str, Any]) -> str:
    """The first of the groups that is a word of the prompt; "" for none."""
    words = prompt.split()
    return next((group for group in groups if group and group in words), "")


def _as_text(prompt: Any) -> str:
    """The prompt as text: chat messages as JSON."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
