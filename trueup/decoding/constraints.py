"""Constraints that a program can check, as rewards: keywords, length, pattern, any predicate."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trueup.errors import UserError, check_at_least, check_choice
from trueup.models.reward import Reward


@dataclass(frozen=True, kw_only=True)
class Keywords:
    """Which of the words a completion holds: whole words, case aside, no other forms of them.

    soft = words present / words; hard = 1 if all are present, else 0
    Fields: words are the same for all prompts, or by prompt.
    Edges:  no words are all present: 1.
    Source: Huang et al. 2024, arXiv 2402.06147; how words are matched is our choice.
    """

    words: tuple[str, ...] | Mapping[str, Sequence[str]]
    mode: Literal["soft", "hard"] = "soft"

    def __post_init__(self) -> None:
        check_choice(("soft", "hard"), mode=self.mode)
        if isinstance(self.words, str):
            raise UserError(f"words must be a list of words, got the text {self.words!r}")

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The coverage of every completion, in [0, 1]."""
        pairs = zip(prompts, completions, strict=True)
        shares = [_coverage(self._of(prompt), text) for prompt, text in pairs]
        return [float(share == 1) for share in shares] if self.mode == "hard" else shares

    def _of(self, prompt: str) -> Sequence[str]:
        """The words asked for under one prompt."""
        if not isinstance(self.words, Mapping):
            return self.words
        if prompt not in self.words:
            raise UserError(f"keywords: has no words for the prompt {prompt!r:.60}; add them")
        return self.words[prompt]


@dataclass(frozen=True, kw_only=True)
class MaxWords:
    """Whether a completion has at most `limit` words.

    hard = 1 if it has, else 0; soft = 0 if it has, else the number of words too many, negative
    Source: Huang et al. 2024, arXiv 2402.06147; both forms are our reading of a length limit.
    """

    limit: int
    mode: Literal["soft", "hard"] = "hard"

    def __post_init__(self) -> None:
        check_at_least(0, limit=self.limit)
        check_choice(("soft", "hard"), mode=self.mode)

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The reward of every completion."""
        excess = [len(text.split()) - self.limit for text in completions]
        if self.mode == "hard":
            return [float(over <= 0) for over in excess]
        return [-float(max(0, over)) for over in excess]


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Whether the pattern is found in a completion: 1, else 0.

    Fields: absent turns it round: 1 where the pattern is not found.
    """

    pattern: str
    absent: bool = False

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(f"regex: {error}, got {self.pattern!r}; mend the pattern") from error

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """1 or 0 for every completion."""
        pattern = re.compile(self.pattern)
        return [float((pattern.search(text) is None) == self.absent) for text in completions]


@dataclass(frozen=True)
class Predicates:
    """The share of plain Python predicates of the text that hold.

    Edges: no predicate: 1.
    """

    checks: Sequence[Callable[[str], bool]]

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The share for every completion, in [0, 1]."""
        count = max(1, len(self.checks))
        return [
            sum(bool(check(text)) for check in self.checks) / count if self.checks else 1.0
            for text in completions
        ]


def read_constraint(source: str) -> Reward | None:
    """The constraint that a source names, None where it names none.

    keywords:A,B      the share of the words that are there
    all-keywords:A,B  1 where all are there
    max-words:N       1 where there are at most N words
    regex:PATTERN     1 where the pattern is found
    no-regex:PATTERN  1 where it is not
    """
    kind, sign, rest = source.partition(":")
    make = _SOURCES.get(kind)
    return make(rest) if sign and make else None


def _coverage(words: Sequence[str], text: str) -> float:
    """The share of the words that the text holds."""
    if not words:
        return 1.0
    folded = text.casefold()
    found = [
        re.search(rf"(?<!\w){re.escape(word.casefold())}(?!\w)", folded) is not None
        for word in words
    ]
    return sum(found) / len(words)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"max-words must be a whole number, got {text!r}") from error


_SOURCES: dict[str, Callable[[str], Reward]] = {
    "keywords": lambda rest: Keywords(words=_listed(rest)),
    "all-keywords": lambda rest: Keywords(words=_listed(rest), mode="hard"),
    "max-words": lambda rest: MaxWords(limit=_whole(rest)),
    "regex": lambda rest: Matches(pattern=rest),
    "no-regex": lambda rest: Matches(pattern=rest, absent=True),
}
