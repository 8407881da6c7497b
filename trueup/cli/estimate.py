"""`trueup estimate RUN`: an audit's numbers again from its items, without the model."""

from typing import Annotated

import typer

from trueup.cli import gate, printing
from trueup.cli.options import AsJson, FailIf, OptionalOut, Settings, settings_of
from trueup.cli.shown_audit import show_audit
from trueup.errors import UserError

EXAMPLE = "Example: trueup estimate runs/a --level 0.9"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("estimate", epilog=EXAMPLE)(estimate)


def estimate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run folder of an audit.")],
    level: Annotated[
        float | None, typer.Option(metavar="X", help="The intervals' coverage, such as 0.9.")
    ] = None,
    out: OptionalOut = None,
    settings: Settings = None,
    as_json: AsJson = False,
    fail_if: FailIf = None,
) -> None:
    """Compute an audit's numbers again from its items, without the model."""
    chosen: dict[str, object] = dict(settings_of(settings))
    if level is not None:
        if "level" in chosen:
            raise UserError(f"level is given twice, {level} and {chosen['level']!r}; give --level")
        chosen["level"] = level
    expression = None if fail_if is None else gate.parse(fail_if, gate.ESTIMATE_FUNCTIONS)
    with printing.working():
        from trueup.api.estimating import estimate as estimated

        result = estimated(run, out=out, **chosen)
    outcome = None if expression is None else expression.check(result.as_dict()["estimates"])
    show_audit(result, outcome, as_json=as_json)
