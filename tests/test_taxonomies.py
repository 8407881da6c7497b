import json
import subprocess
import sys

import pytest

from trueup import catalog, taxonomies
from trueup.audits import AUDITS
from trueup.errors import UserError
from trueup.objectives import OBJECTIVES
from trueup.selection import SELECTORS
from trueup.taxonomies import NAMES, Node, Taxonomy, load, places

# Names in the trees whose audits are being written: a name leaves this list when it is registered.
AWAITED = {"bold"}  # BOLD's files are read by every audit of generated text
REGISTERED = {*AUDITS, *OBJECTIVES, *SELECTORS}
ENTRIES = catalog.load(base=True)
CATALOGUED = {name for entry in ENTRIES for name in entry.names}
TREES = [load(name) for name in NAMES]
PLACED = set().union(*(tree.methods for tree in TREES))
SURVEYS = {tree.paper for tree in TREES}

every_tree = pytest.mark.parametrize("tree", TREES, ids=NAMES)


def leaf(name: str, *methods: str) -> Node:
    return Node(name=name, title=name, methods=methods)


@pytest.fixture
def small() -> Taxonomy:
    """Two leaves with methods, one without, under one branch."""
    children = (leaf("a", "dpo"), leaf("b", "ipo", "kto"), leaf("c"))
    branch = Node(name="branch", title="Branch", methods=("sft",), children=children)
    return Taxonomy(name="small", title="Small", source="us", paper=0, note="", children=(branch,))


@every_tree
def test_names_are_unique_in_a_tree(tree: Taxonomy):
    names = [node.name for node in tree.walk()]
    assert len(names) == len(set(names))


@every_tree
def test_second_parents_are_nodes_of_the_tree(tree: Taxonomy):
    named = {parent for node in tree.walk() for parent in node.also_under}
    assert named <= {node.name for node in tree.walk()}


@every_tree
def test_json_round_trip(tree: Taxonomy):
    assert Taxonomy.from_dict(json.loads(json.dumps(tree.as_dict()))) == tree


@every_tree
def test_no_method_stands_twice_at_one_place(tree: Taxonomy):
    assert [n.name for n in tree.walk() if len(set(n.methods)) < len(n.methods)] == []


@every_tree
def test_below_an_addition_all_is_added(tree: Taxonomy):
    added = [node for node in tree.walk() if node.is_added]
    assert [n.name for top in added for n in top.walk() if not n.is_added] == []


@every_tree
def test_source_is_the_catalogue_s_paper(tree: Taxonomy):
    survey = catalog.load()[tree.paper - 1]
    assert (survey.number, survey.kind) == (tree.paper, "survey")
    assert tree.source.endswith(f"arXiv {survey.arxiv}")


def test_every_file_is_loaded():
    from importlib.resources import files

    found = [f.name for f in files("trueup.taxonomies").iterdir() if f.name.endswith(".toml")]
    assert sorted(found) == sorted(f"{name}.toml" for name in NAMES)


def test_every_name_in_a_tree_is_in_the_catalogue_or_a_registry():
    assert sorted(PLACED - CATALOGUED - REGISTERED - AWAITED) == []


def test_awaited_names_are_placed_and_still_missing():
    assert sorted(AWAITED - PLACED) == []
    assert sorted(AWAITED & (CATALOGUED | REGISTERED)) == []


def test_every_numbered_paper_has_a_place():
    homeless = [e for e in catalog.load() if not PLACED & set(e.names) and e.number not in SURVEYS]
    assert [(entry.number, entry.name) for entry in homeless] == []


@pytest.mark.parametrize(
    "registry", [AUDITS, OBJECTIVES, SELECTORS], ids=["audits", "objectives", "selectors"]
)
def test_every_registered_method_has_a_place(registry: dict[str, type]):
    assert sorted(set(registry) - PLACED) == []


def test_places_are_told_over_all_trees():
    assert ("llm-alignment", load("llm-alignment").node("dpo")) in places("dpo")
    assert {name for name, _ in places("weat")} == {"bias-metrics"}


def test_an_unknown_method_has_no_place():
    assert places("no-such-method") == []


def test_nothing_installed_leaves_every_leaf_a_gap(small: Taxonomy):
    assert small.gaps(()) == small.leaves


def test_everything_installed_leaves_the_empty_leaf_only(small: Taxonomy):
    assert [gap.name for gap in small.gaps({"dpo", "ipo", "kto"})] == ["c"]
    assert small.gaps() == small.gaps({"dpo", "ipo", "kto"})


def test_one_of_several_methods_fills_a_leaf(small: Taxonomy):
    assert [gap.name for gap in small.gaps({"kto"})] == ["a", "c"]


def test_a_method_at_a_branch_fills_none_of_its_leaves(small: Taxonomy):
    assert small.gaps({"sft"}) == small.leaves


def test_unknown_taxonomy_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="no taxonomy 'bias-metric'; did you mean 'bias-metrics'?"):
        load("bias-metric")


def test_loading_needs_no_heavy_library():
    code = (
        "import sys; from trueup import taxonomies; "
        "[taxonomies.load(name) for name in taxonomies.NAMES]; "
        "print(*({'torch', 'numpy', 'pandas', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_datasets_harms_are_those_of_the_definitions():
    harms = {leaf.name for leaf in taxonomies.load("bias-definitions").node("harms").walk()}
    named = {h for n in load("bias-datasets").walk() if n.dataset for h in n.dataset.harms}
    assert named <= harms
