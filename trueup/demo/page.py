"""The demo's report: one page over both audits, the alignment and the comparison."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from trueup.api.audit_run import AuditRun
from trueup.audits.comparison import ComparisonRow
from trueup.demo.result import DemoResult
from trueup.report import ReportInput, write_report
from trueup.runs import Run
from trueup.worlds.occupations import OccupationWorld

EXPLANATIONS = {
    "association.lean": "P(he | context) / (P(he | context) + P(she | context)) - 1/2, averaged "
    "over contexts that the corpus never used; 0 is no lean.",
    "association.log_ratio": "ln P(he | context) / P(she | context), averaged; 0 is no lean.",
    "association.coverage": "P(he | context) + P(she | context): how much of the model's belief "
    "the two words hold.",
    "perplexity.perplexity": "How surprised the model is by new sentences about things.",
}
MOVED = 12  # probes shown


def write_page(
    result: DemoResult,
    world: OccupationWorld,
    before: AuditRun,
    after: AuditRun,
    rows: Sequence[ComparisonRow],
    out: Path,
) -> Path:
    """Write `report.html` into the demo's folder."""
    run = Run.open(out)
    return write_report(
        ReportInput(
            title="Does the model lean, and can it be corrected?",
            headline="leaning",
            question=(
                "A corpus was written in which some jobs go with one pronoun more often than with "
                "the other, by a known amount; a small model learned it, was audited, corrected, "
                "and audited again."
            ),
            summary=_summary(result, world),
            facts={
                "planted lean": f"{world.lean:+.2f}",
                "lean in the corpus": f"{result.corpus:+.3f}",
                "model": f"Llama architecture, {before.work.get('trunk_tokens', 0):,} tokens read",
                "seed": world.seed,
            },
            estimates=[estimate.as_dict() for estimate in after.estimates],
            before=[estimate.as_dict() for estimate in before.estimates] if rows else [],
            planted=_planted(world),
            explanations=EXPLANATIONS,
            comparison=[row.as_dict() for row in rows],
            guards=[guard.as_dict() for guard in result.guards],
            steps=Run.open(out / "aligned").items() if rows else None,
            moved=_moved(before, after) if rows else None,
            notes=[
                "Intervals of a kind of job resample whole jobs; those of one job its contexts.",
                "Anchor jobs are neutral and have preference pairs of their own; control jobs are "
                "neutral and have none.",
            ],
            settings={"demo": run.info["arguments"]},
            work=after.work,
            versions=run.info["versions"],
        ),
        out / "report.html",
    )


def _summary(result: DemoResult, world: OccupationWorld) -> list[str]:
    """What was found, in sentences."""
    found = result.before
    first = (
        f"Planted: {world.lean:+.3f}. Measured before: {found.value:+.3f} "
        f"[{found.low:+.3f}, {found.high:+.3f}] over {found.n} contexts."
    )
    return [first, result.sentence()]


def _planted(world: OccupationWorld) -> dict[tuple[str, str], float]:
    """The known truth by metric and slice."""
    truth = {("lean", job): world.planted(job) for job in world.jobs}
    kinds = {("lean", world.kind(job)): world.planted(job) for job in world.jobs}
    return {**truth, **kinds}


def _moved(before: AuditRun, after: AuditRun) -> pd.DataFrame:
    """The contexts whose P(he) changed most."""
    first, second = (run.items_of("association").set_index("id") for run in (before, after))
    table = pd.DataFrame(
        {
            "group": first["group"].str.split("|").str[-1],
            "text": first["input"],
            "before": first["score"],
            "after": second["score"],
            "change": second["score"] - first["score"],
        }
    ).reset_index()
    return table.reindex(table["change"].abs().sort_values(ascending=False).index).head(MOVED)
