"""The three levels of what a model can be aligned with, and which of them were not evaluated."""

from collections.abc import Iterable
from enum import StrEnum


class AlignmentGoal(StrEnum):
    """The goal levels of the survey; no number may be averaged across them.

    Source: Yao et al. 2023, arXiv 2308.12014; the names are those of the taxonomy
            `alignment-goals`, which holds the levels' branches.
    """

    INSTRUCTIONS = "instructions"
    PREFERENCES = "preferences"
    VALUES = "values"


def unevaluated(evaluated: Iterable[AlignmentGoal]) -> list[AlignmentGoal]:
    """The levels of which nothing was evaluated, in the survey's order."""
    seen = set(evaluated)
    return [goal for goal in AlignmentGoal if goal not in seen]
