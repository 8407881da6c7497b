"""Offline training: the rows are there, and every epoch goes over them."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from torch import Tensor

from trueup.data import Table
from trueup.models import LanguageModel, Work
from trueup.objectives import Objective
from trueup.training.batches import Plan, dependent_batches
from trueup.training.checkpoints import State
from trueup.training.config import learning_rate
from trueup.training.data import TrainingData
from trueup.training.distillation import Teachers
from trueup.training.examples import Examples, mismatched
from trueup.training.guards import guards
from trueup.training.losses import Batch
from trueup.training.monitoring import Monitor, ches_note, good_so_far, overoptimisation_note
from trueup.training.policy import Policy
from trueup.training.reference import Reference, reference_logps, scored_once
from trueup.training.result import TrainingResult
from trueup.training.session import Session


class OfflineSession(Session):
    """Training on given rows, with the reference's log-probabilities computed once."""

    data: TrainingData
    plan: Plan
    reference: Reference
    teachers: Teachers | None
    taught: dict[str, Tensor]
    monitor: Monitor | None = None
    risk: str | None = None  # of displacement, of the pairs before the first step

    def prepare(
        self,
        objective: Objective,
        policy: Policy,
        data: TrainingData,
        reference: LanguageModel | None,
        teachers: Teachers | None,
        settings: Mapping[str, Any],
    ) -> None:
        """Ask the frozen models once, then put policy and optimiser where the run stands."""
        self.data = data
        self.teachers = teachers
        self.plan = Plan.of(len(data.train), self.config)
        self.steps = self.plan.steps
        self.reference = reference_logps(
            self.reference_scoring(reference, policy),
            model=settings["reference"] or settings["model"],
            objective=objective,
            data=data,
            plan=self.plan,
            path=self.record.reference,
            processes=self.processes,
            before_bucket=self.before_bucket,
        )
        self.state.work.add(**self.reference.work.as_dict())
        self.taught = self._teacher_logps(objective, policy)
        self._ask_teachers()
        self.loop = self.make_loop(objective, policy)
        if self.config.monitor:
            self._start_monitor(objective, policy)
        self.restore()

    def _start_monitor(self, objective: Objective, policy: Policy) -> None:
        """Score the pairs of the model before its first step, and get ready to measure."""
        examples = self.data.evaluation
        assert examples is not None
        frozen, k = self.loop.frozen, self.config.monitor_k
        self.monitor = Monitor(frozen, self.processes, examples, k)
        if objective.data == "pairs" and self.processes.is_main:
            self.risk = ches_note(policy.source, self.data.train, self.state.work)

    def _notes(self) -> list[str]:
        """Remarks on the data, and what the monitor found."""
        notes = self.data.notes()
        if self.monitor is not None:
            notes += [overoptimisation_note(self.state.evaluations)]
            notes += [] if self.risk is None else [self.risk]
        return notes

    def _teacher_logps(self, objective: Objective, policy: Policy) -> dict[str, Tensor]:
        """The teacher's log-probabilities of whole completions, where they rank subsets."""
        if self.teachers is None or objective.data != "demonstrations":
            return {}
        found = scored_once(
            self.reference_scoring(self.teachers.teacher, policy),
            {
                name: [*examples.families(range(len(examples)))]
                for name, examples in self._parts().items()
            },
            model=self.teachers.teacher.fingerprint,
            path=self.record.folder / "teacher-scores.safetensors",
            processes=self.processes,
            before_bucket=self.before_bucket,
        )
        self.state.work.add(**found.work.as_dict())
        return found.values

    def _ask_teachers(self) -> None:
        """Have the teachers' answers to all examples at hand, where these are cached."""
        if self.teachers is not None and self.teachers.cache is not None:
            for name, examples in self._parts().items():
                self.teachers.cache.learn(name, examples)

    def _parts(self) -> dict[str, Examples]:
        """The training examples, and those of the evaluation where there are any."""
        parts = {"train": self.data.train, "evaluation": self.data.evaluation}
        return {name: examples for name, examples in parts.items() if examples is not None}

    def _taught(self, part: str, indices: list[int]) -> Tensor | None:
        """The teacher's numbers of some examples."""
        return self.taught[part][indices] if part in self.taught else None

    def go(self) -> None:
        """Take all steps that are left."""
        if self.state.step == 0 and not self.state.evaluations:
            self._evaluate()
        began, first = time.monotonic(), self.state.step
        while self.state.step < self.steps and not self.has_stalled():
            step = self.state.step
            row, wants_stop = self.loop.step(
                self._training_batch(step),
                self.state,
                rate=learning_rate(self.config, step, self.steps),
                epoch=self.plan.epoch(step) + 1,
                stop=self.interrupts.seen,
            )
            self.processes.track(row, self.state.step)
            self.say(row["loss"], began, first)
            self._after_step(wants_stop=wants_stop)

    def result(self) -> TrainingResult:
        """Evaluate once more, and keep the best weights."""
        policy, evaluations = self.loop.policy, self.state.evaluations
        if evaluations and evaluations[-1]["step"] != self.state.step:
            self._evaluate()
        best = self.restore_best()
        if best is not None and best != self.state.step:
            self.items = pd.DataFrame()
        if evaluations and self.items.empty:
            uncounted = replace(self.state, work=Work())
            self.items = self._evaluation(best or self.state.step, uncounted)[1]
        return TrainingResult(
            model=policy.finished(str(self.record.out)),
            steps=pd.DataFrame(self.state.rows),
            evaluations=pd.DataFrame(evaluations),
            items=self.items,
            guards=guards(self.data.train.kind, self.items) if evaluations else [],
            work=self.state.work,
            best_step=best,
            notes=self._notes(),
        )

    def _after_step(self, *, wants_stop: bool) -> None:
        """Evaluate and save where it is time to, and stop where someone asked for it."""
        step, config = self.state.step, self.config
        is_last = step == self.steps
        if config.eval_every and step % config.eval_every == 0:
            self._evaluate()
        if is_last or self.has_stalled():
            return
        if wants_stop:
            self.stop()
        if config.save_every and step % config.save_every == 0:
            self.save()

    def _evaluate(self) -> None:
        """Evaluate, and remember the best step."""
        if self.data.evaluation is None:
            return
        step, state = self.state.step, self.state
        row, self.items = self._evaluation(step, state)
        if self.monitor is not None:
            row |= self.monitor.measured(self.items, state.work)
        is_best = False
        if self.config.monitor_stop:
            is_best, state.waited = good_so_far([*state.evaluations, row])
        elif self.config.early_stopping is not None:
            losses = {past["step"]: past["loss"] for past in state.evaluations}
            is_best = state.best_step is None or row["loss"] < losses[state.best_step]
            state.waited = 0 if is_best else state.waited + 1
        self.note_evaluation(row, is_best=is_best)

    def _training_batch(self, number: int) -> Batch:
        """The examples of a step with their reference."""
        indices = self.plan.batch(number)
        epochs, place = divmod(number, self.plan.steps_per_epoch)
        start = epochs * self.plan.n + place * self.plan.batch_size
        ratios = self.reference.of("mismatched_train", slice(start, start + len(indices)))
        groups = [] if ratios is None else mismatched(self.data.train, indices, self.data.limit)
        known = self.reference.of("train", indices)
        return Batch(
            self.data.train,
            indices,
            known,
            ratios,
            groups,
            self.teachers,
            self._taught("train", indices),
        )

    def _evaluation(self, step: int, state: State) -> tuple[dict[str, float], pd.DataFrame]:
        """Loss and measures over the evaluation rows, and a row per example."""
        assert self.data.evaluation is not None
        known = self.reference.values["evaluation"]
        return self.loop.evaluate(step, self._evaluation_batches(), known, state)

    def _evaluation_batches(self) -> list[Batch]:
        """The evaluation's batches with their reference."""
        evaluation = self.data.evaluation
        assert evaluation is not None
        has_ratios = "mismatched_evaluation" in self.reference.values
        batches = []
        size = self.config.batch_size if has_ratios else len(evaluation)
        for indices in dependent_batches(len(evaluation), size):
            ratios = self.reference.of("mismatched_evaluation", indices)
            groups = mismatched(evaluation, indices, self.data.limit) if has_ratios else []
            known = self.reference.of("evaluation", indices)
            taught = self._taught("evaluation", indices)
            batches.append(Batch(evaluation, indices, known, ratios, groups, self.teachers, taught))
        return batches

    @property
    def table(self) -> Table:
        """The user's rows."""
        return self.data.table
