"""Judges whose leanings are planted: what an audit of judges must find, and what it must not.

An answer's quality is written into its text ("worth +1.200"), so a planted judge is a function of
what it reads: of two texts, or of a whole prompt in which cues are found by their words.
"""

import functools
import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from trueup.errors import check_at_least, check_between

Verdict = Literal["first", "second", "tie"]
Prompt = str | list[dict[str, str]]

LETTERS = "ABCDEFGHIJ"
TIE = -1  # the place of no answer: a tie
UNREADABLE = "Both have their merits, and it is hard to say."

_WORTH = re.compile(r"worth ([+-]\d+\.\d+)")
_ANSWER_LINE = re.compile(r'^Answer ([A-J]): (".*")$', re.MULTILINE)
# What gives a cue away. One that names a letter is about that answer, one inside an answer's text
# about it, any other about the answer that comes next.
CUES: dict[str, re.Pattern[str]] = {
    "bandwagon": re.compile(r"\d+% of .*?\banswer (?P<letter>[A-J])\b"),
    "authority": re.compile(
        r"\([^()]*\b(?:Journal|Annals|Proceedings|Professor|Institute|University)\b[^()]*\)"
    ),
    "distraction": re.compile(r"^Answer (?P<letter>[A-J]) went hiking", re.MULTILINE),
    "reflection": re.compile(r"let me think", re.IGNORECASE),
}


@dataclass(frozen=True)
class Said:
    """One answer of a planted judge."""

    text: str


@dataclass(frozen=True)
class Reading:
    """What a judge sees in a prompt: the answers, and which cue is about which of them."""

    options: tuple[str, ...]
    cued: tuple[tuple[str, int], ...]


def worth(text: str) -> float:
    """The quality that is written into a text; 0 where none is."""
    found = _WORTH.search(text)
    return float(found[1]) if found else 0.0


def planted_rows(gaps: Sequence[float]) -> list[dict[str, str]]:
    """Questions with a chosen answer that is better than the rejected one by each gap."""
    return [
        {
            "id": f"q{number}",
            "question": f"Which answer does question {number} want?",
            "chosen": f"The one, worth {gap:+.3f}.",
            "rejected": "The other, worth +0.000.",
        }
        for number, gap in enumerate(gaps)
    ]


@dataclass(frozen=True, kw_only=True)
class PlantedJudge:
    """A judge of known leanings: `judge(prompts, firsts, seconds)`, `judge.ask`, `judge.sample`.

    score_i = quality(text_i) + position [i is shown first] + length len(text_i) / 100
              + sum of the strengths of the cues about i
    Two answers: margin z = score_first - score_second; |z| <= tie_width is a tie; otherwise the
    first wins where z > 0, or with chance sigma(z) if `is_random`. More answers: the highest score,
    or a draw from softmax(scores).
    Fields: position below 0 prefers later answers; length is per 100 characters; cues holds
            strengths by the names of CUES; heed in [0, 1] is the part of all cues' and the
            position's terms that anything beside the one question (a system prompt, examples, a
            second look) takes away; always picks a place whatever is asked; unreadable is the
            share of answers that give no verdict. Randomness is drawn from seed, the number of the
            sample and the text: the same question gets the same answer for the same seed.
    """

    quality: Callable[[str], float] = worth
    position: float = 0.0
    length: float = 0.0
    cues: Mapping[str, float] = field(default_factory=dict)
    tie_width: float = 0.0
    heed: float = 0.0
    is_random: bool = False
    always: int | None = None
    unreadable: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(0, tie_width=self.tie_width)
        check_between(0, 1, heed=self.heed, unreadable=self.unreadable)

    def __call__(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[Verdict | None]:
        """The verdicts on pairs of texts; cues are found in the texts themselves."""
        verdicts: dict[int | None, Verdict | None] = {0: "first", 1: "second", TIE: "tie"}
        return [
            verdicts.get(self._pick(_reading_of(pair), f"{self.seed} {prompt} {pair}"))
            for prompt, *pair in zip(prompts, firsts, seconds, strict=True)
        ]

    def ask(self, prompts: Sequence[Prompt]) -> list[str]:
        """The answers to whole prompts, read as text; a letter, or a sentence without one."""
        return [several[0].text for several in self.sample(prompts)]

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> list[list[Said]]:
        """`ask` under the words of `LanguageModel.sample`; temperature plays no part."""
        return [
            [self._said(prompt, f"{self.seed} {seed} {number}") for number in range(n)]
            for prompt in prompts
        ]

    def scores(self, reading: Reading, *, heeded: float = 0.0) -> np.ndarray:
        """The score of every answer, [K], `heeded` of the leanings taken away."""
        scores = np.array([self.quality(text) for text in reading.options])
        scores += np.array([len(text) for text in reading.options]) * self.length / 100
        scores[0] += (1 - heeded) * self.position
        for cue, place in reading.cued:
            scores[place] += (1 - heeded) * self.cues.get(cue, 0.0)
        return scores

    def _said(self, prompt: Prompt, source: str) -> Said:
        """The answer to one prompt: of its turns, the last one that shows answers is judged."""
        turns = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
        readings = [read for read in map(reading_of_prompt, turns) if read.options]
        if not readings:
            return Said(UNREADABLE)
        heeded = self.heed if len(turns) > 1 else 0.0
        place = self._pick(readings[-1], f"{source} {turns}", heeded)
        if place is None:
            return Said(UNREADABLE)
        return Said(LETTERS[len(readings[-1].options) if place == TIE else place])

    def _pick(self, reading: Reading, source: str, heeded: float = 0.0) -> int | None:
        """The place of the answer that wins; None for no verdict."""
        draws = random.Random(source) if self.is_random or self.unreadable else None
        if draws is not None and draws.random() < self.unreadable:
            return None
        if self.always is not None:
            return self.always
        scores = self.scores(reading, heeded=heeded)
        if len(scores) == 2 and self.tie_width > 0 and np.ptp(scores) <= self.tie_width:
            return TIE
        if draws is None or not self.is_random:
            return int(scores.argmax())
        weights = np.exp(scores - scores.max()).cumsum()
        return int((weights < draws.random() * weights[-1]).sum())


@functools.lru_cache(maxsize=100_000)
def reading_of_prompt(text: str) -> Reading:
    """The answers that a prompt lists, and the cues in it."""
    lines = list(_ANSWER_LINE.finditer(text))
    options = tuple(str(json.loads(line[2])) for line in lines)
    cued = [
        (name, place)
        for name, pattern in CUES.items()
        for cue in pattern.finditer(text)
        if (place := _place_of(cue, lines)) is not None
    ]
    return Reading(options, tuple(cued))


def expected_agreement(margins: Sequence[float], others: Sequence[float]) -> float:
    """How often two independent draws of sigma(margin) agree, a mean over items.

    mean of p q + (1 - p) (1 - q)
    """
    p, q = (1 / (1 + np.exp(-np.asarray(side, dtype=float))) for side in (margins, others))
    return math.fsum(p * q + (1 - p) * (1 - q)) / len(p)


def _reading_of(texts: Sequence[str]) -> Reading:
    """The reading of answers that stand alone."""
    cued = [
        (name, place)
        for place, text in enumerate(texts)
        for name, pattern in CUES.items()
        for _ in pattern.finditer(text)
    ]
    return Reading(tuple(texts), tuple(cued))


def _place_of(cue: re.Match[str], lines: Sequence[re.Match[str]]) -> int | None:
    """Which answer a cue is about."""
    if "letter" in cue.groupdict():
        letters = [line[1] for line in lines]
        return letters.index(cue["letter"]) if cue["letter"] in letters else None
    later = [place for place, line in enumerate(lines) if line.end() > cue.start()]
    return later[0] if later else None
