"""In-context samples: one task each, whole demonstrations, distinct subsets in the text's order."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from trueup.data import read
from trueup.errors import UserError
from trueup.synthesis.demonstrations import (
    Template,
    demonstration_rows,
    demonstration_subsets,
    in_context_texts,
)

EXAMPLES = [
    {"task": task, "x": f"{task}{number}?", "y": f"{task}{number}!"}
    for task, size in (("a", 15), ("b", 6), ("c", 4))
    for number in range(size)
]
ROW: dict[str, Any] = {
    "demonstrations": [{"x": f"q{number}", "y": f"r{number}"} for number in range(5)],
    "query": "q?",
    "target": "r!",
}


def rows(n: int = 300, **options: Any) -> list[dict[str, Any]]:
    return demonstration_rows(EXAMPLES, n, np.random.default_rng(0), **options)


def test_query_and_demonstrations_share_a_task_and_never_an_example() -> None:
    for row in rows():
        texts = [one["x"] for one in row["demonstrations"]] + [row["query"]]
        assert {text[0] for text in texts} == {row["task"]}
        assert len(set(texts)) == len(texts)
        assert all(one["y"] == one["x"].replace("?", "!") for one in row["demonstrations"])


def test_numbers_of_demonstrations_fill_their_range() -> None:
    sizes = Counter(len(row["demonstrations"]) for row in rows() if row["task"] == "a")
    assert set(sizes) == set(range(4, 11))
    assert chisquare(list(sizes.values())).pvalue > 0.01


def test_small_tasks_give_fewer_demonstrations_or_no_rows() -> None:
    found = rows()
    assert {len(row["demonstrations"]) for row in found if row["task"] == "b"} == {4, 5}
    assert {row["task"] for row in found} == {"a", "b"}
    assert "c" in {row["task"] for row in rows(k_range=(3, 3))}


def test_queries_take_turns() -> None:
    assert set(Counter(row["query"] for row in rows(2 * 21)).values()) == {2}


def test_rows_are_the_contracts() -> None:
    table = read(rows(3), "demonstrations")
    assert [row["target"] for row in table] == [row["target"] for row in rows(3)]


def test_a_seed_gives_the_same_rows_and_another_gives_others() -> None:
    assert rows() == rows()
    assert rows() != demonstration_rows(EXAMPLES, 300, np.random.default_rng(1))


def test_no_task_large_enough_is_told() -> None:
    with pytest.raises(UserError, match="the largest task has 15; a query and 15 demonstrations"):
        rows(k_range=(15, 20))


@pytest.mark.parametrize("k_range", [(0, 4), (5, 4), (4, 63)])
def test_a_range_that_is_none_is_refused(k_range: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="must lie between"):
        rows(k_range=k_range)


# subsets


def test_subsets_are_distinct_ascending_and_never_empty() -> None:
    rng = np.random.default_rng(0)
    for k in (3, 4, 10, 62):
        for _ in range(50):
            subsets = demonstration_subsets(k, 4, rng)
            assert len(set(subsets)) == 4
            assert all(subset == tuple(sorted(set(subset))) for subset in subsets)
            assert all(subset and subset[0] >= 0 and subset[-1] < k for subset in subsets)


def test_every_subset_is_equally_frequent() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(subset for _ in range(2000) for subset in demonstration_subsets(3, 2, rng))
    assert len(counts) == 7
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_subsets_of_other_sizes_first_would_be_seen() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 3, size=4000, endpoint=True)  # size first, then a subset of that size
    counts = Counter(tuple(sorted(rng.choice(3, size=size, replace=False))) for size in sizes)
    assert chisquare(list(counts.values())).pvalue < 1e-6


def test_all_subsets_can_be_asked_for_and_no_more() -> None:
    assert len(set(demonstration_subsets(3, 7, np.random.default_rng(0)))) == 7
    with pytest.raises(UserError, match="3 demonstrations have 7 subsets, got n_subsets = 8"):
        demonstration_subsets(3, 8, np.random.default_rng(0))


# texts


def test_texts_hold_the_demonstrations_in_their_order_then_the_query() -> None:
    made = in_context_texts(ROW, np.random.default_rng(0))
    assert made is not None
    assert made.sequence == "q0\nr0\n\nq1\nr1\n\nq2\nr2\n\nq3\nr3\n\nq4\nr4\n\nq?\nr!"
    for subset, prompt in zip(made.subsets, made.prompts, strict=True):
        solved = "".join(f"q{number}\nr{number}\n\n" for number in subset)
        assert prompt == solved + "q?\n"
    assert len(set(made.prompts)) == 4


def test_a_template_says_how() -> None:
    template = Template(answer=" -> ", separator=" ; ")
    made = in_context_texts(ROW, np.random.default_rng(0), template=template)
    assert made is not None
    assert made.sequence.startswith("q0 -> r0 ; q1 -> r1 ; ")
    assert made.sequence.endswith("q4 -> r4 ; q? -> r!")


@pytest.mark.parametrize(("limit", "first"), [(100, 0), (40, 0), (39, 1), (26, 2), (25, None)])
def test_what_is_too_long_loses_whole_demonstrations(limit: int, first: int | None) -> None:
    made = in_context_texts(ROW, np.random.default_rng(0), fits=lambda text: len(text) <= limit)
    if first is None:  # two are left, which have 3 subsets
        assert made is None
    else:
        assert made is not None
        assert len(made.sequence) <= limit
        assert made.sequence.startswith(f"q{first}\nr{first}\n\n")
        assert made.sequence.endswith("q?\nr!")
        assert max(map(max, made.subsets)) < 5 - first


def test_fewer_subsets_need_fewer_demonstrations() -> None:
    made = in_context_texts(
        ROW, np.random.default_rng(0), n_subsets=3, fits=lambda text: len(text) <= 24
    )
    assert made is not None
    assert set(made.subsets) == {(0,), (1,), (0, 1)}
