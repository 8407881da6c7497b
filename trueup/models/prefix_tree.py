"""Token sequences that begin alike, laid out as one tree: no token with the same past twice.

The sequences of a tree are written in sorted order, each from where it leaves the one before.
That is a depth-first order, so what follows from a token stands in one run of columns behind it,
and two numbers per token say everything: its depth is its position, and the last column of its
run tells who may look back at it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FAMILY_LENGTH = 256  # tokens; in a longer row the masked part of attention costs more than it saves
FAMILY_SHARE = 0.25  # of a group's own tokens must be shared to join a family


@dataclass(frozen=True)
class Group:
    """One prompt and its completions as token ids, at least one token each."""

    prompt: list[int]
    completions: list[list[int]]


@dataclass(frozen=True)
class Tree:
    """One row: the prompts and completions of some groups.

    Shapes: ids, positions, ends [L]; ends holds the last column that follows from a token;
            predictors and targets have an entry per completion in the order of the groups: the
            columns from which its tokens are predicted, and the tokens.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    ends: NDArray[np.int64]
    predictors: list[NDArray[np.int64]]
    targets: list[list[int]]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_branches(self) -> bool:
        """Whether it is more than one sequence, so that causality alone does not mask it."""
        return bool((self.ends < len(self) - 1).any())


def row_length(group: Group) -> int:
    """The tokens that a group puts into a row, those that its completions share counted apart."""
    return len(group.prompt) + sum(len(completion) - 1 for completion in group.completions)


def separated(groups: Sequence[Group]) -> list[Group]:
    """A group per completion, for models that cannot share a prompt."""
    return [
        Group(group.prompt, [completion]) for group in groups for completion in group.completions
    ]


def lay_out(groups: Sequence[Group]) -> Tree:
    """The tree of all completions after their prompts, without their last tokens.

    Nothing is predicted from a completion's last token, so it is not laid out.
    """
    parts = [(group.prompt, completion) for group in groups for completion in group.completions]
    sequences = [[*prompt, *completion[:-1]] for prompt, completion in parts]
    ids: list[int] = []
    positions: list[int] = []
    ends = np.zeros(sum(map(len, sequences)), dtype=np.int64)
    predictors: list[NDArray[np.int64]] = [ends] * len(parts)
    path = np.zeros(0, dtype=np.int64)  # the columns of the sequence before
    before: list[int] = []
    for index in sorted(range(len(parts)), key=sequences.__getitem__):
        sequence = sequences[index]
        common = common_length(before, sequence)
        first = len(ids)
        ids += sequence[common:]
        positions += range(common, len(sequence))
        path = np.concatenate([path[:common], np.arange(first, len(ids))])
        ends[path] = len(ids) - 1
        predictors[index] = path[len(parts[index][0]) - 1 :]
        before = sequence
    return Tree(
        ids=np.array(ids),
        positions=np.array(positions),
        ends=ends[: len(ids)],
        predictors=predictors,
        targets=[completion for _, completion in parts],
    )


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """The number of tokens with which both begin."""
    length = min(len(first), len(second))
    for place in range(length):
        if first[place] != second[place]:
            return place
    return length


def families(groups: Sequence[Group], *, longest: int = FAMILY_LENGTH) -> list[list[int]]:
    """Indices of groups that share a row because their prompts begin alike.

    A group joins the family of its neighbour in sorted order when at least FAMILY_SHARE of its
    tokens are shared and the row stays within `longest`; else it begins a family of its own. With
    the neighbour's very prompt it joins whatever the length, as completions of one group do.
    """
    result: list[list[int]] = []
    filled = 0
    before: list[int] = []
    for index in sorted(range(len(groups)), key=lambda index: groups[index].prompt):
        group = groups[index]
        length, common = row_length(group), common_length(before, group.prompt)
        fits = filled + length - common <= longest or group.prompt == before
        if result and fits and common >= FAMILY_SHARE * length:
            result[-1].append(index)
            filled += length - common
        else:
            result.append([index])
            filled = length
        before = group.prompt
    return result
