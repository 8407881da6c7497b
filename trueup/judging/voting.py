"""Permuted-option voting: a choice is asked again with its options in other places, and counted."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Unpack, get_args

import numpy as np
from scipy.special import softmax
from scipy.stats import binom

from trueup.data.messages import Prompt
from trueup.errors import UserError, check_at_least, check_between, check_choice
from trueup.judging.asking import Ask, letter_probabilities
from trueup.judging.judge_prompts import laid_out, messages, texts
from trueup.judging.verdicts import LETTERS, parsed_letter
from trueup.stats import Estimate, Labels, mean, proportion

if TYPE_CHECKING:
    from trueup.models.endpoint import Endpoint
    from trueup.models.language_model import LanguageModel

VoteRule = Literal["majority", "plurality"]
Design = Literal["random", "cyclic"]
# questions, and the options of each as they are shown -> the place of the choice, None for none
Choose = Callable[[Sequence[Prompt], Sequence[Sequence[str]]], Sequence[int | None]]

LEAST = 1e-6  # of a letter: one that a server does not list still has some probability
TIE = 1e-9  # mean log-probabilities nearer than this are equal


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """A question with its options.

    Fields: id names the ballot and seeds its orders; options are texts by their own id.
    Raises: UserError where there is no option.
    """

    id: str
    question: Prompt
    options: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.options:
            raise UserError(f"ballot {self.id!r}: there must be at least one option, got none")


@dataclass(frozen=True, kw_only=True)
class Voting:
    """How often a choice is asked, in which orders, and what decides.

    majority:  the option with more than half of all rounds; an abstention is a vote for none
    plurality: the option with more votes than any other
    Votes are counted by the option's id, never by its letter or place.
    Fields: rounds None is one for each option; design draws a fresh order each round ("random"), or
            shifts one drawn order on by a place each round ("cyclic": as many rounds as options put
            each once in each place, which balances a liking for a place exactly); early_stop asks
            no more where the rest cannot change the decision; seed draws the orders, together with
            the ballot's id, so that neither other ballots nor the order of the options matter.
    Edges:  no decision (a tie, no majority): the winner is None, and never the first.
            Rounds make a judge worse who is right less than half of the time: see
            `majority_accuracy`; plurality with a fall-back is then the better rule.
    Raises: UserError where a field leaves its range.
    Source: Chen, Lu and Wang 2024, arXiv 2412.04690 (more than half of the rounds, random orders);
            cyclic shifts, plurality, early stop and 5 rounds are our choice [R].
    """

    rounds: int | None = 5
    rule: VoteRule = "majority"
    design: Design = "random"
    early_stop: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(get_args(VoteRule), rule=self.rule)
        check_choice(get_args(Design), design=self.design)
        if self.rounds is not None:
            check_at_least(1, rounds=self.rounds)

    def planned(self, ballot: Ballot) -> int:
        """The rounds of a ballot that is asked to its end."""
        return len(ballot.options) if self.rounds is None else self.rounds

    def order(self, ballot: Ballot, turn: int) -> list[str]:
        """The option ids as one round shows them."""
        drawn = sorted(ballot.options)
        which = turn if self.design == "random" else 0
        random.Random(f"{self.seed} {which} {ballot.id}").shuffle(drawn)
        shift = turn % len(drawn) if self.design == "cyclic" else 0
        return drawn[shift:] + drawn[:shift]

    def winner(self, votes: Mapping[str, int], planned: int) -> str | None:
        """What the votes decide, None where they do not."""
        (leader, most), second = _leaders(votes)
        is_decided = most > planned / 2 if self.rule == "majority" else most > second
        return leader if is_decided else None

    def is_settled(self, votes: Mapping[str, int], asked: int, planned: int) -> bool:
        """Whether no outcome of the rounds that are left can change the decision."""
        (_, most), second = _leaders(votes)
        left = planned - asked
        if self.rule == "plurality":
            return most - second > left
        return most > planned / 2 or most + left <= planned / 2


@dataclass(kw_only=True)
class Vote:
    """What became of one ballot.

    Fields: votes are by option id; rounds counts those that were asked, abstentions among them
            those whose answer named no option; winner is None where nothing was decided.
    """

    id: str
    votes: dict[str, int]
    abstentions: int = 0
    rounds: int = 0
    winner: str | None = field(default=None)

    def __str__(self) -> str:
        counted = ", ".join(f"{name} {count}" for name, count in self.votes.items() if count)
        decided = self.winner if self.winner is not None else "undecided"
        return f"{self.id}: {decided}  ({counted or 'no votes'}; {self.rounds} rounds)"


def permuted_vote(
    choose: Choose, ballots: Sequence[Ballot], settings: Voting | None = None
) -> list[Vote]:
    """Ask every ballot round by round, all that are still open in one batch, and count.

    Fields: choose is any judge of options, see `choosing` for one that answers in text.
    """
    chosen = settings or Voting()
    votes = [Vote(id=ballot.id, votes=dict.fromkeys(ballot.options, 0)) for ballot in ballots]
    still_open = list(zip(ballots, votes, strict=True))
    while still_open:
        orders = [chosen.order(ballot, vote.rounds) for ballot, vote in still_open]
        places = choose(
            [ballot.question for ballot, _ in still_open],
            [
                [ballot.options[name] for name in order]
                for (ballot, _), order in zip(still_open, orders, strict=True)
            ],
        )
        for (_, vote), order, place in zip(still_open, orders, places, strict=True):
            _count(vote, order, place)
        still_open = [pair for pair in still_open if _goes_on(*pair, chosen)]
    for ballot, vote in zip(ballots, votes, strict=True):
        vote.winner = chosen.winner(vote.votes, chosen.planned(ballot))
    return votes


def choosing(ask: Ask) -> Choose:
    """A chooser from a judge that answers in text (see `asker`); what names no letter abstains."""

    def choose(questions: Sequence[Prompt], options: Sequence[Sequence[str]]) -> list[int | None]:
        asked = [_question(*each, "none") for each in zip(questions, options, strict=True)]
        answers = ask([messages(text) for text in asked])
        return [
            _place(answer, text, len(several))
            for answer, text, several in zip(answers, asked, options, strict=True)
        ]

    return choose


def letter_vote(
    model: "LanguageModel | Endpoint", ballots: Sequence[Ballot], *, seed: int = 0
) -> list[dict[str, float]]:
    """The probability of each option, its letter weighed in every place; nothing is sampled.

    p = softmax over options of the mean over all cyclic shifts of log p(the option's letter)
    A liking for a letter or place that adds to its log-probability cancels exactly.
    Returns: probabilities by option id, NaN where the model gave no letter in some shift.
    """
    cyclic = Voting(rounds=None, design="cyclic", seed=seed)
    shown = [
        (ballot, cyclic.order(ballot, turn))
        for ballot in ballots
        for turn in range(len(ballot.options))
    ]
    prompts: list[Prompt] = [
        messages(_question(ballot.question, [ballot.options[name] for name in order]))
        for ballot, order in shown
    ]
    found = iter(letter_probabilities(model, prompts, [LETTERS[: len(o)] for _, o in shown]))
    result = []
    for ballot in ballots:
        total = dict.fromkeys(ballot.options, 0.0)
        for turn in range(len(ballot.options)):
            logps = np.log(np.maximum(next(found), LEAST))
            for name, logp in zip(cyclic.order(ballot, turn), logps.tolist(), strict=True):
                total[name] += logp / len(ballot.options)
        shares = softmax(np.array(list(total.values())))
        result.append(dict(zip(total, shares.tolist(), strict=True)))
    return result


def likeliest(probabilities: Mapping[str, float]) -> str | None:
    """The option with the highest probability; None where two share it, or it is NaN."""
    (leader, most), second = _leaders(probabilities)
    return leader if most - second > TIE else None


def majority_accuracy(p: float, rounds: int) -> float:
    """How often a majority of independent rounds is right, each of which is with probability p.

    sum over i > rounds / 2 of C(rounds, i) p^i (1 - p)^(rounds - i); below p = 1/2 less than p.
    """
    check_between(0, 1, p=p)
    check_at_least(1, rounds=rounds)
    return float(binom.sf(rounds // 2, rounds, p))


def undecided_share(votes: Sequence[Vote], **labels: Unpack[Labels]) -> Estimate:
    """The share of ballots without a decision."""
    named: Labels = {"metric": "undecided", **labels}
    return proportion(sum(vote.winner is None for vote in votes), len(votes), **named)


def abstention_share(votes: Sequence[Vote], **labels: Unpack[Labels]) -> Estimate:
    """The mean share of a ballot's rounds whose answer named no option."""
    named: Labels = {"metric": "abstentions", **labels}
    return mean([vote.abstentions / vote.rounds for vote in votes], **named)


def vote_accuracy(
    votes: Sequence[Vote], answers: Mapping[str, str], **labels: Unpack[Labels]
) -> Estimate:
    """The share of ballots decided for the right option, by ballot id; undecided is wrong."""
    named: Labels = {"metric": "accuracy", "ideal": 1.0, **labels}
    return proportion(sum(vote.winner == answers[vote.id] for vote in votes), len(votes), **named)


def _leaders(votes: Mapping[str, float]) -> tuple[tuple[str, float], float]:
    """The option with most votes, and the votes of the next."""
    ranked = sorted(votes.items(), key=lambda pair: -pair[1])
    return ranked[0], ranked[1][1] if len(ranked) > 1 else 0.0


def _count(vote: Vote, order: Sequence[str], place: int | None) -> None:
    """Add one round: the vote goes to the option that stood at the place."""
    vote.rounds += 1
    if place is None:
        vote.abstentions += 1
    else:
        vote.votes[order[place]] += 1


def _goes_on(ballot: Ballot, vote: Vote, settings: Voting) -> bool:
    """Whether a ballot needs another round."""
    planned = settings.planned(ballot)
    if vote.rounds >= planned:
        return False
    return not (settings.early_stop and settings.is_settled(vote.votes, vote.rounds, planned))


def _question(question: Prompt, options: Sequence[str], *others: str) -> str:
    """The prompt: the question, a lettered line per option, and what to reply with."""
    if len(options) > len(LETTERS):
        raise UserError(
            f"a ballot takes up to {len(LETTERS)} options, got {len(options)}; choose in rounds"
        )
    words = texts("ask")
    *listed, last = [*LETTERS[: len(options)], *others]
    letters = f"{', '.join(listed)} or {last}" if listed else last
    request = words["correct"] + words["letter_only"].format(letters=letters)
    return laid_out(question, options, request, head=words["quoted"] + "\n\n").text


def _place(answer: str, prompt: str, count: int) -> int | None:
    """The place that an answer names, None where it names none of the options."""
    letter = parsed_letter(answer, LETTERS[:count], prompt=prompt)
    return None if letter is None else LETTERS.index(letter)
