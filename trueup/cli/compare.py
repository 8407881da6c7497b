"""`trueup compare BEFORE AFTER`: whether the model changed, beyond chance."""

from typing import TYPE_CHECKING, Annotated

import typer

from trueup.cli import gate, printing
from trueup.cli.options import AsJson, OptionalOut

if TYPE_CHECKING:
    from trueup.api import Comparison

EXAMPLE = "Example: trueup compare runs/a runs/b --out runs/change"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("compare", epilog=EXAMPLE)(compare)


def compare(
    before: Annotated[
        str,
        typer.Argument(
            metavar="BEFORE",
            help="The run folder of an audit; or samples of lm_eval, or a log of inspect.",
        ),
    ],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The same, of the other model.")],
    out: OptionalOut = None,
    smallest: Annotated[
        float, typer.Option(metavar="X", help="The smallest change that matters.")
    ] = 0.0,
    as_json: AsJson = False,
    fail_if: Annotated[
        str | None,
        typer.Option(
            "--fail-if",
            metavar="EXPR",
            help='Exit with 3 where this holds: "count(worse) > 0", "after(AUDIT.METRIC) > 0.6".',
        ),
    ] = None,
) -> None:
    """Compare two audits, probe by probe: paired tests, adjusted p-values, verdicts."""
    expression = None if fail_if is None else gate.parse(fail_if, gate.COMPARISON_FUNCTIONS)
    with printing.working():
        from trueup.api.comparing import compare as compared

        result = compared(before, after, out=out, smallest=smallest)
    outcome = None if expression is None else expression.check(result.as_dict()["rows"])
    if as_json:
        places = {"out": result.folder, "report": result.folder and result.folder / "report.html"}
        gated = {} if outcome is None else {"fail_if": outcome.as_dict()}
        printing.show_json(result.as_dict() | {"notes": list(result.notes)} | places | gated)
    else:
        _show(result)
    if outcome is not None:
        gate.leave(outcome)


def _show(result: "Comparison") -> None:
    """The tables, what took no part, and where it all lies."""
    printing.show(result.table())
    printing.show_notes(result.notes)
    if result.folder is not None:
        printing.show_lines(f"\nreport: {result.folder / 'report.html'}")
