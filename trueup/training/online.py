"""Online training: rounds of sampling, scoring and updates on what was sampled."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.data import Table
from trueup.errors import InterruptedRun, UserError
from trueup.files import write_table
from trueup.models import LanguageModel, Work
from trueup.models.tensors import load_tensors, save_tensors
from trueup.objectives import Objective
from trueup.objectives.protocol import Collecting
from trueup.stats import Estimate, mean
from trueup.training.batches import Plan
from trueup.training.collecting import Collector, Judges
from trueup.training.config import learning_rate
from trueup.training.distillation import Teachers
from trueup.training.losses import Batch
from trueup.training.own_sample_signs import (
    good_on_own_samples,
    highest,
    own_sample_note,
    reward_drop_low,
)
from trueup.training.own_samples import OwnSamples
from trueup.training.policy import Policy
from trueup.training.prompts import Prompts
from trueup.training.result import Progress, TrainingResult
from trueup.training.rounds import WHOLE_TABLE, Round, Rounds, load_round, save_round
from trueup.training.session import Session

HELD_OUT = "held_out"  # in the memory: the prompts' rewards before training, and at their highest


class OnlineSession(Session):
    """Training on the policy's own samples, resumable between and inside rounds."""

    prompts: Prompts
    rounds: Rounds
    collector: Collector
    teachers: Teachers | None
    held_out: OwnSamples | None = None
    rewards: NDArray[np.float64] | None = None  # of the held-out prompts, under the last weights

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
        assert isinstance(objective, Collecting)
        self.prompts = prompts
        self.teachers = teachers
        self.rounds = Rounds.of(len(prompts), objective, self.config)
        self.steps = self.rounds.steps
        frozen = policy.source if reference is None else reference
        calibrates = hasattr(objective, "calibration_samples")
        self.loop = self.make_loop(objective, policy)
        scoring = None
        if objective.needs.reference or calibrates or prompts.evaluation is not None:
            scoring = self.reference_scoring(frozen, policy)
        self.collector = Collector(
            objective=objective,
            prompts=prompts,
            config=self.config,
            processes=self.processes,
            policy=LanguageModel(policy.model, policy.source.tokenizer, name="policy"),
            reference=scoring if objective.needs.reference or calibrates else None,
            judges=judges,
            stopped=lambda: self.interrupts.seen,
        )
        if prompts.evaluation is not None:
            k = self.config.monitor_k if self.config.monitor else None
            collector = replace(self.collector, prompts=prompts.evaluation, reference=scoring)
            self.held_out = OwnSamples(collector, self.loop.frozen, k)
        if calibrates:
            self._calibrate(objective, frozen)
        self.restore()

    def go(self) -> None:
        """Take all rounds that are left."""
        began, first = time.monotonic(), self.state.step
        self._evaluate_where_due()
        while self.state.round < len(self.rounds) and not self.has_stalled():
            number = self.state.round
            found = self._round(number)
            plan = self._plan(number, found)
            while self.state.place < plan.steps and not self.has_stalled():
                wants_stop = self._step(number, plan, found)
                self.say(self.state.rows[-1]["loss"], began, first)
                self._after_step(number, plan, wants_stop=wants_stop)
            self.state.round += 1
            self.state.place = 0
        if not self.state.rows:
            raise UserError("no round kept a sample; mend the reward, or what the objective keeps")

    def result(self) -> TrainingResult:
        """What the rounds gave: the tables, and what became of the reward."""
        if self.held_out and self.state.evaluations[-1]["step"] != self.state.step:
            self._evaluate(self.held_out)
        best = self.restore_best()
        if best is not None and best != self.state.step:
            self.rewards = None
        items = pd.concat(
            [pd.read_parquet(path) for path in sorted(self._folder.glob("round-*.parquet"))],
            ignore_index=True,
        )
        return TrainingResult(
            model=self.loop.policy.finished(str(self.record.out)),
            steps=pd.DataFrame(self.state.rows),
            evaluations=pd.DataFrame(self.state.evaluations),
            items=items,
            guards=self._guards(items),
            work=self.state.work,
            best_step=best,
            notes=self._notes(items),
        )

    def finish(self, result: TrainingResult, settings: Mapping[str, Any]) -> None:
        """Save everything; of the rounds their tables stay."""
        super().finish(result, settings)
        if self.processes.is_main:
            for path in self._folder.glob("*.safetensors"):
                path.unlink()

    def _step(self, number: int, plan: Plan, found: Round) -> bool:
        """One update on a round's samples; whether someone asked to stop."""
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
        return wants_stop

    def _after_step(self, number: int, plan: Plan, *, wants_stop: bool) -> None:
        """Evaluate and save where it is time to, and stop where someone asked for it."""
        self._evaluate_where_due()
        is_last = number + 1 == len(self.rounds) and self.state.place == plan.steps
        if is_last or self.has_stalled():
            return
        if wants_stop:
            self.stop()
        if self.config.save_every and self.state.step % self.config.save_every == 0:
            self.save()

    def _evaluate_where_due(self) -> None:
        """Evaluate before the first step and every `eval_every` steps, once each."""
        step, every, evaluations = self.state.step, self.config.eval_every, self.state.evaluations
        is_due = step == 0 or (every and step % every == 0)
        if self.held_out and is_due and not (evaluations and evaluations[-1]["step"] == step):
            self._evaluate(self.held_out)

    def _evaluate(self, held_out: OwnSamples) -> None:
        """Answer the held-out prompts, and remember the best step."""
        state = self.state
        self.report(Progress("evaluating", state.step, self.steps, math.nan, None))
        try:
            measured, self.rewards = held_out.measured(state.work)
        except InterruptedRun:
            self.stop()
        row = {"step": state.step, **measured}
        if self.rewards is not None:
            row |= self._compared(self.rewards, row)
        past = [*state.evaluations, row]
        is_best = False
        if self.config.monitor_stop:
            is_best, state.waited = good_on_own_samples(past)
        elif self.config.early_stopping is not None:
            is_best = highest(past) == len(past) - 1
            state.waited = 0 if is_best else state.waited + 1
        self.note_evaluation(row, is_best=is_best)

    def _compared(self, rewards: NDArray[np.float64], row: Mapping[str, float]) -> dict[str, float]:
        """How far the reward fell from its highest, whose prompts' rewards are remembered."""
        earlier = self.state.evaluations
        if not earlier:
            self.state.memory[HELD_OUT] = {"first": rewards.tolist(), "highest": rewards.tolist()}
            return {"reward_drop_low": math.nan}
        known = self.state.memory[HELD_OUT]
        low = reward_drop_low(known["highest"], rewards, earlier=len(earlier))
        if highest([*earlier, row]) == len(earlier):
            known["highest"] = rewards.tolist()
        return {"reward_drop_low": low}

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

        def write() -> None:
            if len(found.examples):
                save_round(path, found)
            write_table(path.with_suffix(".parquet"), table)

        self.processes.on_main(write)
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
        of_reference = replace(
            self.collector,
            policy=LanguageModel(frozen.model, frozen.tokenizer, name="reference"),
            reference=None,
        )
        self.report(Progress("calibrating", 0, len(self.prompts), math.nan, None))
        seed = f"{self.config.seed}:calibration"
        samples = of_reference.drawn(everything, count, seed, self.state.work)
        rewards = of_reference.rewards(everything, samples)
        self.processes.on_main(lambda: save_tensors(path, {"rewards": rewards}))
        self.collector.calibration = rewards

    def _notes(self, items: pd.DataFrame) -> list[str]:
        """Remarks on the rows, on rounds that kept no sample, and what the monitor found."""
        notes = self.prompts.notes()
        if self.config.monitor:
            notes.append(own_sample_note(self.state.evaluations))
        if "kept" in items:
            empty = int((~items.groupby("round")["kept"].any()).sum())
            told = f"{empty} of {len(self.rounds)} rounds kept no sample and taught nothing"
            notes += [told] if empty else []
        return notes

    def _guards(self, items: pd.DataFrame) -> list[Estimate]:
        """The reward before and after on the same prompts, with the same random numbers.

        The prompts are those held out, else those of the first round, which is the untrained
        policy's and is sampled once more by the trained one. Intervals go over prompts.
        """
        if self.collector.judges.reward is None:
            return []
        if self.held_out is not None:
            before = np.array(self.state.memory[HELD_OUT]["first"])
            after = self.rewards
            if after is None:
                after = self.held_out.measured(Work())[1]
        else:
            indices = self.rounds.indices(0)
            first = items[items["round"] == 1].groupby("prompt", sort=False)["reward"].mean()
            before = first.loc[indices].to_numpy()
            seed = f"{self.config.seed}:0"
            samples = self.collector.drawn(indices, self.collector.count, seed, Work())
            after = self.collector.rewards(indices, samples).double().nanmean(dim=1).numpy()
        assert after is not None
        parts = {"before": before, "after": after, "change": after - before}
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
