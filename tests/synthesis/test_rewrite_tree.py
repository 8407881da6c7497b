"""Trees of rewrites as JSON: there and back, damaged, and gone on with."""

import json
from pathlib import Path

import pytest

from tests.synthesis.rewrite_world import FormulaScene, formula_trees
from trueup.errors import UserError
from trueup.synthesis.p_aligner import PAlignerSearch
from trueup.synthesis.rewrite_tree import RewriteTree, read_trees, write_trees


def grown(iterations: int = 20, count: int = 3) -> list[RewriteTree]:
    trees = formula_trees(count)
    PAlignerSearch(iterations=iterations, n_responses=1).grow(trees, FormulaScene())
    return trees


def told(trees: list[RewriteTree]) -> list[dict]:
    return [tree.as_dict() for tree in trees]


def test_trees_come_back_as_they_were_written(tmp_path: Path):
    trees = grown()
    write_trees(tmp_path / "trees.json", trees)
    found = read_trees(tmp_path / "trees.json")
    assert told(found) == told(trees)
    assert [[n.nested for n in t.nodes] for t in found] == [
        [n.nested for n in t.nodes] for t in trees
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["trees.json"]


@pytest.mark.parametrize("stop", [1, 7, 19])
def test_written_read_and_gone_on_with_is_never_stopped(stop: int, tmp_path: Path):
    trees = formula_trees(3)

    def keep(trees: list[RewriteTree]) -> None:
        if trees[0].iterations == stop:
            write_trees(tmp_path / "trees.json", trees)

    search = PAlignerSearch(n_responses=1)
    search.grow(trees, FormulaScene(), keep=keep)
    again = read_trees(tmp_path / "trees.json")
    assert {tree.iterations for tree in again} == {stop}
    search.grow(again, FormulaScene())
    assert told(again) == told(trees)


def test_more_iterations_go_on_where_fewer_ended():
    trees = grown(8)
    PAlignerSearch(n_responses=1).grow(trees, FormulaScene())
    assert told(trees) == told(grown(20))


def test_a_tree_that_is_done_is_left_alone():
    trees = grown()
    before = told(trees)
    PAlignerSearch(n_responses=1).grow(trees, FormulaScene())
    assert told(trees) == before


def test_the_path_names_the_principles_from_the_root_on():
    tree = RewriteTree("x", {"A": "a", "B": "b"})
    first = tree.add(0, "B", "y", [1.0])
    second = tree.add(first, "A", "z", [3.0])
    tree.close([2.0])
    assert tree.path(second) == ["B", "A"]
    assert (tree.best().text, tree.worst().text) == ("z", "y")
    assert tree.summary() == {
        "nodes": 3, "raw": 2.0, "best": 3.0, "gain": 1.0, "principles": ["B", "A"],
        "raw_words": 1, "best_words": 1, "failed": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda trees: trees.update(schema=2),
        lambda trees: trees.pop("trees"),
        lambda trees: trees["trees"][0]["nodes"][0].update(visits=3),
        lambda trees: trees["trees"][0]["nodes"][2].update(parent=-1),
        lambda trees: trees["trees"][0]["nodes"][2].update(rewards=[]),
        lambda trees: trees["trees"][0].update(nodes=[]),
    ],
)
def test_a_file_of_something_else_is_refused_by_its_name(change, tmp_path: Path):
    path = tmp_path / "trees.json"
    write_trees(path, grown())
    damaged = json.loads(path.read_text())
    change(damaged)
    path.write_text(json.dumps(damaged))
    with pytest.raises(UserError, match=r"trees.json: ha|trees.json: holds no trees"):
        read_trees(path)


def test_a_tree_needs_a_principle():
    with pytest.raises(UserError, match="at least one principle"):
        RewriteTree("x", {})
