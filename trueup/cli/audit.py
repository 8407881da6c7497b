"""`trueup audit MODEL`: measure where a model leans."""

from typing import TYPE_CHECKING, Annotated

import typer

from trueup.cli import gate, printing
from trueup.cli.gate_repeats import Repeat, RepeatPolicy, Repeats, decide
from trueup.cli.options import (
    AsJson,
    Audited,
    Device,
    Dtype,
    FailIf,
    Heads,
    OptionalOut,
    Resume,
    Seed,
    Settings,
    heads_of,
    settings_of,
)
from trueup.cli.shown_audit import show_audit
from trueup.errors import UserError

if TYPE_CHECKING:
    from trueup.api import AuditRun

EXAMPLE = "Example: trueup audit my-model --audit crows-pairs --data crows_pairs.csv --out runs/a"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("audit", epilog=EXAMPLE)(audit)


def audit(
    model: Audited,
    audits: Annotated[
        list[str] | None,
        typer.Option("--audit", metavar="NAME", help="The audit to run; repeatable."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="NAME",
            help="Audits of one subject: social-bias, honesty, judge, values or all.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="The audit's data; one for all audits, or one for each in their order. "
            "Of a suite the folder with a file for each.",
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
    repeat: Repeat = 1,
    repeat_policy: RepeatPolicy = "majority",
) -> None:
    """Measure where a model leans: every number with its interval and n."""
    chosen, weights = settings_of(settings), heads_of(heads)
    expression = None if fail_if is None else gate.parse(fail_if, gate.ESTIMATE_FUNCTIONS)
    repeats = Repeats(times=repeat, policy=repeat_policy)
    if repeat > 1 and (expression is None or suite):
        raise UserError("--repeat needs --fail-if, which it decides, and audits named by --audit")
    names = audits or []
    if bool(names) == bool(suite):
        raise UserError("name what to measure: --audit NAME, repeatable, or one --suite NAME")
    sources = folder_of(data or []) if suite else data_of(names, data or [])
    if resume and out is None:
        raise UserError("--resume needs the --out of the run to go on with")
    with printing.working() as progress:
        from trueup.api.auditing import audit as measure
        from trueup.api.auditing import chosen_audits
        from trueup.api.repeating import reseeded

        instances = () if suite else chosen_audits(names, chosen, seed=seed)
        if expression is not None and not suite:
            ideals = {(a.name, m.name): m.ideal for a in instances for m in a.metrics}
            expression.check_names(ideals)
            expression.check_ideals(ideals)
        if repeat > 1:
            reseeded(instances, 1)

        def measured(number: int) -> "AuditRun":
            return measure(
                model,
                reseeded(instances, number),
                suite=suite,
                data=sources,
                out=out / "repeats" / f"seed-{number}" if out and number else out,
                seed=seed,
                resume=resume,
                device=device,
                dtype=dtype,
                heads=weights,
                progress=progress,
                **(chosen if suite else {}),
            )

        run = measured(0)
        outcome = decide(
            expression,
            repeats,
            lambda number: (measured(number) if number else run).as_dict()["estimates"],
        )
    show_audit(run, outcome, as_json=as_json)


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


def folder_of(data: list[str]) -> str | None:
    """The folder with a suite's data.

    Raises: UserError where there are several.
    """
    if len(data) > 1:
        raise UserError(f"a suite reads one folder, --data is given {len(data)} times")
    return data[0] if data else None
