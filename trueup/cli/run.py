"""`trueup run RECIPE.yaml`: the loop as a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trueup.api.progress import Progress, ignored
from trueup.cli import printing
from trueup.cli.options import AsJson

if TYPE_CHECKING:
    from trueup.recipes import StepResult

EXAMPLE = "Example: trueup run loop.yaml --resume"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("run", epilog=EXAMPLE)(run)


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, recipe.yaml.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip finished steps, go on with unfinished ones.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the loop that a YAML file describes, checked as a whole before any work."""
    with printing.working():
        from trueup.recipes import read_recipe, run_recipe

        checked = read_recipe(recipe)
    bar = Relay()
    steps = run_recipe(checked, resume=resume, progress=bar)
    told = []
    while True:
        with printing.working() as bar.progress:
            result = next(steps, None)
        if result is None:
            break
        told.append(result.as_dict())
        if not as_json:
            _show(result)
    if as_json:
        printing.show_json({"schema": 1, "recipe": recipe, "out": checked.out, "steps": told})


class Relay:
    """A progress that hands on to whichever bar is there at the time."""

    progress: Progress = staticmethod(ignored)

    def __call__(self, done: int, total: int, what: str) -> None:
        """Hand on where the work is."""
        self.progress(done, total, what)


def _show(result: "StepResult") -> None:
    """One step's heading, and its tables where it has any."""
    state = "already done" if result.is_skipped else f"{result.step.verb} done"
    printing.show_lines(f"{result.step.name}: {state}, {result.folder}")
    if hasattr(result.result, "table"):
        printing.show(result.result.table())
    printing.show_lines("")
