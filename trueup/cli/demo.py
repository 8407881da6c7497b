"""`trueup demo`: the whole loop on a small world whose truth is known."""

from pathlib import Path
from typing import Annotated

import typer

from trueup.cli import printing
from trueup.cli.options import AsJson, Seed

EXAMPLE = "Example: trueup demo --lean 0.3 --seed 1"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("demo", epilog=EXAMPLE)(demo)


def demo(
    lean: Annotated[
        float,
        typer.Option(
            "--lean",
            metavar="NUMBER",
            help="The lean to plant: P(he | job) - 1/2 of the leaning jobs; 0 plants none.",
        ),
    ] = 0.25,
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where runs and report.html go.")
    ] = Path("trueup-demo"),
    as_json: AsJson = False,
) -> None:
    """Plant a lean, measure it, correct it, prove the correction; about a minute."""
    with printing.working() as progress:
        from trueup.demo import run_demo

        result = run_demo(lean=lean, seed=seed, out=out, progress=progress)
    if as_json:
        printing.show_json(result.as_dict())
        return
    printing.show(result.table())
    printing.show_lines(f"\nreport: {result.report}")
