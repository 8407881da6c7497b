"""Two logs of one tool, joined on the content of their prompts and targets."""

from collections.abc import Mapping
from dataclasses import replace

from trueup.data.canonical import shown
from trueup.errors import UserError
from trueup.interop.foreign_log import ForeignLog, ForeignMetric, ForeignTask


def joined(before: ForeignLog, after: ForeignLog) -> tuple[ForeignLog, ForeignLog]:
    """The logs with the tasks and metrics that both have, ready to be compared as audits are.

    Items pair by a hash of prompt and target, whatever their order. A run may cover more items than
    the other; every item of the smaller one must be in the larger.
    Raises: UserError where tools or prompts differ, or nothing is shared; one line says how many
            prompts differ and shows the first.
    """
    if before.tool != after.tool:
        raise UserError(
            f"the logs are of two tools, {before.tool} before and {after.tool} after; give two of "
            "the same"
        )
    tasks = _pairs(before, after)
    notes = [
        f"{name} was measured in one run only, and is left out"
        for name in sorted({task.name for log in (before, after) for task in log.tasks} - {*tasks})
    ]
    sides: list[list[ForeignTask]] = [[], []]
    for name, pair in tasks.items():
        _check_prompts(name, before, after)
        notes += _differences(name, before, after)
        scores, alone = _shared_scores(*pair)
        notes += [f"{name}: {metric} stands in one run only, and is left out" for metric in alone]
        if not scores:
            raise UserError(f"{name}: the logs share no metric, {alone[0]!r} stands in one only")
        told = all(task.version for task in pair)
        for side, task in zip(sides, pair, strict=True):
            version = task.version if told else ""
            side.append(replace(task, scores=scores, version=version))
    return (
        replace(before, tasks=tuple(sides[0]), notes=(*before.notes, *notes)),
        replace(after, tasks=tuple(sides[1])),
    )


def _pairs(before: ForeignLog, after: ForeignLog) -> dict[str, tuple[ForeignTask, ForeignTask]]:
    """The tasks that both logs have."""
    others = {task.name: task for task in after.tasks}
    pairs = {task.name: (task, others[task.name]) for task in before.tasks if task.name in others}
    if not pairs:
        have = " and ".join(", ".join(task.name for task in log.tasks) for log in (before, after))
        raise UserError(f"the logs share no task, got {have}; run the same task on both models")
    return pairs


def _check_prompts(name: str, before: ForeignLog, after: ForeignLog) -> None:
    """Refuse logs where an item of the smaller one is not in the other."""
    smaller, larger = sorted((before.tables[name], after.tables[name]), key=len)
    known = set(larger["id"])
    is_missing = ~smaller["id"].isin(known)
    if is_missing.any():
        first = smaller["input"][is_missing].iloc[0]
        raise UserError(
            f"{name}: {int(is_missing.sum())} of {len(smaller)} prompts or targets are not in the "
            f"other run, the first {shown(first)}; run both models on the same prompts"
        )


def _differences(name: str, before: ForeignLog, after: ForeignLog) -> list[str]:
    """Settings of generation that the runs do not share."""
    first, second = (log.generation.get(name, {}) for log in (before, after))
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    told = [f"{key} {first.get(key)!r} before and {second.get(key)!r} after" for key in keys]
    return [f"{name}: the runs generate differently, {'; '.join(told)}"] if told else []


def _shared_scores(
    before: ForeignTask, after: ForeignTask
) -> tuple[tuple[ForeignMetric, ...], list[str]]:
    """The metrics of both, a share only where it is one in both; and the names of the others."""
    others: Mapping[str, ForeignMetric] = {score.name: score for score in after.scores}
    shared = tuple(
        replace(score, is_share=score.is_share and others[score.name].is_share)
        for score in before.scores
        if score.name in others and score.rule == others[score.name].rule
    )
    every = dict.fromkeys(score.name for task in (before, after) for score in task.scores)
    kept = {score.name for score in shared}
    return shared, [name for name in every if name not in kept]
