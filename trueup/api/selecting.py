"""`trueup.select`: score a pool of training data in chunks that survive a kill, keep a part."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trueup.api.models import opened_causal
from trueup.api.progress import Progress, ignored
from trueup.api.run_folder import run_folder
from trueup.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from trueup.data import Table
    from trueup.models import LanguageModel
    from trueup.selection import Selector

CHUNK = 512  # rows that are scored, and saved, together


def select(
    pool: Any,
    selector: "str | Selector",
    *,
    model: "str | Path | LanguageModel | None" = None,
    keep: float,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
    **settings: Any,
) -> "Table":
    """Score a pool of training data and give back the rows to train on, in the pool's order.

    Fields: pool is a file, rows or a data set; selector is a registered name or an instance; model
            is the one that will be trained; keep in (0, 1] is the share of rows that stay;
            settings are fields of the selector; out is the run folder to write; resume goes on
            with an unfinished one.
    Files:  selected.jsonl with the kept rows, scores.parquet with id, score and kept of every row
            (ids are the rows' places in the pool, counted from 1), run.json, items.parquet.
    Raises: UserError where a name, a setting, the data or the model is wrong, before any work.
    """
    from trueup.data import read
    from trueup.selection import selector as made

    chosen = made(selector, settings)
    if not 0 < keep <= 1:
        raise UserError(f"keep must be above 0 and at most 1, got {keep}")
    if model is None:
        raise UserError(f"{chosen.name} scores rows by a model; name the one that will be trained")
    table = read(pool, chosen.contract)
    lm = opened_causal(model, device=device, dtype=dtype)
    job = Job(chosen, lm, table, keep)
    if out is None:
        parts = job.scored(set(), progress or ignored)
        scores = [score for items, _ in parts for score in items["score"]]
        return table.select(chosen.kept(scores, keep))
    return _in_folder(job, Path(out), resume, progress or ignored)


@dataclass(frozen=True)
class Job:
    """What is scored, by what, and how much of it stays."""

    selector: "Selector"
    model: "LanguageModel"
    table: "Table"
    keep: float

    def scored(
        self, done: set[str], progress: Progress
    ) -> "Iterator[tuple[pd.DataFrame, dict[str, int]]]":
        """The scores of every chunk of rows that is not yet done, and the work they cost."""
        import pandas as pd

        total = len(self.table)
        for start in range(0, total, CHUNK):
            progress(start, total, "scoring")
            rows = range(start, min(start + CHUNK, total))
            ids = [str(row + 1) for row in rows]
            if set(ids) <= done:
                continue
            before = self.model.work.as_dict()
            scores = self.selector.score(self.model, self.table.select(rows))
            after = self.model.work.as_dict()
            spent = {name: count - before[name] for name, count in after.items()}
            yield pd.DataFrame({"id": ids, "score": scores}), spent
        progress(total, total, "scoring")


def _in_folder(job: Job, out: Path, resume: bool, progress: Progress) -> "Table":
    """Score into a run folder, chunk by chunk, and write what stays."""
    from trueup.files import write_table, write_text

    with run_folder(
        out,
        verb="select",
        arguments={
            "selector": job.selector.name,
            "settings": asdict(cast(Any, job.selector)),
            "keep": job.keep,
            "device": job.model.device.type,
        },
        seed=0,
        model=job.model.name,
        model_hash=job.model.fingerprint,
        data=job.table.source,
        data_hash=job.table.hash,
        resume=resume,
    ) as run:
        if not run.is_done:
            for items, spent in job.scored(run.done_ids(), progress):
                run.append_items(items, work=spent)
        found = run.items()
        kept = job.selector.kept(found["score"].to_list(), job.keep)
        selected = job.table.select(kept)
        if not run.is_done:
            write_table(out / "scores.parquet", found.assign(kept=found.index.isin(kept)))
            write_text(out / "selected.jsonl", _as_jsonl(selected))
            run.finish("done", extra={"rows": len(job.table), "kept": len(kept)})
    return selected


def _as_jsonl(table: "Table") -> str:
    """One JSON object per line and row, columns sorted by name."""
    from trueup.data.canonical import canonical

    return "".join(f"{canonical(row).decode()}\n" for row in table)
