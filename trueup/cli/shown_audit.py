"""How an audit's result is shown: tables and notes, or one JSON object; then its gate."""

from typing import TYPE_CHECKING

from trueup.cli import gate, printing

if TYPE_CHECKING:
    from trueup.api import AuditRun


def show_audit(run: "AuditRun", outcome: "gate.Verdict | None", *, as_json: bool) -> None:
    """Print the run and leave by its gate, where it has one."""
    if as_json:
        places = {"out": run.folder, "report": run.folder and run.folder / "report.html"}
        gated = {} if outcome is None else {"fail_if": outcome.as_dict()}
        printing.show_json(run.as_dict() | {"notes": list(run.notes)} | places | gated)
    else:
        printing.show(run.table())
        printing.show_notes(run.notes)
        if run.folder is not None:
            printing.show_lines(f"\nreport: {run.folder / 'report.html'}")
    if outcome is not None:
        gate.leave(outcome)
