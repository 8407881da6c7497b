"""`trueup.api.calibrating.calibrate`: what an audit reports where the truth is planted."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trueup.api.calibration_tables import calibration_tables
from trueup.api.progress import Progress, ignored
from trueup.api.run_folder import run_folder
from trueup.api.tables import as_text

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from trueup.audits.protocol import Audit
    from trueup.calibration.curve import Calibration
    from trueup.calibration.protocol import CalibrationWorld
    from trueup.calibration.sweep import Cell, Plan


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationRun:
    """A finished sweep: the curve of each metric that has a world, and the draws behind it."""

    audit: str
    curves: "tuple[Calibration, ...]"
    items: "pd.DataFrame"
    folder: Path | None = None

    def __str__(self) -> str:
        return as_text(self.table())

    def table(self) -> "RenderableType":
        """The curves as the command prints them."""
        return calibration_tables(self.curves)

    def as_dict(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        curves = [curve.as_dict() for curve in self.curves]
        return {"schema": 1, "audit": self.audit, "curves": curves}


def calibrate(
    audit: "str | Audit",
    *,
    n: Sequence[int] = (),
    seeds: Sequence[int] = (200,),
    planted: Sequence[float] = (),
    out: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
    worlds: "Sequence[CalibrationWorld] | None" = None,
    settings: Mapping[str, Any] | None = None,
) -> CalibrationRun:
    """Sweep planted size x n x seeds through an audit, and tell what it makes of the truth.

    Fields: n are the numbers of units, planted the sizes, by default the world's own; seeds are
            the draws without a lean at each n, one number or one for each n, a quarter of it with
            a lean; out is the run folder to write, None keeps all in memory; worlds are by
            default the audit's own; settings are fields of the audit, in place of the world's.
    Raises: UserError where the audit has no world, or a number, a setting or the folder is wrong.
    """
    asked = _asked(
        audit,
        worlds,
        settings or {},
        {"sizes": n, "seeds": seeds, "planted": planted, "seed": seed},
    )
    if out is None:
        return _in_memory(asked, progress or ignored)
    return _in_folder(asked, Path(out), resume, progress or ignored)


@dataclass(frozen=True)
class Job:
    """One world with the audit that it calibrates, and all its cells."""

    audit: "Audit"
    world: "CalibrationWorld"
    plan: "Plan"
    cells: "list[Cell]"


@dataclass(frozen=True)
class Asked:
    """A whole command."""

    name: str
    jobs: list[Job]
    seed: int

    def arguments(self) -> dict[str, Any]:
        """What decides the numbers, as JSON gives it back."""
        from trueup.calibration.curve import WorldFacts
        from trueup.files import plain

        sweeps = [
            {
                **WorldFacts.of(job.world, job.audit.level).as_dict(),
                "settings": asdict(cast(Any, job.audit)),
                "planted": job.plan.planted,
                "n": job.plan.sizes,
                "seeds": job.plan.seeds,
            }
            for job in self.jobs
        ]
        found: dict[str, Any] = plain({"audit": self.name, "sweeps": sweeps})
        return found

    def rows(self, done: set[str], progress: Progress) -> "Iterator[pd.DataFrame]":
        """The rows of every block of cells that is not yet done."""
        from trueup.calibration.sweep import blocks_of, measured

        total, finished = sum(len(job.cells) for job in self.jobs), 0
        for job in self.jobs:
            for block in blocks_of(job.cells):
                place = f"{self.name}.{job.world.metric}, n={block[0].n}"
                progress(finished, total, place)
                finished += len(block)
                if not {cell.id_of(job.world) for cell in block} <= done:
                    yield measured(job.audit, job.world, block)
        progress(total, total, "summing up")

    def curves(self, items: "pd.DataFrame") -> "tuple[Calibration, ...]":
        """The curve of every world."""
        from trueup.calibration.summary import curves_of

        return curves_of(self.arguments()["sweeps"], items)


def _asked(
    audit: "str | Audit",
    worlds: "Sequence[CalibrationWorld] | None",
    settings: Mapping[str, Any],
    sweep: Mapping[str, Any],
) -> Asked:
    """The command, checked as a whole."""
    from trueup.audits import audit as made
    from trueup.calibration import worlds_of
    from trueup.calibration.sweep import alone, cells_of, plan_of

    name = made(audit).name
    jobs = []
    for world in worlds_of(name) if worlds is None else worlds:
        instance = made(audit, {**world.settings, **settings})
        alone(instance, world.metric)
        plan = plan_of(world, **sweep)
        jobs.append(Job(instance, world, plan, cells_of(world, plan)))
    return Asked(name, jobs, sweep["seed"])


def _in_memory(asked: Asked, progress: Progress) -> CalibrationRun:
    """The sweep without a folder."""
    import pandas as pd

    items = pd.concat(asked.rows(set(), progress), ignore_index=True)
    return CalibrationRun(audit=asked.name, curves=asked.curves(items), items=items)


def _in_folder(asked: Asked, out: Path, resume: bool, progress: Progress) -> CalibrationRun:
    """The sweep into a run folder, block by block."""
    from trueup.report import report_run

    with run_folder(
        out,
        verb="calibrate",
        arguments=asked.arguments(),
        seed=asked.seed,
        model=f"planted leans for {asked.name}",
        model_hash=source_hash(asked.jobs[0].audit, [job.world for job in asked.jobs]),
        resume=resume,
    ) as run:
        if not run.is_done:
            for rows in asked.rows(run.done_ids(), progress):
                run.append_items(rows)
            curves = asked.curves(run.items())
            run.write_metrics(row for curve in curves for row in curve.estimates())
            run.finish("done", extra={"verdicts": {c.name: c.verdict for c in curves}})
    if not (out / "report.html").is_file():
        report_run(out)
    items = run.items()
    return CalibrationRun(audit=asked.name, curves=asked.curves(items), items=items, folder=out)


def source_hash(audit: "Audit", worlds: "Sequence[CalibrationWorld]") -> str:
    """The hash of the files in which the audit's class and the worlds' classes stand.

    With another one a sweep is not gone on with: half its draws would be of another truth.
    Edges:  files that these import do not count.
    """
    from trueup.files import content_hash

    kinds = [kind for one in (audit, *worlds) for kind in type(one).__mro__[:-1]]
    modules = {kind.__module__ for kind in kinds} - {"typing"}
    files = (getattr(sys.modules[name], "__file__", None) for name in sorted(modules))
    return content_hash(*(Path(file) for file in files if file))
