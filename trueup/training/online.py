"""Online training: rounds of sampling, scoring and updates on what was sampled."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trueup.data import Table
from trueup.errors import InterruptedRun, UserError
from trueup.files import write_table
from trueup.models import LanguageModel
from trueup.objectives import Objective
from trueup.objectives.protocol import Collecting
from trueup.stats import Estimate, mean
from trueup.training.batches import Plan
from trueup.training.collecting import Collector, Judges, Round, load_round, save_round
from trueup.training.config import TrainingConfig, learning_rate
from trueup.training.distillation import Teachers
from trueup.training.losses import Batch
from trueup.training.policy import Policy
from trueup.training.prompts import Prompts
from trueup.training.result import Progress, TrainingResult
from trueup.training.session import Session
from trueup.training.tensors import load_tensors, save_tensors

WHOLE_TABLE = ("dispreferred", "imitated")  # kinds whose samples are drawn for all rows at once


@dataclass(frozen=True)
class Rounds:
    """When samples are drawn, and how long a round's updates last.

    Fields: prompts are those of the table, per_round those of a round; starts are the optimiser
            steps before which a round is drawn, and steps is where the last one ends.
    """

    prompts: int
    per_round: int
    starts: tuple[int, ...]
    steps: int
    seed: int
    shuffle: bool

    @classmethod
    def of(cls, count: int, objective: Objective, config: TrainingConfig) -> "Rounds":
        """The rounds over `count` prompts.

        Kinds of WHOLE_TABLE draw all prompts at once, and again after `warmup_steps` every
        `refresh_every` steps where the objective says so; others draw `round_prompts` at a time.
        """
        if objective.data in WHOLE_TABLE:
            steps = config.steps or config.epochs * math.ceil(count / config.batch_size)
            every = getattr(objective, "refresh_every", 0)
            first = max(1, getattr(objective, "warmup_steps", 0))
            again = range(first, steps, every) if every else ()
            return cls(count, count, (0, *again), steps, config.seed, config.shuffle)
        size = min(config.round_prompts or config.batch_size, count)
        each = config.round_epochs * math.ceil(size / config.batch_size)
        wanted = config.epochs * math.ceil(count / size)
        number = math.ceil(config.steps / each) if config.steps else wanted
        starts = tuple(range(0, number * each, each))
        return cls(count, size, starts, number * each, config.seed, config.shuffle)

    def __len__(self) -> int:
        return len(self.starts)

    def indices(self, number: int) -> list[int]:
        """The prompts of a round."""
        if self.per_round == self.prompts:
            return list(range(self.prompts))
        return Plan(self.prompts, self.per_round, 0, self.seed, self.shuffle).batch(number)

    def length(self, number: int) -> int:
        """The optimiser steps that a round is meant to last."""
        return ([*self.starts, self.steps])[number + 1] - self.starts[number]


class OnlineSession(Session):
    """Training on the policy's own samples, resumable between and inside rounds."""

    prompts: Prompts
    rounds: Rounds
    collector: Collector
    teachers: Teachers | None

    def prepare(
        self,
        objective: Objective,
        policy: Policy,
        prompts: Prompts,
        reference: LanguageModel | None,
        judges: Judges,
        teachers: Teachers | None,
    ) -> None:
        """Keep a frozen reference where one is needed, then stand where the run stands."""
        if self.processes.count > 1:
            raise UserError(
                f"{objective.name} trains on own samples, which one process draws; launch one"
            )
        assert isinstance(objective, Collecting)
        self.prompts = prompts
        self.teachers = teachers
        self.rounds = Rounds.of(len(prompts), objective, self.config)
        self.steps = self.rounds.steps
        frozen = None
        if objective.needs.reference or hasattr(objective, "calibration_samples"):
            frozen = policy.source if reference is None else reference
        self.loop = self.make_loop(objective, policy)
        sampler = LanguageModel(policy.model, policy.source.tokenizer, name="policy")
        self.collector = Collector(
            objective=objective,
            prompts=prompts,
            config=self.config,
            policy=sampler,
            reference=None if frozen is None else self.reference_scoring(frozen, policy),
            judges=judges,
            stopped=lambda: self.interrupts.seen,
        )
        if frozen is not None:
            self._calibrate(objective, frozen)
        self.restore()

    def go(self) -> None:
        """Take all rounds that are left."""
        began, first = time.monotonic(), self.state.step
        while self.state.round < len(self.rounds):
            number = self.state.round
            found = self._round(number)
            plan = self._plan(number, found)
            while self.state.place < plan.steps:
                self._step(number, plan, found)
                self.say(self.state.rows[-1]["loss"], began, first)
            self.state.round += 1
            self.state.place = 0
        if not self.state.rows:
            raise UserError("no round kept a sample; mend the reward, or what the objective keeps")

    def result(self) -> TrainingResult:
        """What the rounds gave: the tables, and what became of the reward."""
        items = pd.concat(
            [pd.read_parquet(path) for path in sorted(self._folder.glob("round-*.parquet"))],
            ignore_index=True,
        )
        return TrainingResult(
            model=self.loop.policy.finished(str(self.record.out)),
            steps=pd.DataFrame(self.state.rows),
            evaluations=pd.DataFrame(),
            items=items,
            guards=self._guards(items),
            work=self.state.work,
            notes=[*self.prompts.notes(), *self._empty_rounds(items)],
        )

    def finish(self, result: TrainingResult, settings: Mapping[str, Any]) -> None:
        """Save everything; of the rounds their tables stay."""
        super().finish(result, settings)
        for path in self._folder.glob("*.safetensors"):
            path.unlink()

    def _step(self, number: int, plan: Plan, found: Round) -> None:
        """One update on a round's samples."""
        indices = plan.batch(self.state.place)
        reference = None if found.reference is None else found.reference[indices]
        share = self.rounds.length(number) * self.state.place / plan.steps
        row, wants_stop = self.loop.step(
            Batch(found.examples, indices, reference, teachers=self.teachers),
            self.state,
            rate=learning_rate(self.config, self.rounds.starts[number] + share, self.steps),
            epoch=number + 1,
            stop=self.interrupts.seen,
        )
        row |= found.means
        self.processes.track(row, self.state.step)
        self.state.place += 1
        is_last = number + 1 == len(self.rounds) and self.state.place == plan.steps
        if wants_stop and not is_last:
            self.stop()
        if self.config.save_every and self.state.step % self.config.save_every == 0 and not is_last:
            self.save()

    def _round(self, number: int) -> Round:
        """The round under way, as it was drawn before a stop, or drawn now."""
        path = self._folder / f"round-{number:06d}.safetensors"
        if self.state.place:
            return load_round(path)
        self.report(Progress("sampling", self.state.step, self.steps, math.nan, None))
        indices = self.rounds.indices(number)
        try:
            found, table = self.collector.collect(
                number, indices, self.state.memory, self.state.work
            )
        except InterruptedRun:
            self.stop()
        if len(found.examples):
            save_round(path, found)
        write_table(path.with_suffix(".parquet"), table)
        return found

    def _plan(self, number: int, found: Round) -> Plan:
        """The updates of a round: its whole length, or as often over the samples as asked."""
        count = len(found.examples)
        seed = self.config.seed + 1009 * (number + 1)
        size = self.config.batch_size
        steps = self.config.round_epochs * math.ceil(count / size)
        if self.loop.objective.data in WHOLE_TABLE:
            steps = self.rounds.length(number)
        return Plan(count, size, steps, seed, self.config.shuffle)

    def _calibrate(self, objective: Objective, frozen: LanguageModel) -> None:
        """Rewards of the reference's own samples for every prompt, drawn once and stored."""
        count = getattr(objective, "calibration_samples", 0)
        if not count:
            return
        path = self._folder / "calibration.safetensors"
        if path.is_file():
            self.collector.calibration = load_tensors(path)[0]["rewards"]
            return
        everything = range(len(self.prompts))
        of_reference = Collector(
            objective=objective,
            prompts=self.prompts,
            config=self.config,
            policy=LanguageModel(frozen.model, frozen.tokenizer, name="reference"),
            reference=None,
            judges=self.collector.judges,
            stopped=self.collector.stopped,
        )
        self.report(Progress("calibrating", 0, len(self.prompts), math.nan, None))
        samples = of_reference.drawn(everything, count, f"{self.config.seed}:calibration")
        rewards = of_reference.rewards(everything, samples)
        self.state.work.add(**of_reference.policy.work.as_dict())
        save_tensors(path, {"rewards": rewards})
        self.collector.calibration = rewards

    def _empty_rounds(self, items: pd.DataFrame) -> list[str]:
        """A note where rounds kept no sample."""
        if "kept" not in items:
            return []
        empty = int((~items.groupby("round")["kept"].any()).sum())
        told = f"{empty} of {len(self.rounds)} rounds kept no sample and taught nothing"
        return [told] if empty else []

    def _guards(self, items: pd.DataFrame) -> list[Estimate]:
        """The reward before and after on the same prompts, with the same random numbers.

        Before are the first round's samples of the untrained policy; after, the trained policy
        samples those prompts once more. Intervals go over prompts.
        """
        if self.collector.judges.reward is None:
            return []
        indices = self.rounds.indices(0)
        first = items[items["round"] == 1].groupby("prompt", sort=False)["reward"].mean()
        before = first.loc[indices].to_numpy()
        seed = f"{self.config.seed}:0"
        samples = self.collector.drawn(indices, self.collector.count, seed)
        after = self.collector.rewards(indices, samples).double().nanmean(dim=1).numpy()
        parts: dict[str, np.ndarray] = {
            "before": before,
            "after": after,
            "change": after - before,
        }
        return [
            mean(values, audit="training", metric="reward", slice=name)
            for name, values in parts.items()
        ]

    @property
    def _folder(self) -> Path:
        """Where rounds are kept."""
        folder = self.record.folder / "rounds"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def table(self) -> Table:
        """The user's rows."""
        return self.prompts.table
