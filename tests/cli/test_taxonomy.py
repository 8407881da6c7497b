"""`trueup methods --taxonomy NAME`: a survey's tree, what stands where, and the gaps."""

import re

import pytest

from tests.cli.conftest import Trueup
from trueup import catalog
from trueup.taxonomies import NAMES, Taxonomy, load


@pytest.mark.parametrize("name", [*NAMES, "help"])
def test_tree_fits_eighty_columns(trueup: Trueup, name: str):
    outcome = trueup("methods", "--taxonomy", name)
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= 80


@pytest.mark.parametrize("name", NAMES)
def test_tree_shows_as_many_gaps_as_it_counts(trueup: Trueup, name: str):
    out = trueup("methods", "--taxonomy", name).out
    lines = [line for line in out.splitlines() if line.endswith(": -")]
    counted = re.search(r"^(\d+) leaves: .* gap \(-\) (\d+)$", out, re.M)
    assert counted is not None
    assert [int(n) for n in counted.groups()] == [len(load(name).leaves), len(lines)]


def test_counts_sum_to_the_leaves(trueup: Trueup):
    last = trueup("methods", "--taxonomy", "llm-alignment").out.split("\n\n")[1]
    leaves, proven, planned, gaps = map(int, re.findall(r"(\d+)", last.splitlines()[0]))
    assert leaves == proven + planned + gaps
    assert proven > 0


def test_proven_method_stands_bare_and_planned_ones_say_so(
    trueup: Trueup, monkeypatch: pytest.MonkeyPatch
):
    proven = [entry for entry in catalog.load(base=True) if entry.name == "crows-pairs"]
    monkeypatch.setattr(catalog, "load", lambda **_: proven)
    lines = trueup("methods", "--taxonomy", "bias-datasets").out.splitlines()
    assert any(
        "CrowS-Pairs (1,508 pairs" in line and ": crows-pairs; aul" in line for line in lines
    )
    assert any(line.endswith("CC BY 4.0): bbq (planned)") for line in lines)
    assert "24 leaves: proven method 1, planned only 11, gap (-) 12" in lines


def test_additions_carry_a_plus_and_an_explanation(trueup: Trueup):
    out = trueup("methods", "--taxonomy", "bias-metrics").out
    assert "+ Question answering and coreference" in out
    assert "note: + is not in the survey\n" in out


def test_a_tree_without_additions_explains_no_plus(trueup: Trueup):
    assert "+ is not" not in trueup("methods", "--taxonomy", "bias-definitions").out


def test_datasets_show_size_and_licence(trueup: Trueup):
    out = trueup("methods", "--taxonomy", "bias-datasets").out
    assert "BBQ (58,492 questions, CC BY 4.0): bbq" in out


def test_json_is_the_tree_with_its_gaps(trueup: Trueup):
    found = trueup("methods", "--taxonomy", "bias-metrics", "--json").json
    status = {key: found.pop(key) for key in ("proven", "planned", "gaps")}
    tree = load("bias-metrics")
    assert Taxonomy.from_dict(found) == tree
    assert status["gaps"] == [leaf.name for leaf in tree.gaps()]
    assert sorted(status["proven"] + status["planned"]) == sorted(tree.methods)
    assert "crows-pairs" in status["proven"]


def test_help_lists_every_tree(trueup: Trueup):
    names = [row["name"] for row in trueup("methods", "--taxonomy", "help", "--json").json]
    assert names == list(NAMES)
    lines = trueup("methods", "--taxonomy", "help").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(NAMES)


def test_unknown_tree_is_one_line_with_the_known_ones(trueup: Trueup):
    line = trueup("methods", "--taxonomy", "nope").error()
    assert line.startswith("error: no taxonomy 'nope'; known: ")
    assert all(name in line for name in NAMES)


@pytest.mark.parametrize("words", [["dpo"], ["--stage", "audit"], ["--base"]])
def test_a_tree_takes_no_other_filter(trueup: Trueup, words: list[str]):
    line = trueup("methods", "--taxonomy", "bias-metrics", *words).error()
    assert line.startswith("error: --taxonomy shows a whole tree")
