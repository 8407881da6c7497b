"""`train`: rows in, a trained model in a folder out, resumable after any kill."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

from trueup.errors import UserError
from trueup.judging.ranking import Ranker
from trueup.models import LanguageModel, load
from trueup.models.multi_head import MultiHead
from trueup.models.reward import Reward
from trueup.objectives import Objective
from trueup.objectives import objective as make_objective
from trueup.objectives.protocol import Collecting
from trueup.training.building import Building, built_rows
from trueup.training.collecting import Judges
from trueup.training.config import FREE_ON_RESUME, TrainingConfig
from trueup.training.data import Rows, TrainingData, training_data
from trueup.training.distillation import Teachers
from trueup.training.examples import objective_names
from trueup.training.interrupts import Interrupts
from trueup.training.offline import OfflineSession
from trueup.training.online import OnlineSession
from trueup.training.policy import Policy
from trueup.training.processes import Processes
from trueup.training.prompts import Prompts, training_prompts
from trueup.training.randomness import own_randomness
from trueup.training.record import Record
from trueup.training.result import Progress, TrainingResult
from trueup.training.session import Report
from trueup.training.teacher_cache import check_cached, remembering


def train(
    lm: LanguageModel,
    objective: str | Objective,
    rows: Rows,
    *,
    config: TrainingConfig,
    out: Path,
    eval_rows: Rows | None = None,
    reference: LanguageModel | None = None,
    reward: Reward | None = None,
    teacher: LanguageModel | None = None,
    ref_teacher: LanguageModel | None = None,
    ranker: Ranker | None = None,
    resume: bool = False,
    progress: Report | None = None,
    in_place: bool = False,
) -> TrainingResult:
    """Train a copy of the model on rows and save it in `out` as a transformers or peft folder.

    Fields: reference None is the model itself before its first step; reward and ranker judge own
            samples, for objectives that ask for it; teacher and ref_teacher (the teacher before
            its own alignment) are compared with token by token; resume goes on from the newest
            checkpoint in `out`, starts anew where there is none, and gives back the result of a
            finished run; in_place trains `lm` itself, which saves the copy's memory where nothing
            frozen is needed.
    Edges:  Ctrl-C finishes the step and writes a checkpoint.
    Raises: UserError where rows, settings or `out` are wrong, something that the objective needs
            is not given, or the disk is full; TrueupError where loss or gradient is not finite;
            InterruptedRun after Ctrl-C or SIGTERM.
    """
    chosen = make_objective(objective)
    record = Record(Path(out))
    _check_folders(record.out, lm, reference)
    check_given(
        chosen,
        reward=reward,
        teacher=teacher,
        ref_teacher=ref_teacher,
        ranker=ranker,
        eval_rows=eval_rows,
    )
    _check_sampling(chosen, config)
    check_cached(chosen, config)
    processes = Processes(lm.device, trackers=config.trackers, folder=record.folder)
    data: TrainingData | Prompts
    if isinstance(chosen, Collecting):
        data = training_prompts(lm, chosen, rows, eval_rows, config)
        in_place = False  # the frozen reference is the model as it was given
    else:
        if isinstance(chosen, Building):
            rows = built_rows(lm, chosen, rows, config, record.folder, processes)
        data = training_data(lm, chosen, rows, eval_rows, config)
    models = {"reference": reference, "teacher": teacher, "reference teacher": ref_teacher}
    settings = _settings(lm, chosen, data, config, models, Judges(reward, ranker))
    record.check(settings, resume=resume)
    if resume and record.status == "finished":
        return record.result(load(record.out, device=str(lm.device)))
    processes.wait()
    processes.on_main(lambda: record.start(settings, resume=resume))
    with Interrupts() as interrupts, own_randomness(config.seed, processes.device):
        heads = _heads(lm, chosen, data, config)
        policy = Policy(lm, config, device=processes.device, in_place=in_place, heads=heads)
        teachers = Teachers.of(chosen, lm, teacher, ref_teacher, processes.device)
        parts = (record, config, processes, interrupts, progress or _silent)
        session: OnlineSession | OfflineSession
        if isinstance(data, Prompts):
            session = OnlineSession(*parts)
            judges = Judges(reward, ranker)
            teachers = remembering(teachers, session)
            session.prepare(chosen, policy, data, reference, judges, teachers)
        else:
            session = OfflineSession(*parts)
            teachers = remembering(teachers, session)
            session.prepare(chosen, policy, data, reference, teachers, settings)
        processes.open_trackers(settings["training"])
        session.go()
        result = session.result()
        session.finish(result, settings)
        processes.close_trackers()
    return result


def check_given(
    objective: Objective,
    *,
    reward: object,
    teacher: object,
    ref_teacher: object,
    ranker: object,
    eval_rows: object,
) -> None:
    """Raise UserError where the objective needs what is not given, or is given what it ignores."""
    needs = objective.needs
    asked = {
        "ranker": (needs.ranking, ranker, "--ranker with a reward or an endpoint"),
        "reward": (needs.rewards, reward, "--reward with a function, a lexicon or a classifier"),
        "teacher": (needs.teacher or needs.advantage, teacher, "--teacher with an aligned model"),
        "reference teacher": (
            needs.advantage,
            ref_teacher,
            "--ref-teacher with the teacher before its alignment",
        ),
    }
    for name, (is_needed, given, option) in asked.items():
        if is_needed and given is None:
            raise UserError(f"{objective.name} needs a {name}; give {option}")
        if given is not None and not is_needed:
            raise UserError(f"{objective.name} takes no {name}; leave {option.split()[0]} out")
    if isinstance(objective, Building) and eval_rows is not None:
        raise UserError(
            f"{objective.name} trains on its own samples, from which it builds its rows, and reads "
            "no evaluation rows; leave --eval-data out and set eval_fraction"
        )


def _check_sampling(objective: Objective, config: TrainingConfig) -> None:
    """Raise UserError where a setting does not go with own samples, or makes them not its own."""
    is_rewarded = objective.needs.rewards or not isinstance(objective, Collecting)
    if config.early_stopping is not None and not is_rewarded:
        raise UserError(
            f"early_stopping waits for a higher held-out reward, which {objective.name} has not; "
            "use monitor_stop"
        )
    plain = (config.temperature, config.top_k, config.top_p) == (1.0, 0, 1.0)
    if objective.data == "samples" and objective.needs.rewards and not plain:
        raise UserError(
            f"{objective.name} needs samples of the policy itself; leave temperature at 1, top_k "
            f"at 0 and top_p at 1, got {config.temperature:g}, {config.top_k}, {config.top_p:g}"
        )


def _heads(
    lm: LanguageModel, objective: Objective, data: TrainingData | Prompts, config: TrainingConfig
) -> MultiHead | None:
    """An output head for every objective that routed rows name."""
    if objective.data != "routed" or isinstance(data, Prompts):
        return None
    generator = torch.Generator().manual_seed(config.seed)
    noise = getattr(objective, "head_noise", 0.0)
    names = objective_names(data.table)
    alpha = getattr(objective, "alpha", ())
    if alpha and len(alpha) != len(names):
        raise UserError(
            f"alpha must have a weight for each of {', '.join(names)}, got {len(alpha)} weights"
        )
    return MultiHead.started(lm, names, noise=noise, generator=generator)


def _settings(
    lm: LanguageModel,
    objective: Objective,
    data: TrainingData | Prompts,
    config: TrainingConfig,
    models: Mapping[str, LanguageModel | None],
    judges: Judges,
) -> dict[str, Any]:
    """What the result depends on; a resumed run must have the same."""
    fields = {name: value for name, value in config.as_dict().items() if name not in FREE_ON_RESUME}
    return {
        "objective": {"name": objective.name, **_fields(objective)},
        "training": fields,
        "model": lm.fingerprint,
        **{name: None if each is None else each.fingerprint for name, each in models.items()},
        **judges.identities(),
        **_hashes(data),
    }


def _hashes(data: TrainingData | Prompts) -> dict[str, str | None]:
    """What tells one set of rows from another."""
    evaluation = data.evaluation
    return {
        "data": data.hash if isinstance(data, Prompts) else data.train.hash,
        "evaluation data": None if evaluation is None else evaluation.hash,
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
