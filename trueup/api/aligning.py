"""`trueup.align`: train a model by an objective; the run folder is also the model's folder."""

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueup.api.models import opened_causal
from trueup.api.progress import Progress, ignored
from trueup.api.run_folder import run_folder
from trueup.errors import UserError, build, unknown_name

if TYPE_CHECKING:
    import trueup.training
    from trueup.data import Table
    from trueup.judging.ranking import Ranker
    from trueup.models import LanguageModel
    from trueup.models.reward import Reward
    from trueup.objectives import Objective
    from trueup.runs import Run
    from trueup.training import TrainingConfig, TrainingResult


def align(
    model: "str | Path | LanguageModel",
    objective: "str | Objective",
    *,
    data: Any,
    out: str | Path,
    eval_data: Any = None,
    reference: "str | Path | LanguageModel | None" = None,
    reward: "str | Reward | None" = None,
    teacher: "str | Path | LanguageModel | None" = None,
    ref_teacher: "str | Path | LanguageModel | None" = None,
    ranker: "str | Ranker | None" = None,
    scorers: "Sequence[str | Path | LanguageModel]" = (),
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
    **settings: Any,
) -> "LanguageModel":
    """Train a model by an objective, save it in `out`, and give it back.

    Fields: objective is a registered name or an instance; data and eval_data are files, rows or
            data sets with the columns that the objective reads; without eval_data (or the setting
            eval_fraction) no guards are measured; reference None is the model itself before its
            first step; reward and ranker judge own samples: a callable, or what `--reward` and
            `--ranker` take; teacher and ref_teacher (the same before its own alignment) are models
            with the same tokenizer, for distillation; scorers are aligned models, of any tokenizer,
            that make the column mean_ref_logp of rows that have none; settings are fields of the
            objective and of `TrainingConfig`; resume goes on with an unfinished `out`.
    Files:  the model (safetensors or adapter, tokenizer, model card README.md), run.json,
            metrics.json with the guards, items.parquet with a row per optimiser step, report.html,
            and training/ with evaluations and checkpoints.
    Raises: UserError where a name, a setting, the data or `out` is wrong, before any work;
            InterruptedRun after Ctrl-C, once a checkpoint is written.
    """
    from trueup.api.rankers import load_ranker
    from trueup.models.reward import load_reward
    from trueup.training.runner import check_given

    chosen, config = chosen_settings(objective, settings, seed)
    check_given(
        chosen,
        reward=reward,
        teacher=teacher,
        ref_teacher=ref_teacher,
        ranker=ranker,
        eval_rows=eval_data,
    )
    opened = functools.partial(opened_causal, device=device, dtype=dtype)
    contract = getattr(chosen, "source", chosen.data)
    rows = _read(data, contract, scorers, opened)
    eval_rows = None if eval_data is None else _read(eval_data, contract, scorers, opened)
    scorer = load_reward(reward, device=device) if isinstance(reward, str) else reward
    order = load_ranker(ranker, device=device) if isinstance(ranker, str) else ranker
    lm = opened(model)
    others = {
        name: None if each is None else opened(each)
        for name, each in (
            ("reference", reference),
            ("teacher", teacher),
            ("ref_teacher", ref_teacher),
        )
    }

    def train() -> "TrainingResult":
        from trueup import training

        return training.train(
            lm,
            chosen,
            rows,
            config=config,
            out=Path(out),
            eval_rows=eval_rows,
            reward=scorer,
            ranker=order,
            **others,
            resume=resume,
            progress=_told(progress or ignored),
            in_place=lm is not model,
        )

    if not is_main_process():
        return train().model
    from trueup.files import content_hash
    from trueup.report import report_run

    hashes = [table.hash for table in (rows, eval_rows) if table is not None]
    sources = [table.source for table in (rows, eval_rows) if table is not None]
    with run_folder(
        out,
        verb="align",
        arguments=_arguments(chosen, config, lm, others, {"reward": scorer, "ranker": order}),
        seed=seed,
        model=lm.name,
        model_hash=lm.fingerprint,
        data=sources,
        data_hash=content_hash(*hashes),
        resume=resume,
    ) as run:
        result = train()
        if not run.is_done:
            _record(run, result, config)
    report_run(run.path)
    return result.model


def _read(
    data: Any,
    contract: str,
    scorers: "Sequence[str | Path | LanguageModel]",
    opened: "Callable[..., LanguageModel]",
) -> "Table":
    """The user's rows, with the scoring models' column where such models are given."""
    from trueup.data import read

    if not scorers:
        return read(data, contract)
    if contract != "scored":
        raise UserError(f"--scorer makes mean_ref_logp, a column that {contract} rows do not have")
    from trueup.selection.mean_likelihood import with_mean_logps

    models = [functools.partial(opened, each) for each in scorers]
    return with_mean_logps(read(data, "completions"), models)


def is_main_process() -> bool:
    """Whether this process writes and prints; of those that a launcher starts only the first."""
    return int(os.environ.get("RANK", "0")) == 0


def chosen_settings(
    objective: "str | Objective", settings: Mapping[str, Any], seed: int
) -> "tuple[Objective, TrainingConfig]":
    """The objective and the engine's settings; each setting goes to the one that has the field.

    Raises: UserError for an unknown objective, and for a setting that neither has.
    """
    from trueup.objectives import objective as made
    from trueup.training import TrainingConfig

    bare = made(objective)
    own: Any = bare
    names = [field.name for field in fields(own)]
    engine = [field.name for field in fields(TrainingConfig) if field.name != "seed"]
    for name in settings:
        if name not in names and name not in engine:
            error = unknown_name("setting", name, [*names, *engine])
            hint = str(error).partition("; ")[2].partition("known:")[0]
            raise UserError(
                f"no setting {name!r}; {hint}known to {bare.name}: {', '.join(names) or 'none'}; "
                f"to training: {', '.join(engine)}"
            )
    kept = {name: value for name, value in settings.items() if name in names}
    rest = {name: value for name, value in settings.items() if name not in names}
    return made(objective, kept), build("training", TrainingConfig, {**rest, "seed": seed})


def _told(progress: Progress) -> "Callable[[trueup.training.Progress], None]":
    """The engine's reports as steps of a bar."""

    def tell(report: "trueup.training.Progress") -> None:
        loss = "" if math.isnan(report.loss) else f", loss {report.loss:.3f}"
        progress(report.step, report.steps, f"{report.stage}{loss}")

    return tell


def _arguments(
    objective: "Objective",
    config: "TrainingConfig",
    lm: "LanguageModel",
    others: "Mapping[str, LanguageModel | None]",
    judges: "Mapping[str, Any]",
) -> dict[str, Any]:
    """What run.json keeps of the command: all on which the result depends."""
    from trueup.models.reward import reward_identity
    from trueup.training.config import FREE_ON_RESUME

    hyper: Any = objective
    training = {key: value for key, value in config.as_dict().items() if key not in FREE_ON_RESUME}
    return {
        "objective": {"name": objective.name, **asdict(hyper)},
        "training": training,
        **{
            name: None if each is None else each.fingerprint
            for name, each in others.items()
            if each is not None or name == "reference"
        },
        **{name: reward_identity(judge) for name, judge in judges.items() if judge is not None},
        "device": lm.device.type,
    }


def _record(run: "Run", result: "TrainingResult", config: "TrainingConfig") -> None:
    """Write what the training was like: a row per step, the guards, the work."""
    from trueup.training.config import FREE_ON_RESUME

    steps = result.steps.copy()
    steps.insert(0, "id", [f"step-{number}" for number in steps["step"]])
    run.write_items(steps)
    run.write_metrics(result.guards)
    run.finish(
        "done",
        work=result.work.as_dict(),
        extra={
            "notes": result.notes,
            "best_step": result.best_step,
            "engine": {name: getattr(config, name) for name in FREE_ON_RESUME},
        },
    )
