"""Offline training: rows in, a trained model in a folder out, resumable after any kill."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from trueup.errors import InterruptedRun, UserError
from trueup.models import LanguageModel, Work, load
from trueup.models.shared_prefix import PackedScorer
from trueup.objectives import Objective
from trueup.objectives import objective as make_objective
from trueup.objectives.protocol import Stateful
from trueup.training.batches import Plan
from trueup.training.checkpoints import State, Tensors
from trueup.training.config import FREE_ON_RESUME, TrainingConfig
from trueup.training.data import Rows, TrainingData, training_data
from trueup.training.guards import guards
from trueup.training.interrupts import Interrupts
from trueup.training.loop import Loop
from trueup.training.model_card import write_model_card
from trueup.training.optimiser import make_optimiser, optimiser_tensors, restore_optimiser
from trueup.training.policy import Policy
from trueup.training.processes import Processes
from trueup.training.randomness import own_randomness, random_state, restore_random_state
from trueup.training.record import Record
from trueup.training.reference import reference_logps
from trueup.training.result import Progress, TrainingResult
from trueup.training.scoring import Scoring

Report = Callable[[Progress], None]


def train(
    lm: LanguageModel,
    objective: str | Objective,
    rows: Rows,
    *,
    config: TrainingConfig,
    out: Path,
    eval_rows: Rows | None = None,
    reference: LanguageModel | None = None,
    resume: bool = False,
    progress: Report | None = None,
    in_place: bool = False,
) -> TrainingResult:
    """Train a copy of the model on rows and save it in `out` as a transformers or peft folder.

    Fields: reference None is the model itself before its first step; resume goes on from the
            newest checkpoint in `out`, starts anew where there is none, and gives back the result
            of a finished run; in_place trains `lm` itself, which saves the copy's memory.
    Edges:  Ctrl-C finishes the step and writes a checkpoint.
    Raises: UserError where rows, settings or `out` are wrong or the disk is full; TrueupError
            where loss or gradient is not finite; InterruptedRun after Ctrl-C or SIGTERM.
    """
    chosen = make_objective(objective)
    record = Record(Path(out))
    _check_folders(record.out, lm, reference)
    data = training_data(lm, chosen.data, rows, eval_rows, config)
    settings = _settings(lm, chosen, data, config, reference)
    record.check(settings, resume=resume)
    processes = Processes(lm.device, trackers=config.trackers, folder=record.folder)
    if resume and record.status == "finished":
        return record.result(load(record.out, device=str(lm.device)))
    processes.wait()
    if processes.is_main:
        record.start(settings, resume=resume)
    with Interrupts() as interrupts, own_randomness(config.seed, processes.device):
        policy = Policy(lm, config, device=processes.device, in_place=in_place)
        session = _Session(record, data, config, processes, interrupts, progress or _silent)
        session.prepare(chosen, policy, reference, settings)
        processes.open_trackers(settings["training"])
        session.go()
        result = session.finish(settings)
        processes.close_trackers()
    return result


class _Session:
    """One process's run from its start, or from a checkpoint, to its end."""

    def __init__(
        self,
        record: Record,
        data: TrainingData,
        config: TrainingConfig,
        processes: Processes,
        interrupts: Interrupts,
        report: Report,
    ) -> None:
        self.record = record
        self.data = data
        self.config = config
        self.processes = processes
        self.interrupts = interrupts
        self.report = report
        self.plan = Plan.of(len(data.train), config)
        self.state = State()
        self.items = pd.DataFrame()

    def prepare(
        self,
        objective: Objective,
        policy: Policy,
        reference: LanguageModel | None,
        settings: Mapping[str, Any],
    ) -> None:
        """Score the reference, then put policy and optimiser where the run stands."""
        frozen = Scoring.of(policy.source, policy.scorer, self.config, self.processes.device)
        policy.model.eval()
        logps = reference_logps(
            frozen if reference is None else self._reference_scoring(reference, policy),
            model=settings["reference"] or settings["model"],
            objective=objective,
            data=self.data,
            plan=self.plan,
            path=self.record.reference,
            processes=self.processes,
            before_bucket=self._before_bucket,
        )
        self.state.work.add(**logps.work.as_dict())
        wrapped = self.processes.wrap(policy.scorer)
        self.loop = Loop(
            objective=objective,
            config=self.config,
            plan=self.plan,
            limit=self.data.limit,
            train=self.data.train,
            evaluation=self.data.evaluation,
            reference=logps,
            policy=policy,
            wrapped=wrapped,
            training=Scoring.of(policy.source, wrapped, self.config, self.processes.device),
            frozen=frozen,
            optimiser=make_optimiser(policy.trainable, self.config),
            processes=self.processes,
        )
        torch.manual_seed(self.config.seed + self.processes.rank)
        self._restore()

    def go(self) -> None:
        """Take all steps that are left."""
        if self.state.step == 0 and not self.state.evaluations:
            self._evaluate()
        began, first = time.monotonic(), self.state.step
        while self.state.step < self.plan.steps and not self._has_stalled():
            batch = self.loop.training_batch(self.state.step)
            row, wants_stop = self.loop.step(
                self.state.step, batch, self.state, stop=self.interrupts.seen
            )
            self.state.step += 1
            self.state.rows.append(row)
            self.processes.track(row, self.state.step)
            self._say(row["loss"], began, first)
            self._after_step(wants_stop=wants_stop)

    def finish(self, settings: Mapping[str, Any]) -> TrainingResult:
        """Evaluate, keep the best weights, save everything."""
        policy, evaluations = self.loop.policy, self.state.evaluations
        if evaluations and evaluations[-1]["step"] != self.state.step:
            self._evaluate()
        best = self.state.best_step
        if best is not None and best != self.state.step:
            policy.restore(self.record.checkpoints.best(best))
            self.items = pd.DataFrame()
        if evaluations and self.items.empty:
            self.items = self.loop.evaluate(
                best or self.state.step, replace(self.state, work=Work())
            )[1]
        result = TrainingResult(
            model=policy.finished(str(self.record.out)),
            steps=pd.DataFrame(self.state.rows),
            evaluations=pd.DataFrame(evaluations),
            items=self.items,
            guards=guards(self.data.train.kind, self.items) if evaluations else [],
            work=self.state.work,
            best_step=best,
            notes=self.data.notes(),
        )
        if self.processes.is_main:
            self.record.save_model(result.model)
            arxiv = self.loop.objective.arxiv
            _write_card(policy, self.data, settings, self.record.out, result, arxiv)
            self.record.finish(settings, result)
        self.processes.wait()
        return result

    def _after_step(self, *, wants_stop: bool) -> None:
        """Evaluate and save where it is time to, and stop where someone asked for it."""
        step, config = self.state.step, self.config
        is_last = step == self.plan.steps
        if config.eval_every and step % config.eval_every == 0:
            self._evaluate()
        if is_last or self._has_stalled():
            return
        if wants_stop or (config.save_every and step % config.save_every == 0):
            self._save()
        if wants_stop:
            raise InterruptedRun(
                f"{self.record.out}: stopped after step {step} of {self.plan.steps}; go on with "
                "--resume"
            )

    def _evaluate(self) -> None:
        """Evaluate, and remember the best step."""
        if self.data.evaluation is None:
            return
        step, state = self.state.step, self.state
        row, self.items = self.loop.evaluate(step, state)
        state.evaluations.append(row)
        self.processes.track({f"eval_{name}": value for name, value in row.items()}, step)
        if self.config.early_stopping is None:
            return
        losses = {past["step"]: past["loss"] for past in state.evaluations[:-1]}
        if state.best_step is None or row["loss"] < losses[state.best_step]:
            state.best_step, state.waited = step, 0
            if self.processes.is_main:
                self.record.checkpoints.save_best(step, self.loop.policy.weights())
        else:
            state.waited += 1

    def _has_stalled(self) -> bool:
        """Whether early stopping ends the run here."""
        patience = self.config.early_stopping
        return patience is not None and self.state.waited >= patience

    def _save(self) -> None:
        """Write a checkpoint."""
        policy = self.loop.policy
        randomness = self.processes.gather([random_state(self.processes.device)])
        if self.processes.is_main:
            optimiser = optimiser_tensors(self.loop.optimiser, policy.trainable)
            tensors = Tensors(policy.weights(), optimiser, randomness)
            self.record.checkpoints.save(self.state, tensors)
        self.processes.wait()

    def _restore(self) -> None:
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

    def _reference_scoring(self, reference: LanguageModel, policy: Policy) -> Scoring:
        """How a separate reference is run."""
        if reference.tokenizer.get_vocab() != policy.source.tokenizer.get_vocab():
            raise UserError(
                f"reference {reference.name}: its vocabulary differs from that of "
                f"{policy.source.name}; give a reference with the same tokenizer"
            )
        reference.model.to(self.processes.device).eval()
        scorer = PackedScorer(reference.model, reference.layout)
        return Scoring.of(reference, scorer, self.config, self.processes.device)

    def _before_bucket(self, done: int, count: int) -> None:
        """Tell the progress bar of the reference's pass, and stop where someone asked for it."""
        self.report(Progress("reference", done, count, math.nan, None))
        if self.interrupts.seen:
            raise InterruptedRun(
                f"{self.record.out}: stopped before the first step; go on with --resume"
            )

    def _say(self, loss: float, began: float, first: int) -> None:
        """Tell the progress bar."""
        done, left = self.state.step - first, self.plan.steps - self.state.step
        eta = (time.monotonic() - began) / done * left
        self.report(Progress("training", self.state.step, self.plan.steps, loss, eta))


def _settings(
    lm: LanguageModel,
    objective: Objective,
    data: TrainingData,
    config: TrainingConfig,
    reference: LanguageModel | None,
) -> dict[str, Any]:
    """What the result depends on; a resumed run must have the same."""
    fields = {name: value for name, value in config.as_dict().items() if name not in FREE_ON_RESUME}
    return {
        "objective": {"name": objective.name, **_fields(objective)},
        "training": fields,
        "model": lm.fingerprint,
        "reference": None if reference is None else reference.fingerprint,
        "data": data.train.hash,
        "evaluation data": None if data.evaluation is None else data.evaluation.hash,
    }


def _fields(objective: Objective) -> dict[str, Any]:
    """The objective's hyper-parameters."""
    return asdict(objective) if is_dataclass(objective) else {}


def _check_folders(out: Path, lm: LanguageModel, reference: LanguageModel | None) -> None:
    """Raise UserError where the result would take the place of what it is made from."""
    for source in (lm, reference):
        if source is not None and Path(source.name).resolve() == out.resolve():
            raise UserError(f"{out}: is the folder of the model itself; choose another one")


def _write_card(
    policy: Policy,
    data: TrainingData,
    settings: Mapping[str, Any],
    out: Path,
    result: TrainingResult,
    arxiv: str,
) -> None:
    """The model card, still without audits."""
    objective = dict(settings["objective"])
    write_model_card(
        out,
        method=objective.pop("name"),
        arxiv=arxiv,
        base_model=policy.source.name,
        base_fingerprint=settings["model"],
        data_source=data.table.source,
        data_hash=data.table.hash,
        rows=len(data.table),
        objective=objective,
        settings=settings["training"],
        guards=result.guards,
        is_adapter=policy.has_adapter,
        notes=result.notes,
    )


def _silent(progress: Progress) -> None:
    """The progress report of someone who wants none."""
