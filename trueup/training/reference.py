"""Reference log-probabilities: computed once before the first step, stored, never served stale."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from trueup.data import Table
from trueup.errors import UserError
from trueup.models import Work
from trueup.objectives import Objective
from trueup.objectives.protocol import Data
from trueup.training.batches import Plan, dependent_batches
from trueup.training.data import TrainingData
from trueup.training.examples import mismatched
from trueup.training.processes import Processes
from trueup.training.scoring import Family, Scoring, completion_logps
from trueup.training.stored import fingerprint, store, stored

FORMAT = "2"  # raise it when the meaning of the stored numbers changes
COLUMNS: dict[Data, tuple[str, ...]] = {
    "pairs": ("ref_chosen_logps", "ref_rejected_logps"),
    "labelled": ("ref_logps",),
    "completions": ("ref_logps",),
    "scored": ("ref_logps",),
    "routed": ("ref_chosen_logps", "ref_rejected_logps"),
}


@dataclass(frozen=True)
class Reference:
    """Log-probabilities of whole completions under the reference, float64, in nats.

    Shapes: train, evaluation [N, K] in the order of the examples; mismatched_train [S] in the
            order of the steps, mismatched_evaluation [N]; what nobody needs is absent.
    Fields: work is what they cost, whether now or when they were stored.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    work: Work = field(default_factory=Work)

    def of(self, name: str, indices: list[int] | slice) -> Tensor | None:
        """Some rows of one part, or None where that part was not needed."""
        values = self.values.get(name)
        return None if values is None else values[indices]


def reference_logps(
    scoring: Scoring,
    *,
    model: str,
    objective: Objective,
    data: TrainingData,
    plan: Plan,
    path: Path,
    processes: Processes,
    before_bucket: Callable[[int, int], None],
) -> Reference:
    """The reference's numbers: the data's own columns, else the stored ones, else computed.

    Fields: model is the reference's fingerprint.
    """
    given = _from_tables(objective, data)
    wanted = {
        name: families
        for name, families in _wanted(objective, data, plan).items()
        if name not in given
    }
    if not wanted:
        return Reference(given)
    known = scored_once(
        scoring, wanted, model=model, path=path, processes=processes, before_bucket=before_bucket
    )
    return Reference({**known.values, **given}, known.work)


def scored_once(
    scoring: Scoring,
    wanted: Mapping[str, list[Family]],
    *,
    model: str,
    path: Path,
    processes: Processes,
    before_bucket: Callable[[int, int], None],
) -> Reference:
    """Sums of every completion of these parts under one model: the stored ones, else computed."""
    mark = fingerprint(FORMAT, [model], scoring, wanted)
    found = stored(path, mark)
    if found is None:
        found = values, work = _computed(scoring, wanted, processes, before_bucket)
        processes.on_main(lambda: store(path, mark, values, work))
    return Reference(*found)


def _from_tables(objective: Objective, data: TrainingData) -> dict[str, Tensor]:
    """What the data bring along, where the objective has a reference at all."""
    if not objective.needs.reference:
        return {}
    tables = {"train": data.table, "evaluation": data.eval_table}
    return {
        name: values
        for name, table in tables.items()
        if table is not None and (values := reference_columns(table, objective.data)) is not None
    }


def reference_columns(table: Table, kind: Data) -> Tensor | None:
    """The reference's log-probabilities that the data bring along, [N, K]; None where they do not.

    Raises: UserError where only some rows have them or a value is no log-probability.
    """
    columns = COLUMNS.get(kind, ())
    if not any(column in row for row in table for column in columns):
        return None
    values = [
        _checked(row.get(column), column, table.place(index))
        for index, row in enumerate(table)
        for column in columns
    ]
    return torch.tensor(values, dtype=torch.float64).reshape(len(table), len(columns))


def _checked(value: object, column: str, place: str) -> float:
    """The value as a log-probability."""
    try:
        number = float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        number = float("nan")
    if not -float("inf") < number <= 0:
        raise UserError(
            f"{place}: {column!r} must be a finite log-probability of at most 0, got {value!r}; "
            "correct it, or remove the column from all rows"
        )
    return number


def _wanted(objective: Objective, data: TrainingData, plan: Plan) -> dict[str, list[Family]]:
    """The parts that the reference must score; evaluation rows always, to see what changed."""
    needs, train, evaluation = objective.needs, data.train, data.evaluation
    wanted: dict[str, list[Family]] = {}
    if needs.reference:
        wanted["train"] = [*train.families(range(len(train)))]
    if needs.mismatched:
        steps = (plan.batch(step) for step in range(plan.steps))
        wanted["mismatched_train"] = [
            [group] for batch in steps for group in mismatched(train, batch, data.limit)
        ]
    if evaluation is not None:
        wanted["evaluation"] = [*evaluation.families(range(len(evaluation)))]
        if needs.mismatched:
            batches = dependent_batches(len(evaluation), plan.batch_size)
            wanted["mismatched_evaluation"] = [
                [group] for batch in batches for group in mismatched(evaluation, batch, data.limit)
            ]
    return wanted


def _computed(
    scoring: Scoring,
    wanted: Mapping[str, list[Family]],
    processes: Processes,
    before_bucket: Callable[[int, int], None],
) -> tuple[dict[str, Tensor], Work]:
    """Every part scored; the mismatched ones have one completion each and become vectors."""
    values, work = {}, Work()
    for name, families in wanted.items():
        logps, spent = completion_logps(
            scoring, families, processes=processes, before_bucket=before_bucket
        )
        work.add(**spent.as_dict())
        values[name] = logps[:, 0].contiguous() if name.startswith("mismatched") else logps
    return values, work
