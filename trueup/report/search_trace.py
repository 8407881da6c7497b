"""The trace of a search as its report reads it: steps of candidates, and the ways between them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from trueup.report.wording import is_number

NAMED = {
    "text",
    "ahead",
    "logp",
    "h",
    "c",
    "kept",
    "parent",
    "rewards",
}  # what else there is are notes


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One text that a search considered.

    Fields: score is what the search keeps by, NaN where the trace has none; logp NaN likewise;
            parent is the place of what it goes on from, one step before; notes are the search's
            own numbers.
    """

    text: str
    score: float
    logp: float = math.nan
    is_kept: bool = False
    parent: int | None = None
    rewards: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        """Whether there is a score to draw."""
        return math.isfinite(self.score)


Step = Sequence[Candidate]
Node = tuple[int, int]  # a step and a place in it
Way = Mapping[int, int]  # the place of a candidate at every step that it leads through


def steps_of(trace: Sequence[Mapping[str, Any]]) -> list[list[Candidate]]:
    """The steps that considered anything, as every search of trueup writes them."""
    found = [
        [_candidate(entry) for entry in step.get("candidates", ()) if isinstance(entry, Mapping)]
        for step in trace
    ]
    return [step for step in found if step]


def ways_of(
    steps: Sequence[Step], text: str, score: float | None
) -> tuple[dict[int, int], list[dict[int, int]]]:
    """The way to the completion that came out, and those of all other kept candidates.

    The completion is the kept candidate that has its score, and its text where several have it.
    Another way begins where it leaves one that is told already.
    Edges: the first way is empty where no kept candidate has the score.
    """
    parents = _parents(steps)
    end = _end(steps, text, score)
    told: set[Node] = set()
    chosen = {} if end is None else _way_to(end, parents, told)
    others = [
        _way_to((number, place), parents, told)
        for number in reversed(range(len(steps)))
        for place, candidate in enumerate(steps[number])
        if candidate.is_kept and (number, place) not in told
    ]
    return chosen, others


def spans(count: int, most: int) -> list[tuple[int, int]]:
    """Where each of at most so many even parts of `count` things starts, and where it has ended."""
    parts = min(count, most)
    bounds = [round(count * part / parts) for part in range(parts + 1)]
    return list(pairwise(bounds))


def _end(steps: Sequence[Step], text: str, score: float | None) -> Node | None:
    """Where the completion that came out stands."""
    if score is None:
        return None
    ends = [
        (candidate.text == text, number, -place)
        for number, step in enumerate(steps)
        for place, candidate in enumerate(step)
        if candidate.is_kept and math.isclose(candidate.score, score, rel_tol=1e-9)
    ]
    if not ends:
        return None
    _, number, place = max(ends)
    return number, -place


def _way_to(end: Node, parents: Mapping[Node, int], told: set[Node]) -> dict[int, int]:
    """The way to one candidate from the first step, or from one that is told; it is told now."""
    number, place = end
    way = {number: place}
    while (number, place) not in told:
        told.add((number, place))
        if (number, place) not in parents:
            break
        place = parents[number, place]
        number -= 1
        way[number] = place
    return dict(sorted(way.items()))


def _parents(steps: Sequence[Step]) -> dict[Node, int]:
    """The place in the step before of what each kept candidate goes on from, where it is told."""
    return {
        (number, place): candidate.parent
        for number, (before, step) in enumerate(pairwise(steps), start=1)
        for place, candidate in enumerate(step)
        if candidate.is_kept and candidate.parent is not None and candidate.parent < len(before)
    }


def _candidate(entry: Mapping[str, Any]) -> Candidate:
    """One entry of a trace; another package's search may leave things out."""
    rewards = entry.get("rewards")
    return Candidate(
        text=str(entry.get("text", "")),
        score=_number(entry.get("c", entry.get("h"))),
        logp=_number(entry.get("logp")),
        is_kept=bool(entry.get("kept")),
        parent=entry.get("parent"),
        rewards=_numbers(rewards) if isinstance(rewards, Mapping) else {},
        notes=_numbers({name: value for name, value in entry.items() if name not in NAMED}),
    )


def _number(value: Any) -> float:
    """The number, NaN where it is none."""
    return float(value) if is_number(value) else math.nan


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """What is a number among the values."""
    return {str(name): float(value) for name, value in values.items() if is_number(value)}
