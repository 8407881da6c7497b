"""`train`: rows in, a trained model in a folder out, resumable after any kill."""

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.objectives import Objective
from trueup.objectives import objective as make_objective
from trueup.training.config import FREE_ON_RESUME, TrainingConfig
from trueup.training.data import Rows, TrainingData, training_data
from trueup.training.interrupts import Interrupts
from trueup.training.offline import OfflineSession
from trueup.training.policy import Policy
from trueup.training.processes import Processes
from trueup.training.randomness import own_randomness
from trueup.training.record import Record
from trueup.training.result import Progress, TrainingResult
from trueup.training.session import Report


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
        session = OfflineSession(record, config, processes, interrupts, progress or _silent)
        session.prepare(chosen, policy, data, reference, settings)
        processes.open_trackers(settings["training"])
        session.go()
        result = session.result()
        session.finish(result, settings)
        processes.close_trackers()
    return result


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


def _silent(progress: Progress) -> None:
    """The progress report of someone who wants none."""
