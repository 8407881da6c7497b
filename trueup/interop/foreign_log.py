"""What another tool measured, in the shape of an audit whose items are already there."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from trueup.audits import estimates
from trueup.audits.protocol import Metric, Slices, slices_by
from trueup.interop.metric_rules import RULES
from trueup.stats import Estimate
from trueup.stats.estimate import Array

Tool = Literal["lm-evaluation-harness", "inspect_ai"]
Goal = Literal["ideal", "lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class ForeignMetric:
    """A metric of another tool.

    Fields: rule names the total's formula in `RULES`; is_share says that every sample has a 0 or a
            1; ideal goes with the goal "ideal".
    """

    name: str
    rule: str = "mean"
    goal: Goal = "higher"
    ideal: float | None = None
    is_share: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns of the items table that hold its numbers."""
        return [f"{self.name}#{k}" for k in range(RULES[self.rule].width)]

    def as_metric(self) -> Metric:
        """The metric as audits have it."""
        rule = RULES[self.rule]
        kind: Literal["share", "mean", "statistic"] = "share" if self.is_share else "mean"
        return Metric(
            name=self.name,
            kind=kind if self.rule == "mean" else "statistic",
            terms=self._terms,
            value=rule.value,
            ideal=self.ideal,
            goal=self.goal,
            span=(0.0, 1.0) if self.is_share else rule.span,
        )

    def _terms(self, items: pd.DataFrame) -> Array:
        """The numbers [N, K], a single one beside a 1."""
        numbers = items[self.columns].to_numpy(dtype=np.float64)
        if numbers.shape[1] > 1:
            return numbers
        return np.concatenate([numbers, np.ones_like(numbers)], axis=1)


@dataclass(frozen=True, kw_only=True)
class ForeignTask:
    """A task of another tool, as far as comparing and estimating need an audit.

    Fields: version is the tool's of the task, "" where it is not told.
    """

    name: str
    version: str = ""
    scores: tuple[ForeignMetric, ...]
    level: float = 0.95

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The numbers, in the log's order."""
        return tuple(score.as_metric() for score in self.scores)

    def slices(self, items: pd.DataFrame) -> Slices:
        """All items; logs name no groups."""
        return slices_by(items)

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """The numbers with their intervals."""
        return estimates.estimate(self, items)  # type: ignore[arg-type]  # it measures nothing

    def notes(self, items: pd.DataFrame) -> list[str]:
        """How many samples have no score."""
        columns = [column for score in self.scores for column in score.columns]
        missing = int(items[columns].isna().all(axis=1).sum())
        return [f"{self.name}: {missing} samples have no score"] if missing else []


@dataclass(frozen=True, kw_only=True)
class ForeignLog:
    """One model's measurements as another tool logged them.

    Fields: tables holds the items of every task; generation what the tool was told of decoding, by
            task; notes tells what could not be read.
    """

    source: Path
    tool: Tool
    model: str
    tasks: tuple[ForeignTask, ...]
    tables: Mapping[str, pd.DataFrame]
    generation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One measurement: a hash of prompt and target, the prompt to show, numbers by metric."""

    content: str
    prompt: str
    numbers: dict[str, tuple[float, ...]]


def items_of(samples: Sequence[Sample], scores: Sequence[ForeignMetric]) -> pd.DataFrame:
    """The items table: ids from the content, never from the position.

    Samples with the same prompt and target (epochs, duplicates in the data) are numbered and share
    a cluster. They are repeated measurements: tests by cluster do not depend on which of them
    meets which.
    """
    counts = Counter(sample.content for sample in samples)
    seen: Counter[str] = Counter()
    rows = []
    for sample in samples:
        number = seen[sample.content]
        seen[sample.content] += 1
        row: dict[str, Any] = {
            "id": f"{sample.content}#{number + 1}" if number else sample.content,
            "group": "",
            "cluster": sample.content if counts[sample.content] > 1 else "",
            "input": sample.prompt,
        }
        for score in scores:
            absent = (np.nan,) * len(score.columns)
            numbers = sample.numbers.get(score.name, absent)
            row.update(zip(score.columns, numbers, strict=True))
        rows.append(row)
    table = pd.DataFrame(rows)
    table.insert(4, "score", table[scores[0].columns[0]])
    return table


def is_binary(samples: Sequence[Sample], name: str) -> bool:
    """Whether every number of the metric is 0 or 1."""
    numbers = [sample.numbers[name][0] for sample in samples if name in sample.numbers]
    return all(number in (0.0, 1.0) for number in numbers if not np.isnan(number))
