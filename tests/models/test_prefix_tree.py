"""The layout of a tree: every token once, and nobody sees what it does not follow from."""

import itertools

import numpy as np
import pytest

from trueup.models.prefix_tree import Group, Tree, common_length, families, lay_out, row_length


def random_groups(rng: np.random.Generator) -> list[Group]:
    """Prompts and completions over three tokens, so that many begin alike."""
    return [
        Group(
            rng.integers(3, size=rng.integers(1, 5)).tolist(),
            [rng.integers(3, size=rng.integers(1, 5)).tolist() for _ in range(rng.integers(1, 4))],
        )
        for _ in range(4)
    ]


def seen_from(tree: Tree, column: int) -> list[int]:
    return [
        int(tree.ids[other]) for other in range(len(tree)) if other <= column <= tree.ends[other]
    ]


@pytest.mark.parametrize("seed", range(20))
def test_every_prediction_sees_exactly_its_own_past(seed: int):
    groups = random_groups(np.random.default_rng(seed))
    tree = lay_out(groups)
    parts = [(group.prompt, completion) for group in groups for completion in group.completions]
    for (prompt, completion), columns, targets in zip(
        parts, tree.predictors, tree.targets, strict=True
    ):
        assert targets == completion
        assert len(columns) == len(completion)
        for place, column in enumerate(columns):
            past = [*prompt, *completion[:place]]
            assert seen_from(tree, column) == past
            assert tree.positions[column] == len(past) - 1


@pytest.mark.parametrize("seed", range(20))
def test_no_token_with_the_same_past_stands_twice(seed: int):
    groups = random_groups(np.random.default_rng(seed))
    sequences = [
        [*group.prompt, *completion[:-1]] for group in groups for completion in group.completions
    ]
    pasts = {tuple(one[: end + 1]) for one in sequences for end in range(len(one))}
    assert len(lay_out(groups)) == len(pasts)


def test_a_chain_has_no_branches():
    assert not lay_out([Group([1, 2], [[3, 4], [3, 4, 5]])]).has_branches
    assert lay_out([Group([1, 2], [[3, 4], [5, 6]])]).has_branches


def test_row_length_counts_what_is_laid_out_where_nothing_is_shared():
    group = Group([5, 6, 7], [[11, 12, 13], [14, 15], [16]])
    assert row_length(group) == len(lay_out([group])) == 3 + 2 + 1


def test_a_common_beginning_ends_where_they_differ():
    assert common_length([1, 2, 3], [1, 2, 4]) == 2
    assert common_length([1, 2], [1, 2, 3]) == 2
    assert common_length([], [1]) == 0


def test_families_hold_every_group_once_and_stay_within_their_length():
    groups = [Group([a, a, a, a, b], [[1, 2]]) for a, b in itertools.product(range(5), range(9))]
    found = families(groups, longest=20)
    assert sorted(index for family in found for index in family) == list(range(len(groups)))
    for family in found:
        assert len({groups[index].prompt[0] for index in family}) == 1
        assert len(lay_out([groups[index] for index in family])) <= 20
    assert sorted(map(len, found)) == [1] * 5 + [8] * 5  # 4 + 8 * 2 tokens, the ninth is too many


def test_an_opening_token_alone_makes_no_family():
    groups = [Group([1], [list(range(10 * n, 10 * n + 8))]) for n in range(4)]
    assert len(families(groups)) == 4
