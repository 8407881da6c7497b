"""`trueup demo`: plant a lean, measure it, correct it with RPO, prove the correction."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trueup.api.aligning import align
from trueup.api.audit_run import AuditRun
from trueup.api.auditing import audit
from trueup.api.progress import Progress, ignored
from trueup.audits.comparison import ComparisonRow, compare_audits
from trueup.demo.guards import Guard, control_guard, displacement_guard, perplexity_guard
from trueup.demo.page import NOTES, page
from trueup.demo.result import DemoResult, Line
from trueup.demo.world_model import world_model
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.report import report_run
from trueup.runs import Run
from trueup.stats import Estimate
from trueup.worlds.occupations import ANCHOR_JOBS, CONTROL_JOBS, LEANING_JOBS, OccupationWorld

if TYPE_CHECKING:
    import pandas as pd

    from trueup.audits.protocol import Audit

WORTH_CORRECTING = 0.05  # of P(he | job); a smaller lean, or a smaller change, does not matter
ALIGNMENT: dict[str, Any] = {
    "beta": 0.1,
    "eta": 1.0,  # the pairs are short (six tokens) and say that both pronouns are as good
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 5e-4,
    "eval_every": 33,  # of 165 steps
    "monitor": True,
}
KINDS = {"leaning": LEANING_JOBS, "anchor": ANCHOR_JOBS, "control": CONTROL_JOBS}


def run_demo(
    *, lean: float = 0.25, seed: int = 0, out: Path, progress: Progress | None = None
) -> DemoResult:
    """Run the whole loop on an occupations world and write its runs and report below `out`.

    A lean is corrected where the audit finds one: its interval leaves out 0 and it is at least
    0.05. The correction's data are counterfactual pairs; in the two-response optimum of RPO
    (sheet 38, 7c) with label rate 1/2 the log-odds shrink by about beta / (beta + eta).
    Raises: UserError where lean or seed leaves its range, or `out` holds something else.
    """
    started = time.monotonic()
    world = OccupationWorld(lean=lean, seed=seed)
    tell = progress or ignored
    _clear(out)
    arguments = {"lean": lean, "seed": seed, **ALIGNMENT}
    with _one_thread(), Run.create(out, verb="demo", arguments=arguments, seed=seed) as run:
        policy = world_model(world, tell)
        before = _audited(policy, world, out / "before", tell)
        found = _estimate(before, "leaning")
        after, rows, guards = before, [], []
        if _is_worth_correcting(found):
            tuned = _aligned(policy, world, out / "aligned", seed, tell)
            after = _audited(tuned, world, out / "after", tell)
            rows = compare_audits([_sides(before, after)], smallest=WORTH_CORRECTING)
            guards = _guards(before, after, out / "aligned")
        lines = _lines(world, before, after, rows)
        result = DemoResult(
            planted=lean,
            corpus=world.corpus_lean(LEANING_JOBS),
            before=found,
            after=_estimate(after, "leaning"),
            verdict=lines[0].verdict,
            guards=guards,
            lines=lines,
            corrected=bool(rows),
            report=out / "report.html",
            seconds=0.0,
        )
        run.write_metrics([estimate for estimate in after.estimates if estimate.n])
        run.write_comparison(rows)
        notes = [*NOTES, *(Run.open(out / "aligned").info["notes"] if rows else ())]
        told = {"guards": [guard.as_dict() for guard in guards], "notes": notes}
        run.finish("done", extra=told | {"page": page(result, world)})
    report_run(out)
    return replace(result, seconds=time.monotonic() - started)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread inside the block: for a model this small, more would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _clear(out: Path) -> None:
    """Make room in a folder that an earlier demo made; any other folder stays as it is.

    Raises: UserError where `out` holds something that no demo wrote.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / "run.json").is_file() or Run.open(out).info["verb"] != "demo":
        raise UserError(f"{out}: exists and is no earlier demo; give another folder with --out")
    shutil.rmtree(out)


def _audited(
    model: LanguageModel, world: OccupationWorld, folder: Path, progress: Progress
) -> AuditRun:
    """The lean of every job, and the perplexity of neutral text."""
    data = {"association": world.probes(), "perplexity": world.neutral_text()}
    return audit(model, [*data], data=data, out=folder, seed=world.seed, progress=progress)


def _aligned(
    policy: LanguageModel, world: OccupationWorld, folder: Path, seed: int, progress: Progress
) -> LanguageModel:
    """The policy after RPO on the world's counterfactual pairs."""
    return align(
        policy,
        "rpo",
        data=world.pairs(),
        eval_data=world.held_out_pairs(),
        out=folder,
        seed=seed,
        progress=progress,
        **ALIGNMENT,
    )


def _estimate(run: AuditRun, part: str) -> Estimate:
    """The lean of one slice."""
    return next(
        estimate
        for estimate in run.estimates
        if (estimate.audit, estimate.metric, estimate.slice) == ("association", "lean", part)
    )


def _is_worth_correcting(lean: Estimate) -> bool:
    """Whether there is evidence of a lean, and of one that matters."""
    is_evident = lean.low > 0 or lean.high < 0
    return is_evident and abs(lean.value) >= WORTH_CORRECTING


def _sides(before: AuditRun, after: AuditRun) -> "tuple[Audit, pd.DataFrame, pd.DataFrame]":
    """The association audit with its items before and after."""
    chosen = next(each for each in before.audits if each.name == "association")
    return chosen, before.items_of("association"), after.items_of("association")


def _guards(before: AuditRun, after: AuditRun, aligned: Path) -> list[Guard]:
    """What the correction must not have broken."""
    change = next(
        row
        for row in Run.open(aligned).estimates()
        if (row["metric"], row["slice"]) == ("likelihood-displacement", "chosen")
    )
    _, items_before, items_after = _sides(before, after)
    return [
        perplexity_guard(before.items_of("perplexity"), after.items_of("perplexity")),
        displacement_guard(Estimate(**change)),
        control_guard(items_before, items_after),
    ]


def _lines(
    world: OccupationWorld, before: AuditRun, after: AuditRun, rows: list[ComparisonRow]
) -> list[Line]:
    """Each kind of job, its jobs below it; the leaning ones first."""
    verdicts = {row.slice: row.verdict for row in rows if row.metric == "lean"}
    result = []
    for kind, jobs in KINDS.items():
        for part, members in [(kind, jobs), *((job, (job,)) for job in jobs)]:
            result.append(
                Line(
                    name=f"{kind} jobs" if part == kind else f"  {part}",
                    planted=world.planted(members[0]),
                    corpus=world.corpus_lean(members),
                    before=_estimate(before, part),
                    after=_estimate(after, part),
                    verdict=verdicts.get(part, "no evidence"),
                )
            )
    return result
