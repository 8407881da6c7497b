"""`trueup calibrate AUDIT`: what an audit reports where the truth is planted."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from trueup.cli import printing
from trueup.cli.options import AsJson, OptionalOut, Resume, Seed, Settings, settings_of
from trueup.errors import UserError

EXAMPLE = "Example: trueup calibrate crows-pairs --n 100,1000 --seeds 200 --out runs/curve"

Number = TypeVar("Number", int, float)


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("calibrate", epilog=EXAMPLE)(calibrate)


def calibrate(
    audit: Annotated[
        str, typer.Argument(metavar="AUDIT", help="An audit that has a world of planted leans.")
    ],
    n: Annotated[
        str, typer.Option("--n", metavar="N,N", help="Numbers of units; by default the world's.")
    ] = "",
    seeds: Annotated[
        str,
        typer.Option(
            metavar="K",
            help="Draws without a lean at each n (one number, or one for each n); a quarter of it "
            "at each size with one.",
        ),
    ] = "200",
    planted: Annotated[
        str, typer.Option(metavar="X,X", help="Sizes of the lean; by default the world's.")
    ] = "",
    settings: Settings = None,
    out: OptionalOut = None,
    seed: Seed = 0,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Plant leans of known size and tell what an audit makes of them: its calibration curve."""
    sizes, draws = _numbers("--n", n, int), _numbers("--seeds", seeds, int)
    leans, chosen = _numbers("--planted", planted, float), settings_of(settings)
    if resume and out is None:
        raise UserError("--resume needs the --out of the run to go on with")
    with printing.working() as progress:
        from trueup.api.calibrating import calibrate as calibrated

        run = calibrated(
            audit,
            n=sizes,
            seeds=draws,
            planted=leans,
            out=out,
            seed=seed,
            resume=resume,
            progress=progress,
            settings=chosen,
        )
    if as_json:
        places = {"out": run.folder, "report": run.folder and run.folder / "report.html"}
        printing.show_json(run.as_dict() | places)
        return
    printing.show(run.table())
    if run.folder is not None:
        printing.show_lines(f"report: {run.folder / 'report.html'}")


def _numbers(option: str, text: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """The numbers of an option, separated by commas.

    Raises: UserError where one is none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    try:
        return tuple(kind(word) for word in words)
    except ValueError:
        raise UserError(f"{option} must be numbers separated by commas, got {text!r}") from None
