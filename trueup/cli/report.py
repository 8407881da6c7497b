"""`trueup report RUN`: write a run's page again."""

from typing import Annotated

import typer

from trueup.cli import printing
from trueup.cli.options import AsJson

EXAMPLE = "Example: trueup report runs/a"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("report", epilog=EXAMPLE)(report)


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    as_json: AsJson = False,
    model_card: Annotated[
        bool,
        typer.Option("--model-card", help="Print an audit's numbers as a model card's metadata."),
    ] = False,
) -> None:
    """Write report.html of a run again, and print its path."""
    if model_card:
        from trueup.api.model_index import model_index

        yaml = model_index(run)
        if as_json:
            printing.show_json({"model_card": yaml})
        else:
            printing.show_lines(yaml)
        return
    with printing.working():
        from trueup.report import report_run

        path = report_run(run)
    if as_json:
        printing.show_json({"report": path})
    else:
        printing.show_lines(str(path))
