"""Alignment for honesty: fine-tuning on what the model itself turns out to know."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from trueup.errors import UserError, check_at_least, check_between, check_choice, check_positive
from trueup.judging.honesty import IDK_SENTENCE, classify, confidence_level
from trueup.objectives.sft import SFT

Strategy = Literal["absolute", "confidence-num", "confidence-verb", "multisample"]

PREFIXES = (  # of confidence levels 1 to 5
    "I'm really not sure about this, but ",
    "I'm not completely sure about this, but ",
    "I have no strong feelings either way, but ",
    "I'm fairly confident that ",
    "I'm absolutely certain that ",
)
KEPT_CAPITAL = re.compile(r"[A-D](?![\w' ])|I\b|[A-Z]{2}")  # options A to D, I, acronyms


@dataclass(frozen=True, kw_only=True)
class Honesty(SFT):
    """Alignment for honesty: answer what the samples show to be known, refuse the rest.

    accuracy a = right samples / samples, of the model before training
    absolute         a >= threshold: a right answer of its own; else the idk sentence
    confidence-num   a = 0: idk; else the accuracy in percent, then a right answer
    confidence-verb  a = 0: idk; else one of five phrases, ceil(5 a), then a right answer
    multisample      every sample a row, those that are not right replaced by the idk sentence

    The loss is that of supervised fine-tuning on these rows. `multisample` teaches P(idk) = 1 - a.

    Fields: samples are drawn at temperature 1 under `plain_prompt`, beside one greedy answer;
            threshold in (0, 1] of `absolute`: higher is more prudent and refuses more of what is
            known; keep_greedy_right: a right greedy answer is taken as it is, and `absolute`
            counts its question as known; off, answers are drawn among the right samples;
            reduction as in `SFT`.
    Edges:  the two confidence strategies refuse at a = 0 even where the greedy answer is right.
    Raises: UserError where a field leaves its range.
    Use:    for questions with known answers, so that the model says what it does not know:
            confidence-verb keeps accuracy best (honesty 74.1, accuracy 73.3 on TriviaQA, for 50.0
            and 73.7 before), multisample is the most honest (75.9, 68.9).
    Not:    to teach new facts: fine-tuning on the right answers of unknown questions leaves honesty
            at 50; nor where refusing something known costs most: multisample does so for 15.9 %.
    Source: Yang et al. 2023, arXiv 2312.07000. Right answers are drawn at random where
            the authors' code takes the first; the wording of prompt and of percentages is ours;
            I, acronyms and the options A to D keep their capital after a phrase. Their training
            set has as many questions with a right as with a wrong greedy answer: choose them so.
    """

    strategy: Strategy = "confidence-verb"
    samples: int = 10
    threshold: float = 0.1
    keep_greedy_right: bool = True
    name: ClassVar[str] = "honesty"
    source: ClassVar[str] = "questions"
    arxiv: ClassVar[str] = "2312.07000"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(get_args(Strategy), strategy=self.strategy)
        check_at_least(1, samples=self.samples)
        check_positive(threshold=self.threshold)
        check_between(0, 1, threshold=self.threshold)

    def rows(
        self,
        questions: Sequence[Mapping[str, Any]],
        greedy: Sequence[str],
        sampled: Sequence[Sequence[str]],
        rng: np.random.Generator,
    ) -> list[dict[str, str]]:
        """The rows {prompt, completion} to fine-tune on, from the model's own answers.

        Fields: questions hold `question` and `answers`; greedy one answer and sampled `samples`
                answers each, in the same order.
        Raises: UserError where a question has not its number of samples.
        """
        return [
            {"prompt": honest_prompt(row["question"]), "completion": completion}
            for row, first, several in zip(questions, greedy, sampled, strict=True)
            for completion in self._completions(row, first, several, rng)
        ]

    def _completions(
        self,
        row: Mapping[str, Any],
        greedy: str,
        sampled: Sequence[str],
        rng: np.random.Generator,
    ) -> list[str]:
        """What a question's rows answer: one text, or with `multisample` one per sample."""
        if len(sampled) != self.samples:
            raise UserError(
                f"question {row['question']!r} must have {self.samples} sampled answers, got "
                f"{len(sampled)}"
            )

        def is_right(response: str) -> bool:
            return classify(response, row["answers"], row["question"]) == "correct"

        if self.strategy == "multisample":
            return [text.strip() if is_right(text) else IDK_SENTENCE for text in sampled]
        right = [text.strip() for text in sampled if is_right(text)]
        keeps_greedy = self.keep_greedy_right and is_right(greedy)
        is_known = bool(right)
        if self.strategy == "absolute":
            is_known = keeps_greedy or len(right) / self.samples >= self.threshold
        if not is_known:
            return [IDK_SENTENCE]
        response = greedy.strip() if keeps_greedy else right[int(rng.integers(len(right)))]
        return [self._with_confidence(response, len(right))]

    def _with_confidence(self, response: str, n_correct: int) -> str:
        """The response behind the words for its accuracy, where the strategy has any."""
        if self.strategy == "confidence-num":
            return f"{_percent(n_correct, self.samples)} {response}"
        if self.strategy == "confidence-verb":
            prefix = PREFIXES[confidence_level(n_correct, self.samples) - 1]
            return prefix + _lowered(response)
        return response


def plain_prompt(question: str) -> str:
    """What the model before training is asked, greedily and for its samples."""
    return f"Q: {question}\nA: "


def honest_prompt(question: str) -> str:
    """The prompt that allows not to know: training-free honesty, and that of all rows and tests."""
    return (
        "Answer the question. If you don't know the answer, it is appropriate to say "
        f'"{IDK_SENTENCE}"\n{plain_prompt(question)}'
    )


def _percent(n_correct: int, samples: int) -> str:
    """The accuracy as a sentence; `only` up to one half."""
    only = "only " if 2 * n_correct <= samples else ""
    share = f"{100 * n_correct / samples:.0f}%"
    return f"I'm {only}about {share} confident, but here's what I think is correct."


def _lowered(response: str) -> str:
    """The response with its first letter small, as it goes on after a phrase."""
    if KEPT_CAPITAL.match(response):
        return response
    return response[:1].lower() + response[1:]
