"""`trueup align MODEL`: train a model by an objective."""

from pathlib import Path
from typing import Annotated

import typer

from trueup.cli import printing
from trueup.cli.options import (
    AsJson,
    Data,
    Device,
    Dtype,
    Model,
    Out,
    Resume,
    Seed,
    Settings,
    settings_of,
)
from trueup.errors import UserError

EXAMPLE = (
    "Example: trueup align my-model --objective rpo --data prefs.jsonl --set beta=0.1 --out tuned"
)


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("align", epilog=EXAMPLE)(align)


def _helped(name: str) -> str:
    """Show the table of objectives where someone asks for help, and leave."""
    if name != "help":
        return name
    from trueup.api.guide import guide_table

    printing.show(guide_table())
    raise typer.Exit


def align(
    model: Model,
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            metavar="NAME",
            help="The training loss, such as rpo; `help` lists all with the data they read.",
            is_eager=True,
            callback=_helped,
        ),
    ],
    data: Data,
    out: Out,
    eval_data: Annotated[
        str | None,
        typer.Option("--eval-data", metavar="FILE", help="Held-out rows, for the guards."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="MODEL", help="The frozen model; by default MODEL itself."
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            "--reward",
            metavar="NAME",
            help="Scores own samples: words, lexicon:FILE, FILE.py:FUNCTION or a classifier.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", metavar="MODEL", help="The aligned model to learn from."),
    ] = None,
    ref_teacher: Annotated[
        str | None,
        typer.Option("--ref-teacher", metavar="MODEL", help="The teacher before its alignment."),
    ] = None,
    ranker: Annotated[
        str | None,
        typer.Option(
            "--ranker", metavar="NAME", help="Orders own samples: URL#MODEL, or as --reward."
        ),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            "--scorer",
            metavar="MODEL",
            help="Makes the column mean_ref_logp (poft); repeatable: the mean over models.",
        ),
    ] = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train a model by an objective; --out becomes a transformers folder."""
    chosen = settings_of(settings)
    with printing.working() as progress:
        _check_known(objective)
        from trueup.api.aligning import align as train
        from trueup.api.aligning import is_main_process

        train(
            model,
            objective,
            data=data,
            out=out,
            eval_data=eval_data,
            reference=reference,
            reward=reward,
            teacher=teacher,
            ref_teacher=ref_teacher,
            ranker=ranker,
            scorers=scorer or (),
            resume=resume,
            seed=seed,
            device=device,
            dtype=dtype,
            progress=progress,
            **chosen,
        )
    if is_main_process():
        _show(out, as_json=as_json)


def _check_known(objective: str) -> None:
    """Raise UserError, with the way to the list, where no objective of this name can be made."""
    from trueup.objectives import objective as made

    try:
        made(objective)
    except UserError as error:
        raise UserError(f"{error}; `trueup align --objective help` shows them all") from error


def _show(out: Path, *, as_json: bool) -> None:
    """What the run folder tells."""
    from trueup.runs import Run
    from trueup.stats import Estimate

    run = Run.open(out)
    guards = [Estimate(**row) for row in run.estimates()]
    steps, notes = run.items(), run.info.get("notes", [])
    report = run.path / "report.html"
    if as_json:
        printing.show_json(
            {
                "schema": 1,
                "model": run.path,
                "base_model": run.info["model"]["id"],
                "steps": len(steps),
                "loss": {"first": steps["loss"].iloc[0], "last": steps["loss"].iloc[-1]},
                "estimates": [guard.as_dict() for guard in guards],
                "notes": notes,
                "work": run.work(),
                "report": report,
            }
        )
        return
    from trueup.api.tables import estimate_tables

    first, last = steps["loss"].iloc[0], steps["loss"].iloc[-1]
    printing.show_lines(f"{len(steps)} steps, loss {first:.4g} -> {last:.4g}")
    printing.show(estimate_tables(guards))
    printing.show_notes(notes)
    printing.show_lines(f"\nmodel: {run.path}\nreport: {report}")
