"""Sparse teacher caches: the teachers read every example once, and their answers are stored.

A cache holds, for every token of the compared completions, the K likeliest next tokens and one
bucket for all others, in the order of examples, completions and tokens. How rows are laid out in
training does not matter to it. Whole logits live for one chunk of positions only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from trueup.errors import UserError
from trueup.models import Group, Work
from trueup.models.shared_prefix import Compared, Packed, PackedScorer
from trueup.models.token_divergence import (
    SparseLogps,
    sparse_teacher_advantage,
    sparse_teacher_kl,
)
from trueup.objectives import Objective
from trueup.training.config import TrainingConfig
from trueup.training.distillation import Teachers
from trueup.training.examples import Example, Examples
from trueup.training.processes import Processes
from trueup.training.scoring import Family, Scoring, autocast
from trueup.training.session import Session
from trueup.training.stored import fingerprint, store, stored

FORMAT = "teachers 1"  # raise it when the meaning of the stored numbers changes
SAMPLES = "samples"  # the name of a table that came up during training
COUNTED = "teachers"  # in a run's memory: the fingerprints of the answers whose cost is counted


def check_cached(objective: Objective, config: TrainingConfig) -> None:
    """Raise UserError where a cache is asked for and the objective has no teacher."""
    if config.teacher_top_k and not (objective.needs.teacher or objective.needs.advantage):
        raise UserError(
            f"{objective.name} has no teacher to cache; leave teacher_top_k at 0, got "
            f"{config.teacher_top_k}"
        )


def remembering(teachers: Teachers | None, session: Session) -> Teachers | None:
    """The teachers with a cache in the session's folder, where its settings ask for one."""
    config, processes = session.config, session.processes
    if teachers is None or not config.teacher_top_k:
        return teachers
    first = teachers.teacher
    scorer = PackedScorer(first.model, first.layout)
    scoring = Scoring.of(first, scorer, config, processes.device)

    def spent(mark: str, work: Work) -> None:
        counted = session.state.memory.setdefault(COUNTED, [])
        if mark not in counted:  # else the checkpoint has it
            counted.append(mark)
            session.state.work.add(**work.as_dict())

    cache = TeacherCache(
        teachers=teachers,
        scoring=replace(scoring, layout=teachers.narrowed(first.layout)),
        k=config.teacher_top_k,
        folder=session.record.folder,
        processes=processes,
        before_bucket=session.before_bucket,
        spent=spent,
    )
    return replace(teachers, cache=cache)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the teachers say at every compared token of a table of examples.

    Shapes: starts [N, W], the row of each completion's first token, of those that are compared;
            ids [T, K] int32; logps [M, T, K] and tail_logps [M, T] of the teacher and, for the
            advantage, its reference, in nats.
    """

    starts: Tensor
    ids: Tensor
    logps: Tensor
    tail_logps: Tensor

    def at(self, rows: Tensor, device: torch.device) -> list[SparseLogps]:
        """Some rows, a cache per teacher."""
        ids = self.ids[rows].to(device)
        return [
            SparseLogps(ids=ids, logps=logps[rows].to(device), tail_logps=tails[rows].to(device))
            for logps, tails in zip(self.logps, self.tail_logps, strict=True)
        ]

    def compare(
        self, packed: Packed, *, indices: Sequence[int], wanted: Tensor, words: int
    ) -> Compared:
        """The answers at the head rows of the compared tokens; tokens of one past share a row.

        Shapes: indices [B] of the examples that are packed; wanted [C] bool.
        """
        completion, offset, source = (
            value.cpu() for value in (packed.completion, packed.offset, packed.source)
        )
        tokens = wanted[completion]
        rows, place = torch.unique(source[tokens], return_inverse=True)
        order = torch.arange(len(place))
        first = torch.zeros_like(rows).scatter_reduce_(0, place, order, "amin", include_self=False)
        known = self.starts[list(indices)].flatten()[completion] + offset
        device = packed.source.device
        answers = self.at(known[tokens][first], device)

        def divergence(hidden: Tensor, weight: Tensor) -> Tensor:
            if len(answers) == 2:
                return sparse_teacher_advantage(hidden, weight[:words], *answers)
            return sparse_teacher_kl(hidden, weight[:words], *answers)

        return Compared(rows.to(device), tokens.to(device), divergence)


@dataclass(frozen=True, kw_only=True)
class TeacherCache:
    """The teachers' answers to whole tables of examples, from their files where these fit.

    Fields: scoring runs the teachers; k is how many of each teacher's likeliest tokens are kept;
            spent hears the answers' fingerprint and what they cost, whether now or when they were
            stored; known are the tables at hand.
    """

    teachers: Teachers
    scoring: Scoring
    k: int
    folder: Path
    processes: Processes
    before_bucket: Callable[[int, int], None]
    spent: Callable[[str, Work], None]
    known: dict[str, tuple[Examples, Answers]] = field(default_factory=dict)

    def learn(self, name: str, examples: Examples) -> Answers:
        """The answers to these examples, read from the file of that name or asked and stored."""
        teachers = self.teachers
        wanted = teachers.wanted(examples)
        families = [_compared(item, wanted) for item in examples.items]
        depends = [model.fingerprint for model in teachers.models]
        depends.append(f"{teachers.name} k={self.k} words={teachers.words}")
        mark = fingerprint(FORMAT, depends, self.scoring, {name: families})
        path = self.folder / f"teachers-{name}.safetensors"
        starts = _starts(families)
        found = stored(path, mark)
        if found is None:
            found = values, work = self._asked(families, starts)
            self.processes.on_main(lambda: store(path, mark, values, work))
        values, work = found
        self.spent(mark, work)
        everywhere = torch.zeros(len(examples), examples.width, dtype=torch.long)
        everywhere[:, torch.tensor(wanted)] = starts
        answers = Answers(starts=everywhere, **values)
        self.known[name] = (examples, answers)
        return answers

    def comparison(
        self, examples: Examples, indices: Sequence[int]
    ) -> Callable[[Packed], Compared]:
        """What compares packed rows of some of these examples with the answers."""
        at_hand = [answers for known, answers in self.known.values() if known is examples]
        [answers] = at_hand or [self.learn(SAMPLES, examples)]
        wanted = torch.tensor(self.teachers.wanted(examples) * len(indices))
        words = self.teachers.words
        return partial(answers.compare, indices=indices, wanted=wanted, words=words)

    @torch.no_grad()
    def _asked(self, families: Sequence[Family], starts: Tensor) -> tuple[dict[str, Tensor], Work]:
        """The teachers' answers at every token, and what they cost; the processes share it."""
        teachers, scoring, work = self.teachers, self.scoring, Work()
        values = self._room(families)
        parts = scoring.buckets(families)
        mine = self.processes.share(len(parts))
        for done, number in enumerate(mine):
            self.before_bucket(done, len(mine))
            part = [families[index] for index in parts[number]]
            packed = scoring.packed(part, Work())  # every teacher counts its own pass
            with autocast(scoring.device, scoring.precision):
                found = teachers.sparse(packed.to(scoring.device), self.k, work)
            rows = starts[parts[number]].flatten()[packed.completion] + packed.offset
            values["ids"][rows] = found[0].ids.cpu()[packed.source].int()
            for place, one in enumerate(found):
                kinds = {"logps": one.logps, "tail_logps": one.tail_logps}
                for name, value in kinds.items():
                    values[name][place, rows] = value.cpu()[packed.source].to(values[name].dtype)
        shared = {name: self._together(value) for name, value in values.items()}
        return shared, self.processes.total_work(work)

    def _room(self, families: Sequence[Family]) -> dict[str, Tensor]:
        """Zeros for the answers to all tokens."""
        tokens = sum(len(part) for family in families for one in family for part in one.completions)
        teachers = len(self.teachers.models)
        width = min(teachers * self.k, self.teachers.words)
        dtype = torch.float64 if self.scoring.dtype == torch.float64 else torch.float32
        return {
            "ids": torch.zeros(tokens, width, dtype=torch.int32),
            "logps": torch.zeros(teachers, tokens, width, dtype=dtype),
            "tail_logps": torch.zeros(teachers, tokens, dtype=dtype),
        }

    def _together(self, values: Tensor) -> Tensor:
        """What all processes found, each in rows that are 0 to the others."""
        if self.processes.count == 1:
            return values
        return self.processes.total(values.double()).to(values.dtype)


def _compared(item: Example, wanted: Sequence[bool]) -> list[Group]:
    """The example's prompts with the completions that are compared, and no others."""
    is_wanted = iter(wanted)
    groups = [
        Group(group.prompt, [part for part in group.completions if next(is_wanted)])
        for group in item.groups
    ]
    return [group for group in groups if group.completions]


def _starts(families: Sequence[Family]) -> Tensor:
    """The number of tokens before each completion, [N, W]."""
    lengths = torch.tensor(
        [[len(part) for group in family for part in group.completions] for family in families]
    )
    return (lengths.flatten().cumsum(0) - lengths.flatten()).reshape(lengths.shape)
