"""`trueup.audit`: probes, scores in chunks that survive a kill, numbers with intervals."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trueup.api.audit_run import AuditRun, estimated, tables_of, told_of
from trueup.api.models import opened
from trueup.api.progress import Progress, ignored
from trueup.api.run_folder import run_folder
from trueup.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from trueup.audits.protocol import Audit, Model, Probe
    from trueup.data import Table


def audit(
    model: "str | Path | Model",
    audits: "str | Audit | Sequence[str | Audit]" = (),
    *,
    suite: str | None = None,
    data: Any = None,
    out: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    heads: Mapping[str, float] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> AuditRun:
    """Measure where a model leans: every number with its interval and n.

    Fields: model is one, or what `--help` lists; audits are registered names or instances; suite
            names several in their place: those that fit the model and whose data lie in the folder
            `data`; data else is a file, rows or a data set for all of them, or a mapping from an
            audit's name to its own; settings are fields of the
            audits, such as `level=0.9`, and go to each audit that has the field; out is the run
            folder to write, None keeps everything in memory; resume goes on with an unfinished
            one; heads mixes the output heads of a model trained for several objectives,
            {"honest": 0.7, ...}.
    Raises: UserError where a name, a setting, the data, the model or the folder is wrong, before
            anything is measured.
    """
    lm: Model | None = None
    skipped: dict[str, str] = {}
    if suite is not None:
        from trueup.audits.suites import suite as found

        if audits:
            raise UserError(f"suite {suite!r} names its own audits; leave {audits!r} out")
        lm = opened(model, device=device, dtype=dtype, heads=heads)
        ready = found(suite, lm, data, settings)
        audits, data, skipped = list(ready.data), ready.data, ready.skipped
    chosen = chosen_audits(audits, settings, seed=seed)
    jobs = [job_of(each, data) for each in chosen]
    if lm is None:
        lm = opened(model, device=device, dtype=dtype, heads=heads)
    asked = Asked(lm, jobs, seed, heads or {}, skipped)
    if out is None:
        return _in_memory(asked, progress or ignored)
    return _in_folder(asked, Path(out), resume, progress or ignored)


def chosen_audits(
    audits: "str | Audit | Sequence[str | Audit]", settings: Mapping[str, Any], *, seed: int = 0
) -> "tuple[Audit, ...]":
    """The audits as instances, each with those settings that are its fields.

    Fields: seed goes to those named ones that draw, unless the settings hold one.

    Raises: UserError where a name is unknown or stands twice, or no audit has a setting's field.
    """
    from trueup.audits import AUDITS
    from trueup.audits import audit as made

    several = [*audits] if isinstance(audits, (list, tuple)) else [cast("str | Audit", audits)]
    if not several:
        raise UserError(f"no audit is named; known: {', '.join(sorted(AUDITS))}")
    names = [each.name for each in map(made, several)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"audit {twice!r} is named twice; give each audit a run of its own")
    known = {name: fields_of(made(each)) for name, each in zip(names, several, strict=True)}
    for setting in settings:
        if not any(setting in own for own in known.values()):
            told = "; ".join(f"{name} has {', '.join(own)}" for name, own in known.items())
            raise UserError(f"no audit has a field {setting!r}; {told}")
    drawn = {"seed": seed, **settings}
    return tuple(
        made(
            each,
            {
                key: value
                for key, value in (drawn if isinstance(each, str) else settings).items()
                if key in known[name]
            },
        )
        for name, each in zip(names, several, strict=True)
    )


def fields_of(audit: Any) -> list[str]:
    """The names of an audit's settings."""
    return [field.name for field in fields(audit)]


@dataclass(frozen=True)
class Job:
    """One audit with its data and probes."""

    audit: "Audit"
    table: "Table"
    probes: "list[Probe]"


@dataclass(frozen=True)
class Asked:
    """A whole command: which model, mixed from which heads, which audits on which data."""

    model: "Model"
    jobs: list[Job]
    seed: int
    heads: Mapping[str, float]
    skipped: Mapping[str, str]

    def remarks(self) -> list[str]:
        """Which audits of a suite did not run, and why."""
        if not self.skipped:
            return []
        told = "; ".join(f"{name} ({why})" for name, why in self.skipped.items())
        return [f"not run of this suite: {told}"]

    def facts(self) -> dict[str, Any]:
        """What a run keeps of the command, by the names of `Run.create`."""
        from trueup.files import content_hash

        settings = {job.audit.name: asdict(cast(Any, job.audit)) for job in self.jobs}
        mixed = {"heads": dict(self.heads)} if self.heads else {}
        return {
            "model": self.model.name,
            "model_hash": self.model.fingerprint,
            "arguments": {"audits": settings, "device": device_of(self.model), **mixed},
            "data": [job.table.source for job in self.jobs],
            "data_hash": content_hash(*(job.table.hash for job in self.jobs)),
            "seed": self.seed,
        }

    def measured(
        self, done: Mapping[str, set[str]], progress: Progress
    ) -> "Iterator[tuple[pd.DataFrame, dict[str, int]]]":
        """The items of every chunk that is not yet done, with the work that they cost."""
        from trueup.audits.protocol import chunks

        total = sum(len(job.probes) for job in self.jobs)
        finished = 0
        for job in self.jobs:
            name = job.audit.name
            for chunk in chunks(job.probes):
                progress(finished, total, name)
                finished += len(chunk)
                if {probe.id for probe in chunk} <= done.get(name, set()):
                    continue
                before = Counter(self.model.work.as_dict())
                items = _measured(job.audit, self.model, chunk)
                items.insert(0, "audit", name)
                spent = Counter(self.model.work.as_dict())
                spent.subtract(before)
                yield items, dict(spent)
        progress(total, total, "estimating")


def device_of(model: "Model") -> str:
    """Where the model computes: its device's type, or elsewhere."""
    device = getattr(model, "device", None)
    return "elsewhere" if device is None else str(device.type)


def _measured(audit: "Audit", model: "Model", chunk: "Sequence[Probe]") -> "pd.DataFrame":
    """The chunk's items; what fails is told with the probes among which it stands."""
    try:
        return audit.measure(model, chunk)
    except UserError as error:
        where = f"{audit.name}, probes {chunk[0].id} to {chunk[-1].id}"
        raise UserError(f"{where}: {error}") from error


def job_of(audit: "Audit", data: Any) -> Job:
    """The audit's own data, read and validated as a whole, and the probes that it makes."""
    from trueup.audits import probes_of, read_data

    source = data.get(audit.name) if isinstance(data, Mapping) else data
    table = read_data(audit, source)
    return Job(audit, table, probes_of(audit, table))


def _in_memory(asked: Asked, progress: Progress) -> AuditRun:
    """Measure and estimate without a folder."""
    import pandas as pd

    work: Counter[str] = Counter()
    parts: dict[str, list[pd.DataFrame]] = {job.audit.name: [] for job in asked.jobs}
    for items, spent in asked.measured({}, progress):
        parts[items["audit"].iloc[0]].append(items)
        work.update(spent)
    tables = {name: pd.concat(chunks, ignore_index=True) for name, chunks in parts.items()}
    audits = tuple(job.audit for job in asked.jobs)
    estimates, notes = estimated(audits, tables)
    return AuditRun(
        audits=audits,
        tables=tables,
        estimates=estimates,
        notes=[*asked.remarks(), *notes],
        work=dict(work),
        **asked.facts(),
    )


def _in_folder(asked: Asked, out: Path, resume: bool, progress: Progress) -> AuditRun:
    """Measure into a run folder, chunk by chunk, and estimate from what the folder holds."""
    from trueup.report import report_run

    audits = tuple(job.audit for job in asked.jobs)
    with run_folder(out, verb="audit", resume=resume, **asked.facts()) as run:
        if not run.is_done:
            done = {name: run.done_ids(name) for name in (each.name for each in audits)}
            for items, spent in asked.measured(done, progress):
                run.append_items(items, work=spent)
            tables = tables_of(run, list(done))
            estimates, notes = estimated(audits, tables)
            run.write_metrics(estimates)
            run.finish(
                "done", extra={"notes": [*asked.remarks(), *notes], **told_of(audits, tables)}
            )
    if not (out / "report.html").is_file():
        report_run(out)
    return AuditRun.open(out, audits)
