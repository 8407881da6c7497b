"""PORTIA: a pairwise judge sees two answers cut into aligned parts, so that order sways it less."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from trueup.data.messages import Prompt
from trueup.errors import UserError, check_at_least, check_choice
from trueup.judging.asking import Ask
from trueup.judging.judge_prompts import messages
from trueup.judging.judges import PairJudge
from trueup.judging.portia_prompts import Answer, Form, merge_prompt, parse_answer
from trueup.judging.segmenting import Cuts, Similarity, length_split, segments, semantic_split
from trueup.judging.splitting import split_sentences
from trueup.judging.verdicts import Verdict, mirrored, points

AskPair = Callable[[Sequence[str]], Sequence[Answer]]
Parse = Callable[[str, str], Answer]  # answer, prompt
Stage = Literal["plain", "length", "semantic"]
Rule = Literal["side", "mirrored"]
Fallback = Literal["tie", "average"]


@dataclass(frozen=True, kw_only=True)
class Portia:
    """How a pair is judged until both orders agree.

    plain:    the whole answers, in both orders
    length:   both cut at sentence ends into k parts of nearly equal length, shown part beside part
    semantic: cut so that the parts that stand together are most alike
    Each stage asks about the pairs on which the one before was inconsistent, in both orders.
    Fields: k is the number of parts, at most that of the shorter answer's sentences; similarity is
            `token_overlap` by default; form says what the judge is asked for: a verdict, a score
            for each, or one signed scale; rule says when two answers agree: the same winner
            ("side"), or the same number with its sign turned ("mirrored", a scale's stricter
            rule); inconsistent says what a pair gets on which the last stage disagreed: a tie, or
            the sign of the two answers' mean.
    Edges:  an answer of one sentence cannot be cut: the pair is judged plainly. An answer of the
            judge that cannot be read agrees with nothing; at the end the verdict is None.
    Raises: UserError where a field leaves its range.
    Source: Li et al. 2023, arXiv 2310.01432. k = 3, token overlap and the plain check first are
            reconstructed [R]. A judge that tosses coins becomes "consistent" by luck at each
            stage: read agreement and tie rate beside consistency.
    """

    k: int = 3
    stages: tuple[Stage, ...] = ("plain", "length", "semantic")
    form: Form = "relation"
    rule: Rule = "side"
    inconsistent: Fallback = "tie"
    similarity: Similarity | None = None

    def __post_init__(self) -> None:
        check_at_least(1, k=self.k)
        check_choice(get_args(Form), form=self.form)
        check_choice(get_args(Rule), rule=self.rule)
        check_choice(get_args(Fallback), inconsistent=self.inconsistent)
        order = [stage for stage in get_args(Stage) if stage in self.stages]
        if not order or list(self.stages) != order:
            raise UserError(
                "stages must be some of plain, length, semantic, in this order, each once, got "
                f"{self.stages!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the judge said of one pair in both orders at one stage.

    Fields: given and swapped are both told for answer 1 ("first"), whichever was shown first;
            cuts are those of both answers, None where they were shown whole.
    """

    stage: Stage
    cuts: tuple[Cuts, Cuts] | None
    given: Answer
    swapped: Answer
    consistent: bool
    verdict: Verdict | None


@dataclass(frozen=True, kw_only=True)
class PortiaResult:
    """The verdict on one pair ("first" is answer 1), and the readings that led to it.

    Fields: readings are those of every stage that was asked, the decisive one last.
    """

    readings: tuple[Reading, ...]

    @property
    def verdict(self) -> Verdict | None:
        """Which answer is better; None where the judge's answers could not be read."""
        return self.readings[-1].verdict

    @property
    def consistent(self) -> bool:
        """Whether both orders agreed at the last stage."""
        return self.readings[-1].consistent

    @property
    def stage(self) -> Stage:
        """The stage that gave the verdict."""
        return self.readings[-1].stage

    @property
    def cuts(self) -> tuple[Cuts, Cuts] | None:
        """Where both answers were cut for the verdict; None where they were shown whole."""
        return self.readings[-1].cuts

    @property
    def calls(self) -> int:
        """Questions to the judge: two a stage."""
        return 2 * len(self.readings)

    def __str__(self) -> str:
        how = "consistent" if self.consistent else "inconsistent"
        return f"{self.verdict or 'unread'}  {how}  {self.stage}  {self.calls} calls"


def portia_judge(
    ask_pair: AskPair,
    prompts: Sequence[Prompt],
    firsts: Sequence[str],
    seconds: Sequence[str],
    settings: Portia | None = None,
) -> list[PortiaResult]:
    """Judge pairs of answers, all pairs that are still open in one batch per stage.

    Fields: ask_pair takes whole prompts and tells of each which of the answers shown is better,
            see `asking` for a judge that answers in text.
    Raises: UserError where the lists differ in length.
    """
    chosen = settings or Portia()
    if not len(prompts) == len(firsts) == len(seconds):
        raise UserError(
            "prompts, firsts and seconds must be equally many, got "
            f"{len(prompts)}, {len(firsts)} and {len(seconds)}"
        )
    pairs = [
        _Pair(question, split_sentences(first), split_sentences(second))
        for question, first, second in zip(prompts, firsts, seconds, strict=True)
    ]
    still_open = pairs
    for stage in chosen.stages:
        shown = [_shown(pair, stage, chosen) for pair in still_open]
        texts = [text for one in shown for text in one.texts]
        answers = iter(ask_pair(texts) if texts else ())
        for pair, one in zip(still_open, shown, strict=True):
            pair.readings.append(_reading(one, next(answers), next(answers), chosen))
        still_open = [pair for pair in still_open if _is_open(pair, chosen)]
    return [PortiaResult(readings=tuple(pair.readings)) for pair in pairs]


def pair_judge(ask_pair: AskPair, settings: Portia | None = None) -> PairJudge:
    """PORTIA as any other judge of pairs."""

    def judge(
        prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[Verdict | None]:
        results = portia_judge(ask_pair, prompts, firsts, seconds, settings)
        return [result.verdict for result in results]

    return judge


def asking(ask: Ask, parse: Parse = parse_answer) -> AskPair:
    """A judge of pairs from one that answers in text (see `asker`) and a reader of its answers."""

    def ask_pair(prompts: Sequence[str]) -> list[Answer]:
        answers = ask([messages(prompt) for prompt in prompts])
        return [parse(text, prompt) for text, prompt in zip(answers, prompts, strict=True)]

    return ask_pair


@dataclass
class _Pair:
    """A question, the sentences of both answers, and what the judge has said so far."""

    question: Prompt
    first: list[str]
    second: list[str]
    readings: list[Reading] = field(default_factory=list)

    def parts(self, settings: Portia) -> int:
        """How many parts both answers can be cut into."""
        return min(settings.k, len(self.first), len(self.second))


@dataclass(frozen=True)
class _Shown:
    """A pair as one stage shows it: the prompts in both orders."""

    stage: Stage
    cuts: tuple[Cuts, Cuts] | None
    texts: tuple[str, str]


def _shown(pair: _Pair, stage: Stage, settings: Portia) -> _Shown:
    """The pair cut as the stage wants it; whole where it cannot be cut."""
    k = pair.parts(settings)
    cuts: tuple[Cuts, Cuts] | None = None
    if stage == "plain" or k < 2:
        stage, parts = "plain", (["".join(pair.first)], ["".join(pair.second)])
    else:
        cuts = (
            (length_split(pair.first, k), length_split(pair.second, k))
            if stage == "length"
            else semantic_split(pair.first, pair.second, k, settings.similarity)
        )
        parts = (segments(pair.first, cuts[0]), segments(pair.second, cuts[1]))
    both = [merge_prompt(pair.question, *order, settings.form) for order in (parts, parts[::-1])]
    return _Shown(stage, cuts, (both[0], both[1]))


def _is_open(pair: _Pair, settings: Portia) -> bool:
    """Whether a later stage can still change what was said of a pair."""
    return not pair.readings[-1].consistent and pair.parts(settings) > 1


def _reading(shown: _Shown, given: Answer, raw_swapped: Answer, settings: Portia) -> Reading:
    """The two answers of a stage, the swapped one mapped back to the answer that it means."""
    swapped = _turned(raw_swapped)
    sides = (side(given), side(swapped))
    is_read = None not in sides
    same_number = settings.rule == "side" or given == swapped
    verdict = sides[0]
    if not is_read:
        verdict = None
    elif sides[0] != sides[1]:
        verdict = "tie"
        if settings.inconsistent == "average":
            verdict = side(_number(given) + _number(swapped))
    return Reading(
        stage=shown.stage,
        cuts=shown.cuts,
        given=given,
        swapped=swapped,
        consistent=is_read and sides[0] == sides[1] and same_number,
        verdict=verdict,
    )


def side(answer: Answer) -> Verdict | None:
    """Which answer is meant: of a number its sign says it."""
    if answer is None or isinstance(answer, str):
        return answer
    return "tie" if answer == 0 else ("first" if answer > 0 else "second")


def _turned(answer: Answer) -> Answer:
    """The same answer told from the other side."""
    return mirrored(answer) if answer is None or isinstance(answer, str) else -answer


def _number(answer: Answer) -> float:
    """The answer as a number; a win counts as one."""
    if answer is None or isinstance(answer, str):
        return 2 * float(points([answer])[0]) - 1
    return answer
