"""`trueup.compare`: two audits of the same probes, with paired tests and adjusted p-values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trueup.api.audit_run import AuditRun, estimated
from trueup.api.tables import as_text, comparison_tables
from trueup.errors import UserError, check_at_least
from trueup.files import content_hash, plain

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from trueup.audits.comparison import ComparisonRow
    from trueup.audits.protocol import Audit
    from trueup.interop import ForeignLog


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What changed between two audits; its text is the table that the command prints.

    Fields: rows has one entry per metric and slice, p-values adjusted over all of them; notes tells
            what took no part; folder is None until the comparison is saved.
    """

    before: AuditRun
    after: AuditRun
    rows: "Sequence[ComparisonRow]"
    notes: Sequence[str] = ()
    folder: Path | None = None

    def __str__(self) -> str:
        return as_text(self.table())

    def __repr__(self) -> str:
        return f"Comparison({self.before.model!r}, {self.after.model!r}, {len(self.rows)} rows)"

    def table(self) -> "RenderableType":
        """One table per audit: before, after, the change's interval, adjusted p, verdict."""
        return comparison_tables(self.rows)

    def as_dict(self) -> dict[str, Any]:
        """The object of compare.json."""
        return {"schema": 1, "rows": [row.as_dict() for row in self.rows]}

    def save(self, folder: str | Path) -> "Comparison":
        """Write compare.json and the report into a new run folder, and give it back with it."""
        from trueup.report import report_run
        from trueup.runs import Run

        sides = {"before": self.before, "after": self.after}
        places = {name: str(side.folder or side.model) for name, side in sides.items()}
        with Run.create(
            folder,
            verb="compare",
            arguments=places,
            seed=self.after.seed,
            model=self.after.model,
            model_hash=self.after.model_hash,
            data=list(places.values()),
            data_hash=content_hash(self.before.data_hash, self.after.data_hash),
        ) as run:
            run.write_comparison(self.rows)
            run.finish("done", extra={"notes": list(self.notes)})
        report_run(run.path)
        return replace(self, folder=run.path)


def compare(
    before: AuditRun | str | Path,
    after: AuditRun | str | Path,
    *,
    out: str | Path | None = None,
    smallest: float = 0.0,
) -> Comparison:
    """Compare two audits, probe by probe: paired tests, Holm-adjusted over all rows.

    Fields: before and after are runs or their folders, or two logs of another tool: samples_*.jsonl
            of lm-evaluation-harness (a file, or a results folder), .eval or .json of inspect_ai;
            out is the run folder to write; smallest is the smallest change that matters, in the
            metrics' unit: a lesser one has no verdict.
    Edges:  items of logs pair by prompt and target; their epochs and duplicates are clusters.
    Raises: UserError where they share no audit or no probe, or were made with other settings; of
            logs also where a prompt of the smaller one is not in the other.
    """
    from trueup.audits.comparison import compare_audits

    check_at_least(0, smallest=smallest)
    first, second, told = _opened(before, after)
    sides = [first, second]
    shared = [name for name in sides[0].names if name in sides[1].names]
    if not shared:
        have = " and ".join(", ".join(side.names) for side in sides)
        raise UserError(f"the runs share no audit, got {have}; audit both models alike")
    notes = [*told]
    notes += [
        f"{name} was measured in one run only, and is left out"
        for name in sorted({*sides[0].names} ^ {*sides[1].names})
    ]
    jobs = []
    for name in shared:
        _check_settings(name, *sides)
        tables = sides[0].tables[name], sides[1].tables[name]
        notes += _check_items(name, *tables)
        audit = sides[0].audits[sides[0].names.index(name)]
        told_of_both = getattr(audit, "comparison_notes", None)
        notes += told_of_both(*tables) if told_of_both else []
        jobs.append((audit, *tables))
    rows = compare_audits(jobs, smallest=smallest)
    if smallest:
        notes.append(f"a change below {smallest:g} does not matter here: no evidence")
    result = Comparison(before=sides[0], after=sides[1], rows=rows, notes=notes)
    return result if out is None else result.save(out)


def _opened(
    before: AuditRun | str | Path, after: AuditRun | str | Path
) -> tuple[AuditRun, AuditRun, Sequence[str]]:
    """Both sides as audits, and what is to be told of the logs of another tool.

    Raises: UserError where one side only is such a log.
    """
    from trueup.interop import is_foreign, joined, read_log

    sides = before, after
    logs = [side for side in sides if not isinstance(side, AuditRun) and is_foreign(side)]
    if not logs:
        first, second = (_audit_of(side) for side in sides)
        return first, second, []
    if len(logs) == 1:
        raise UserError(
            f"{logs[0]}: is another tool's log, and the other run is none; give two of one tool"
        )
    pair = joined(read_log(logs[0]), read_log(logs[1]))
    first, second = map(_audit_of_log, pair)
    told = (note for side in (*pair, first, second) for note in side.notes)
    return first, second, list(dict.fromkeys(told))


def _audit_of(side: AuditRun | str | Path) -> AuditRun:
    """The audit itself, or the one that a run folder holds."""
    return side if isinstance(side, AuditRun) else AuditRun.open(side)


def _audit_of_log(log: "ForeignLog") -> AuditRun:
    """Another tool's log as an audit; its folder is the log, and there is no hash of the model."""
    audits = cast("tuple[Audit, ...]", log.tasks)
    estimates, notes = estimated(audits, log.tables)
    return AuditRun(
        model=log.model,
        model_hash="",
        audits=audits,
        estimates=estimates,
        tables=log.tables,
        arguments={"tool": log.tool},
        data=[str(log.source)],
        data_hash=content_hash(log.source),
        notes=notes,
        folder=log.source,
    )


def _check_settings(name: str, before: AuditRun, after: AuditRun) -> None:
    """Refuse runs whose audit had other settings: their numbers mean other things."""
    sides: list[Any] = [run.audits[run.names.index(name)] for run in (before, after)]
    first, second = (plain(asdict(side)) for side in sides)
    varied = getattr(sides[0], "varied", ())  # what two runs may differ in to be compared
    for field, value in first.items():
        if second.get(field) != value and field not in varied:
            raise UserError(
                f"{name}: the runs differ in {field!r}, {value!r} before and "
                f"{second.get(field)!r} after; audit both models with the same settings"
            )


def _check_items(name: str, before: "pd.DataFrame", after: "pd.DataFrame") -> list[str]:
    """Refuse probes that share an id and nothing else; say how many stand alone."""
    from trueup.audits.comparison import unpaired

    if "input" in before and "input" in after:
        shown = dict(zip(after["id"], after["input"], strict=True))
        for probe, text in zip(before["id"], before["input"], strict=True):
            if shown.get(probe, text) != text:
                raise UserError(
                    f"{name}: probe {probe!r} is {text[:40]!r} before and {shown[probe][:40]!r} "
                    "after; audit both models on the same data"
                )
    alone = unpaired(before, after)
    return [f"{name}: {alone} probes stand in one run only, and are left out"] if alone else []
