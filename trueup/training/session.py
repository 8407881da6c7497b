"""One process's run from its start, or from a checkpoint, to its end, whatever is trained on."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import pandas as pd
import torch

from trueup.data import Table
from trueup.errors import InterruptedRun, UserError
from trueup.models import LanguageModel
from trueup.models.shared_prefix import PackedScorer
from trueup.objectives import Objective
from trueup.objectives.protocol import Stateful
from trueup.training.checkpoints import State, Tensors
from trueup.training.config import TrainingConfig
from trueup.training.interrupts import Interrupts
from trueup.training.loop import Loop
from trueup.training.model_card import write_model_card
from trueup.training.optimiser import make_optimiser, optimiser_tensors, restore_optimiser
from trueup.training.policy import Policy
from trueup.training.processes import Processes
from trueup.training.randomness import random_state, restore_random_state
from trueup.training.record import Record
from trueup.training.result import Progress, TrainingResult
from trueup.training.scoring import Scoring

Report = Callable[[Progress], None]


class Session:
    """What offline and online training share: the loop, checkpoints, progress, interrupts.

    Fields: loop is there after `prepare`; steps is how many optimiser steps the run means to take.
    """

    loop: Loop
    steps: int

    def __init__(
        self,
        record: Record,
        config: TrainingConfig,
        processes: Processes,
        interrupts: Interrupts,
        report: Report,
    ) -> None:
        self.record = record
        self.config = config
        self.processes = processes
        self.interrupts = interrupts
        self.report = report
        self.state = State()
        self.items = pd.DataFrame()

    def make_loop(self, objective: Objective, policy: Policy) -> Loop:
        """The loop around the policy, and the state of a checkpoint in it where there is one."""
        device = self.processes.device
        wrapped = self.processes.wrap(policy.scorer)
        loop = Loop(
            objective=objective,
            config=self.config,
            policy=policy,
            wrapped=wrapped,
            training=Scoring.of(policy.source, wrapped, self.config, device),
            frozen=Scoring.of(policy.source, policy.scorer, self.config, device),
            optimiser=make_optimiser(policy.trainable, self.config),
            processes=self.processes,
        )
        torch.manual_seed(self.config.seed + self.processes.rank)
        return loop

    def finish(self, result: TrainingResult, settings: Mapping[str, Any]) -> None:
        """Save the model and the record."""

        def write() -> None:
            self.record.save_model(result.model, self.loop.policy.heads)
            self._write_card(result, settings)
            self.record.finish(settings, result)

        self.processes.on_main(write)

    @property
    def table(self) -> Table:
        """The user's rows."""
        raise NotImplementedError

    def _write_card(self, result: TrainingResult, settings: Mapping[str, Any]) -> None:
        """The model card, still without audits."""
        objective = dict(settings["objective"])
        policy, table = self.loop.policy, self.table
        write_model_card(
            self.record.out,
            method=objective.pop("name"),
            arxiv=self.loop.objective.arxiv,
            base_model=policy.source.name,
            base_fingerprint=settings["model"],
            data_source=table.source,
            data_hash=table.hash,
            rows=len(table),
            objective=objective,
            settings=settings["training"],
            guards=result.guards,
            is_adapter=policy.has_adapter,
            notes=result.notes,
        )

    def save(self) -> None:
        """Write a checkpoint."""
        policy = self.loop.policy
        randomness = self.processes.gather([random_state(self.processes.device)])

        def write() -> None:
            optimiser = optimiser_tensors(self.loop.optimiser, policy.trainable)
            tensors = Tensors(policy.weights(), optimiser, randomness)
            self.record.checkpoints.save(self.state, tensors)

        self.processes.on_main(write)

    def note_evaluation(self, row: dict[str, float], *, is_best: bool) -> None:
        """Add an evaluation to the table, and keep the weights where it is the best so far."""
        step = self.state.step
        self.state.evaluations.append(row)
        self.processes.track({f"eval_{name}": value for name, value in row.items()}, step)
        if is_best:
            self.state.best_step = step
            weights = self.loop.policy.weights
            self.processes.on_main(lambda: self.record.checkpoints.save_best(step, weights()))

    def has_stalled(self) -> bool:
        """Whether early stopping, or the monitor, ends the run here."""
        patience = 1 if self.config.monitor_stop else self.config.early_stopping
        return patience is not None and self.state.waited >= patience

    def restore_best(self) -> int | None:
        """Put the best weights back where they are wanted; the step that they are of, or None.

        Under the monitor they are wanted only where it ended the run.
        """
        best = self.state.best_step
        if self.config.monitor_stop and not self.has_stalled():
            return None
        if best is not None and best != self.state.step:
            self.loop.policy.restore(self.record.checkpoints.best(best))
        return best

    def restore(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = self.record.checkpoints.newest()
        if found is None:
            if isinstance(self.loop.objective, Stateful):
                self.state.objective = self.loop.objective.start()
            return
        self.state, tensors = found
        policy = self.loop.policy
        policy.restore(tensors.weights)
        restore_optimiser(self.loop.optimiser, policy.trainable, tensors.optimiser)
        if self.processes.rank < len(tensors.randomness):
            own = tensors.randomness[self.processes.rank]
            restore_random_state(own, self.processes.device)

    def stop(self) -> NoReturn:
        """Write a checkpoint and leave, as someone asked for it."""
        self.save()
        raise InterruptedRun(
            f"{self.record.out}: stopped after step {self.state.step} of {self.steps}; go on with "
            "--resume"
        )

    def before_bucket(self, done: int, count: int) -> None:
        """Tell the progress bar of the reference's pass, and stop where someone asked for it."""
        self.report(Progress("reference", done, count, math.nan, None))
        if self.interrupts.seen:
            raise InterruptedRun(
                f"{self.record.out}: stopped before the first step; go on with --resume"
            )

    def say(self, loss: float, began: float, first: int) -> None:
        """Tell the progress bar."""
        done, left = self.state.step - first, max(0, self.steps - self.state.step)
        eta = (time.monotonic() - began) / done * left
        self.report(Progress("training", self.state.step, self.steps, loss, eta))

    def reference_scoring(self, reference: LanguageModel | None, policy: Policy) -> Scoring:
        """How the reference is run: a model of its own, or the policy before its first step."""
        device = self.processes.device
        if reference is None:
            policy.model.eval()
            return Scoring.of(policy.source, policy.scorer, self.config, device)
        if reference.tokenizer.get_vocab() != policy.source.tokenizer.get_vocab():
            raise UserError(
                f"reference {reference.name}: its vocabulary differs from that of "
                f"{policy.source.name}; give a reference with the same tokenizer"
            )
        reference.model.to(device).eval()
        scorer = PackedScorer(reference.model, reference.layout)
        return Scoring.of(reference, scorer, self.config, device)
