"""`trueup audit MODEL`: measure where a model leans."""

from typing import TYPE_CHECKING, Annotated

import typer

from trueup.cli import gate, printing
from trueup.cli.options import (
    AsJson,
    Device,
    Dtype,
    FailIf,
    Heads,
    Model,
    OptionalOut,
    Resume,
    Seed,
    Settings,
    heads_of,
    settings_of,
)
from trueup.errors import UserError

if TYPE_CHECKING:
    from trueup.api import AuditRun

EXAMPLE = "Example: trueup audit my-model --audit crows-pairs --data crows_pairs.csv --out runs/a"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("audit", epilog=EXAMPLE)(audit)


def audit(
    model: Model,
    audits: Annotated[
        list[str],
        typer.Option("--audit", metavar="NAME", help="The audit to run; repeatable."),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="The audit's data; one for all audits, or one for each in their order.",
        ),
    ] = None,
    out: OptionalOut = None,
    settings: Settings = None,
    heads: Heads = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    resume: Resume = False,
    as_json: AsJson = False,
    fail_if: FailIf = None,
) -> None:
    """Measure where a model leans: every number with its interval and n."""
    chosen, weights = settings_of(settings), heads_of(heads)
    expression = None if fail_if is None else gate.parse(fail_if, gate.ESTIMATE_FUNCTIONS)
    sources = data_of(audits, data or [])
    if resume and out is None:
        raise UserError("--resume needs the --out of the run to go on with")
    with printing.working() as progress:
        from trueup.api.auditing import audit as measure
        from trueup.api.auditing import chosen_audits

        instances = chosen_audits(audits, chosen)
        if expression is not None:
            expression.check_names((a.name, metric.name) for a in instances for metric in a.metrics)
        run = measure(
            model,
            instances,
            data=sources,
            out=out,
            seed=seed,
            resume=resume,
            device=device,
            dtype=dtype,
            heads=weights,
            progress=progress,
        )
    outcome = None if expression is None else expression.check(run.as_dict()["estimates"])
    if as_json:
        places = {"out": run.folder, "report": run.folder and run.folder / "report.html"}
        gated = {} if outcome is None else {"fail_if": outcome.as_dict()}
        printing.show_json(run.as_dict() | {"notes": list(run.notes)} | places | gated)
    else:
        _show(run)
    if outcome is not None:
        gate.leave(outcome)


def data_of(audits: list[str], data: list[str]) -> dict[str, str]:
    """Which file is read for which audit.

    Raises: UserError where the files are neither one nor as many as the audits.
    """
    if not data:
        return {}
    if len(data) == 1:
        return dict.fromkeys(audits, data[0])
    if len(data) != len(audits):
        raise UserError(
            f"--data is given {len(data)} times for {len(audits)} audits; give one for all, or "
            "one for each in their order"
        )
    return dict(zip(audits, data, strict=True))


def _show(run: "AuditRun") -> None:
    """The tables, what must be known beside them, and where it all lies."""
    printing.show(run.table())
    printing.show_notes(run.notes)
    if run.folder is not None:
        printing.show_lines(f"\nreport: {run.folder / 'report.html'}")
