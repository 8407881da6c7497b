"""The verbs, in the order in which a person meets them."""

from typing import Annotated

import typer

from trueup.cli import (
    align,
    audit,
    calibrate,
    compare,
    demo,
    estimate,
    generate,
    methods,
    report,
    run,
    select,
    serve,
)
from trueup.cli.group import VerbGroup

app = typer.Typer(
    name="trueup",
    cls=VerbGroup,
    help="Measure where a language model leans, correct it, and prove the correction.",
    epilog="Exit codes: 0 done, 2 wrong input, 3 a --fail-if gate tripped, 130 interrupted.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
VERBS = (
    demo,
    audit,
    estimate,
    calibrate,
    align,
    compare,
    generate,
    serve,
    select,
    methods,
    report,
    run,
)
for verb in VERBS:
    verb.add_to(app)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import trueup

        print(f"trueup {trueup.__version__}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        print(context.get_help())
