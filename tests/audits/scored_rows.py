"""Rows for audits of text whose completions are numbers, and the scorer that reads them."""

from collections.abc import Mapping, Sequence

import pandas as pd

from trueup.audits.text.text_audit import TextAudit
from trueup.models.no_model import NoModel
from trueup.stats import Estimate


def written_scores(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """The number that each completion is."""
    return [float(text) for text in completions]


def score_rows(scores: Mapping[str, Sequence[float]]) -> list[dict[str, str]]:
    """A row per score: the keys are groups, and the n-th scores of all share a template."""
    return [
        {
            "id": f"{group}{place}",
            "prompt": f"{group} {place}",
            "group": group,
            "template": str(place),
            "completion": str(score),
        }
        for group, several in scores.items()
        for place, score in enumerate(several)
    ]


def items_of(audit: TextAudit, rows: Sequence[Mapping[str, object]], model=None) -> pd.DataFrame:
    """The rows through the audit's own steps."""
    return audit.measure(model or NoModel(), audit.probes(list(rows)))


def all_rows(audit: TextAudit, items: pd.DataFrame) -> dict[str, Estimate]:
    """The estimates of all items, by metric."""
    return {row.metric: row for row in audit.estimate(items) if row.slice == "all"}
