"""What one audit command produced: estimates, items, and the run folder that holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from trueup.api.tables import as_text, estimate_tables
from trueup.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from trueup.audits.protocol import Audit
    from trueup.runs import Run
    from trueup.stats import Estimate


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditRun:
    """A finished audit of one model; its text is the table that the command prints.

    Fields: audits are the instances that measured; tables holds each one's items by its name, one
            row per probe; data names the files and data_hash their content; work counts what the
            model computed; notes tells what must be known beside the numbers; folder is None until
            the run is saved.
    """

    model: str
    model_hash: str
    audits: "tuple[Audit, ...]"
    estimates: "list[Estimate]"
    tables: "Mapping[str, pd.DataFrame]"
    arguments: Mapping[str, Any]
    data: Sequence[str]
    data_hash: str
    seed: int = 0
    work: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    folder: Path | None = None

    def __str__(self) -> str:
        return as_text(self.table())

    def __repr__(self) -> str:
        names = ", ".join(self.names)
        count = sum(map(len, self.tables.values()))
        return f"AuditRun({self.model!r}, {names}, {count} items)"

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names of the audits."""
        return tuple(audit.name for audit in self.audits)

    @property
    def items(self) -> "pd.DataFrame":
        """The items of all audits in one table, its first column the audit's name."""
        import pandas as pd

        return pd.concat(self.tables.values(), ignore_index=True)

    def items_of(self, audit: str) -> "pd.DataFrame":
        """The items of one audit, with its own columns only."""
        return self.tables[audit]

    def table(self) -> "RenderableType":
        """The estimates as one table per audit."""
        return estimate_tables(self.estimates)

    def as_dict(self) -> dict[str, Any]:
        """The object of metrics.json."""
        estimates = [estimate.as_dict() for estimate in self.estimates]
        return {"schema": 1, "model": self.model, "estimates": estimates}

    def save(self, folder: str | Path) -> "AuditRun":
        """Write the run into a new folder, report included, and give it back with that folder."""
        from trueup.report import report_run
        from trueup.runs import Run

        with Run.create(
            folder,
            verb="audit",
            arguments=self.arguments,
            seed=self.seed,
            model=self.model,
            model_hash=self.model_hash,
            data=list(self.data),
            data_hash=self.data_hash,
        ) as run:
            for items in self.tables.values():
                run.append_items(items)
            run.write_metrics(self.estimates)
            told = told_of(self.audits, self.tables)
            run.finish("done", work=self.work, extra={"notes": list(self.notes), **told})
        report_run(run.path)
        return replace(self, folder=run.path)

    @classmethod
    def open(cls, folder: str | Path, audits: "Sequence[Audit] | None" = None) -> Self:
        """Read a finished audit from its run folder.

        Fields: audits are the instances that measured, by default made again from the folder.
        Raises: UserError where the folder holds no run, another verb's, or an unfinished one.
        """
        from trueup.runs import Run
        from trueup.stats import Estimate

        run = Run.open(folder)
        if run.info["verb"] != "audit":
            raise UserError(
                f"{run.path}: holds a run of {run.info['verb']!r}, not of 'audit'; give audits"
            )
        if not run.is_done:
            raise UserError(
                f"{run.path}: the audit is {run.status}; go on with --resume, then use it"
            )
        arguments = run.info["arguments"]
        made = tuple(audits) if audits is not None else _rebuilt(run.path, arguments)
        return cls(
            model=run.info["model"]["id"],
            model_hash=run.info["model"]["hash"],
            audits=made,
            estimates=[Estimate(**row) for row in run.estimates()],
            tables=tables_of(run, [each.name for each in made]),
            arguments=arguments,
            data=run.info["data"]["path"],
            data_hash=run.info["data"]["hash"],
            seed=run.info["seed"],
            work=run.work(),
            notes=run.info.get("notes", []),
            folder=run.path,
        )


def tables_of(run: "Run", audits: Sequence[str]) -> "dict[str, pd.DataFrame]":
    """The items that a run holds, by audit."""
    if len(audits) == 1:
        return {audits[0]: run.items()}
    return {name: run.items(name) for name in audits}


def estimated(
    audits: "Sequence[Audit]", tables: "Mapping[str, pd.DataFrame]"
) -> "tuple[list[Estimate], list[str]]":
    """The numbers of several audits from their items, and what must be known beside them."""
    estimates: list[Estimate] = []
    notes: list[str] = []
    for audit in audits:
        estimates += audit.estimate(tables[audit.name])
        notes += audit.notes(tables[audit.name])
    return estimates, notes


def told_of(
    audits: "Sequence[Audit]", tables: "Mapping[str, pd.DataFrame]"
) -> dict[str, list[dict[str, Any]] | dict[str, str]]:
    """What a report tells of audits beside their numbers: readings, and the items behind them."""
    from trueup.audits.influence import driving_items

    readings = {
        f"{audit.name}.{metric.name}": metric.reading
        for audit in audits
        for metric in audit.metrics
        if metric.reading
    }
    driving = [
        asdict(item) for audit in audits for item in driving_items(audit, tables[audit.name])
    ]
    return {"readings": readings, "driving": driving}


def _rebuilt(path: Path, arguments: Mapping[str, Any]) -> "tuple[Audit, ...]":
    """The audits that a run's arguments describe."""
    from trueup import audits

    try:
        described = {name: _frozen(fields) for name, fields in arguments["audits"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / 'run.json'}: its arguments are not those of an audit") from error
    return tuple(audits.audit(name, settings) for name, settings in described.items())


def _frozen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as dataclasses hold them: JSON knows no tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
