"""What a report is made of, before anything is drawn or worded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from trueup.calibration.curve import Calibration
    from trueup.report.generation import Completions

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ReportInput:
    """Everything that one page shows; all but the title may be left out.

    Fields: question is one sentence on what was asked; summary is what was found, in sentences of
            the caller, who knows more than the rows (sentences on verdicts and guards are added);
            facts are shown under the title (model, data, seed);
            estimates are rows of metrics.json or objects with `as_dict()`, `before` the same for
            the model before it was changed; comparison are rows of compare.json;
            headline is the slice whose numbers are shown large and first; planted gives the known
            truth by (metric, slice); explanations say what a metric is, by "audit.metric" or by
            "audit";
            guards hold name, value, low, high, limit, unit, tripped, explanation;
            steps is the table of training steps, evaluations that of evaluations on held-out rows;
            moved holds id, group, text, before, after, change, in any order; driving are rows of
            audit, metric, id, group, text, score, change: the items behind each audit's number;
            pictures are those that audits have of their own, as `audit_pictures` gives them;
            calibration are curves of planted against measured leans, each with a section;
            completions are what a run of `generate` wrote, with the traces of its searches;
            notes are what a reader must know beside the numbers;
            settings, work, versions are shown as they are.
    """

    title: str
    question: str = ""
    summary: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    estimates: Sequence[Any] = ()
    before: Sequence[Any] = ()
    headline: str = "all"
    planted: Mapping[tuple[str, str], float] = field(default_factory=dict)
    explanations: Mapping[str, str] = field(default_factory=dict)
    comparison: Sequence[Any] = ()
    guards: Sequence[Row] = ()
    steps: "pd.DataFrame | None" = None
    evaluations: "pd.DataFrame | None" = None
    moved: "pd.DataFrame | None" = None
    driving: Sequence[Row] = ()
    pictures: Sequence[Row] = ()
    calibration: "Sequence[Calibration]" = ()
    completions: "Completions | None" = None
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    work: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def rows_of(values: Sequence[Any]) -> list[dict[str, Any]]:
    """Estimates or comparisons as plain rows."""
    return [dict(value if isinstance(value, Mapping) else value.as_dict()) for value in values]
