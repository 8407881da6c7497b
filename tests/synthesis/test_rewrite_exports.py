"""Trees as training data: which pairs, which steps, and that the readers take them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.synthesis.rewrite_world import INSTRUCTIONS, models, own_principles, share_right
from trueup.data import read
from trueup.synthesis.p_aligner import PAlignerSearch
from trueup.synthesis.rewrite_exports import (
    IntentFloor,
    preference_pairs,
    sft_rows,
    step_rows,
    write_exports,
)
from trueup.synthesis.rewrite_forms import read_form
from trueup.synthesis.rewrite_tree import RewriteTree

FORM = read_form()


def small_tree() -> RewriteTree:
    """Raw .5; good .9 and bad .1 under it, worse .7 under good, equal .9 under bad."""
    tree = RewriteTree("raw", {"A": "adding a", "B": "adding b"})
    good = tree.add(0, "A", "good", [0.9])
    bad = tree.add(0, "B", "bad", [0.1])
    tree.add(good, "A", "worse", [0.7])
    tree.add(bad, "B", "equal", [0.9])
    tree.close([0.5])
    return tree


def test_the_best_stands_against_the_worst_and_ties_go_to_the_earlier():
    [row] = preference_pairs([small_tree()])
    assert (row["chosen_text"], row["rejected_text"]) == ("good", "bad")
    assert (row["chosen_reward"], row["rejected_reward"]) == (0.9, 0.1)
    assert row["prompt"] == FORM.rewriter_prompt("raw")
    assert FORM.parse(row["chosen"]) == "good"
    [alone] = sft_rows([small_tree()])
    assert (alone["completion"], alone["reward"]) == (row["chosen"], 0.9)


def test_steps_are_the_edges_that_improve():
    rows = step_rows([small_tree()])
    edges = [(row["prompt"], FORM.parse(row["completion"]), row["gain"]) for row in rows]
    assert edges == [
        (FORM.rewriter_prompt("raw", "adding a"), "good", pytest.approx(0.4)),
        (FORM.rewriter_prompt("bad", "adding b"), "equal", pytest.approx(0.8)),
    ]
    assert [row["principle"] for row in rows] == ["A", "B"]


def test_a_small_gap_makes_no_pair():
    assert len(preference_pairs([small_tree()], min_gap=0.79)) == 1
    assert preference_pairs([small_tree()], min_gap=0.8) == []


def test_a_rewrite_that_asks_for_something_else_is_left_out():
    [row] = preference_pairs([small_tree()], keeps=lambda raw, text: text not in ("good", "bad"))
    assert (row["chosen_text"], row["rejected_text"]) == ("equal", "raw")
    assert step_rows([small_tree()], keeps=lambda raw, text: text == "good")[0]["principle"] == "A"


def test_by_fresh_answers_the_raw_instruction_may_win():
    tree = small_tree()
    tree.nodes[0].fresh, tree.best().fresh, tree.worst().fresh = [0.6], [0.6], [0.2]
    [row] = preference_pairs([tree])
    assert (row["chosen_text"], row["chosen_reward"]) == ("raw", 0.6)
    tree.worst().fresh = [0.8]
    assert preference_pairs([tree]) == []


def test_the_readers_take_what_is_written(tmp_path: Path):
    search = PAlignerSearch(iterations=8, principles=own_principles(tmp_path))
    trees = search.search(INSTRUCTIONS[:10], reward=share_right, **models())
    paths = write_exports(tmp_path / "out", trees)
    sizes = {
        name: len(read(paths[name], contract))
        for name, contract in (("sft", "completions"), ("dpo", "pairs"), ("step", "completions"))
    }
    edges = [
        (tree.nodes[child.parent], child)
        for tree in trees
        for child in tree.nodes
        if child.principle
    ]
    assert sizes["step"] == sum(child.value > parent.value for parent, child in edges)
    assert 5 <= sizes["sft"] == sizes["dpo"] <= 10
    rows = preference_pairs(trees)
    assert all(row["chosen_reward"] > row["rejected_reward"] for row in rows)


def test_the_floor_is_a_cosine():
    vectors = {"raw": [1.0, 0.0], "near": [2.0, 1.0], "far": [0.0, 3.0], "none": [0.0, 0.0]}
    encoder = SimpleNamespace(text_vectors=lambda texts: np.array([vectors[t] for t in texts]))
    keeps = IntentFloor(encoder=encoder, floor=0.8)
    assert [keeps("raw", text) for text in vectors] == [True, True, False, False]
