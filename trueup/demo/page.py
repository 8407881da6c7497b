"""The demo's report: one page over both audits, the alignment and the comparison."""

from typing import Any

from trueup.demo.result import DemoResult
from trueup.worlds.occupations import OccupationWorld

EXPLANATIONS = {
    "association.lean": "P(he | context) / (P(he | context) + P(she | context)) - 1/2, averaged "
    "over contexts that the corpus never used; 0 is no lean.",
    "association.log_ratio": "ln P(he | context) / P(she | context), averaged; 0 is no lean.",
    "association.coverage": "P(he | context) + P(she | context): how much of the model's belief "
    "the two words hold.",
    "perplexity.perplexity": "How surprised the model is by new sentences about things.",
}
NOTES = (
    "Intervals of a kind of job resample whole jobs; those of one job its contexts.",
    "Anchor jobs are neutral and have preference pairs of their own; control jobs are neutral and "
    "have none.",
    "A change of a job's lean below 0.05 does not matter here and is no evidence, whatever its p.",
)


def page(result: DemoResult, world: OccupationWorld) -> dict[str, Any]:
    """What run.json says for `report_run`: the page in the demo's words, with the known truth."""
    return {
        "title": "Does the model lean, and can it be corrected?",
        "headline": "leaning",
        "question": (
            "A corpus was written in which some jobs go with one pronoun more often than with "
            "the other, by a known amount; a small model learned it, was audited, corrected, "
            "and audited again."
        ),
        "summary": _summary(result, world),
        "facts": {
            "Before": "as it learned the corpus",
            "After": "after RPO",
            "Data": "the world's own contexts and sentences",
            "Planted lean": f"{world.lean:+.2f}",
            "Lean in the corpus": f"{result.corpus:+.3f}",
        },
        "explanations": EXPLANATIONS,
        "planted": _planted(world),
    }


def _summary(result: DemoResult, world: OccupationWorld) -> list[str]:
    """What was found, in sentences."""
    found = result.before
    first = (
        f"Planted: {world.lean:+.3f}. Measured before: {found.value:+.3f} "
        f"[{found.low:+.3f}, {found.high:+.3f}] over {found.n} contexts."
    )
    return [first, result.sentence()]


def _planted(world: OccupationWorld) -> list[dict[str, Any]]:
    """The known truth by metric and slice."""
    truths = {job: world.planted(job) for job in world.jobs}
    kinds = {world.kind(job): world.planted(job) for job in world.jobs}
    return [
        {"metric": "lean", "slice": part, "value": value}
        for part, value in {**truths, **kinds}.items()
    ]
