"""The trees hold what the surveys count and name: sheets 05, 10, 15, 33 and 65."""

import pytest

from trueup.taxonomies import Node, Taxonomy, load

BIDIRECTIONAL = load("bidirectional")
DATASETS = load("bias-datasets")
GOALS = load("alignment-goals")
METRICS = load("bias-metrics")
SAFETY = load("alignment-safety")


def surveyed(node: Node | Taxonomy) -> list[str]:
    """The names right below that the survey has itself."""
    return [child.name for child in node.children if not child.is_added]


def surveyed_leaves(node: Node) -> list[str]:
    return [leaf.name for leaf in node.walk() if not leaf.children and not leaf.is_added]


def depth(node: Node) -> int:
    return 1 + max((depth(child) for child in node.children), default=0)


# Sheet 33: metrics, datasets, mitigations, definitions


def test_metrics_come_in_three_families():
    assert surveyed(METRICS) == ["embedding", "probability", "generated-text"]


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("embedding", ["weat", "seat", "ceat", "sentence-bias-score"]),
        ("masked-token", ["disco", "lpbs", "cbs"]),
        ("pseudo-log-likelihood", ["cps", "cat", "icat", "aul", "aula", "lmb"]),
        ("lexicon", ["honest", "psycholinguistic-norms", "gender-polarity"]),
    ],
)
def test_metrics_of_a_family(family: str, names: list[str]):
    assert surveyed(METRICS.node(family)) == names


@pytest.mark.parametrize(("family", "count"), [("distribution", 4), ("classifier", 7)])
def test_metrics_of_generated_text_are_counted(family: str, count: int):
    assert len(surveyed(METRICS.node(family))) == count


def test_every_surveyed_metric_says_how_to_read_its_number():
    leaves = [leaf for leaf in METRICS.leaves if not leaf.is_added]
    assert [leaf.name for leaf in leaves if leaf.metric is None] == []
    assert len(leaves) == 4 + 3 + 6 + 4 + 7 + 3


@pytest.mark.parametrize(
    ("name", "neutral", "sign"),
    [
        ("weat", "0", "signed"),
        ("cps", "50", "around 50"),
        ("icat", "100", "unsigned"),
        ("social-group-substitution", "1", "unsigned"),
        ("disco", "0", "unsigned"),
        ("bbq-score", "0", "signed"),
    ],
)
def test_neutral_value_and_sign(name: str, neutral: str, sign: str):
    metric = METRICS.node(name).metric
    assert metric is not None
    assert (metric.neutral, metric.sign) == (neutral, sign)


@pytest.mark.parametrize(
    ("structure", "count"),
    [
        ("masked-tokens", 8),
        ("unmasked-sentences", 7),
        ("sentence-completion", 5),
        ("question-answering", 3),
    ],
)
def test_datasets_of_a_structure(structure: str, count: int):
    node = DATASETS.node(structure)
    assert len(surveyed(node)) == count
    assert {child.dataset.structure for child in node.children if child.dataset} == {node.title}


def test_bold_counts_sum_to_its_size():
    dataset = DATASETS.node("bold").dataset
    assert dataset is not None
    assert dataset.size == 3204 + 1984 + 10195 + 7657 + 639


def test_crows_pairs_counts_sum_to_its_size():
    dataset = DATASETS.node("crows-pairs").dataset
    assert dataset is not None
    assert dataset.size == 516 + 262 + 172 + 159 + 105 + 87 + 84 + 63 + 60 == 1290 + 218
    assert len(dataset.groups) == 9


def test_groups_of_datasets_are_the_surveys_eight_and_three_others():
    found = {group for n in DATASETS.walk() if n.dataset for group in n.dataset.groups}
    assert found == {
        "age", "disability", "gender", "nationality", "physical-appearance", "race", "religion",
        "sexual-orientation", "socioeconomic", "political-ideology", "profession",
    }  # fmt: skip


def test_mitigations_come_in_four_stages():
    tree = load("bias-mitigations")
    stages = {stage.name: len(surveyed(stage)) for stage in tree.children}
    assert stages == {
        "pre-processing": 5,
        "in-training": 4,
        "intra-processing": 3,
        "post-processing": 1,
    }


@pytest.mark.parametrize(
    ("name", "count"), [("representational", 7), ("allocational", 2), ("desiderata", 5)]
)
def test_definitions_are_counted(name: str, count: int):
    assert len(load("bias-definitions").node(name).children) == count


# Sheet 05: goals and their evaluation


def test_three_goals():
    assert surveyed(GOALS) == ["instructions", "preferences", "values"]


def test_three_proxies_of_preferences_and_two_branches_of_values():
    assert len(surveyed(GOALS.node("preferences"))) == 3
    assert surveyed(GOALS.node("values")) == ["value-principles", "target-representation"]


def test_schwartz_values_stand_in_the_order_of_the_circle():
    assert surveyed(GOALS.node("schwartz")) == [
        "self-direction", "stimulation", "hedonism", "achievement", "power", "security",
        "conformity", "tradition", "benevolence", "universalism",
    ]  # fmt: skip


def test_evaluation_has_two_three_and_two_protocols():
    assert [len(surveyed(goal)) for goal in load("alignment-evaluation").children] == [2, 3, 2]


# Sheet 10: objectives, families, failure modes


def test_safety_counts():
    counts = {child.name: len(surveyed(child)) for child in SAFETY.children}
    assert counts == {
        "objectives": 2,
        "method-families": 9,
        "failure-modes": 12,
        "lab-strategies": 6,
        "open-problems": 5,
    }


def test_three_objectives_and_their_three_conflicts():
    assert surveyed(SAFETY.node("hhh")) == ["helpfulness", "honesty", "harmlessness"]
    assert len(surveyed(SAFETY.node("conflicts"))) == 3


def test_families_members():
    counts = [len(surveyed(family)) for family in SAFETY.node("method-families").children]
    assert counts == [4, 5, 6, 5, 3, 5, 5, 3, 4]


# Sheet 15: outer and inner alignment


def test_llm_alignment_has_eight_chapters():
    assert surveyed(load("llm-alignment")) == [
        "why", "what", "outer", "inner", "interpretability", "attacks", "evaluation", "future",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "count"),
    [("outer", 2), ("scalable-oversight", 7), ("attacks", 3), ("evaluation", 5), ("future", 7)],
)
def test_llm_alignment_counts(name: str, count: int):
    assert len(surveyed(load("llm-alignment").node(name))) == count


def test_every_leaf_is_a_gap_before_anything_is_installed():
    tree = load("llm-alignment")
    assert tree.gaps([]) == tree.leaves


def test_all_installed_leaves_those_places_that_name_no_method():
    tree = load("llm-alignment")
    assert tree.gaps(tree.methods) == [leaf for leaf in tree.leaves if not leaf.methods]


def test_a_method_may_stand_in_several_pillars():
    pillars = load("llm-alignment").children
    found = [p.name for p in pillars if any("honesty" in n.methods for n in p.walk())]
    assert found == ["why", "outer", "inner", "evaluation"]


# Sheet 65: two directions


def test_two_directions_four_questions_eleven_sub_questions():
    directions = [node for node in BIDIRECTIONAL.children if node.name.startswith("direction-")]
    questions = [question for direction in directions for question in direction.children]
    parts = [part.name for question in questions for part in question.children]
    assert len(directions) == 2
    assert [question.name for question in questions] == ["rq1", "rq2", "rq3", "rq4"]
    assert parts == ["a1", "a2", "a3", "a4", "a5", "a6", "b1", "b2", "b3", "b4", "b5"]


def test_five_high_order_values_and_twelve_types():
    values = BIDIRECTIONAL.node("value-type")
    assert len(values.children) == 5
    assert len(surveyed_leaves(values)) == 12
    assert depth(values) == 3


def test_hedonism_belongs_to_two_high_order_values():
    hedonism = BIDIRECTIONAL.node("hedonism")
    assert hedonism in BIDIRECTIONAL.node("openness-to-change").children
    assert hedonism.also_under == ("self-enhancement",)


def test_six_goals_and_three_challenges():
    assert surveyed(BIDIRECTIONAL.node("goals")) == [
        "instructions", "intentions", "preferences", "desires", "interest", "values",
    ]  # fmt: skip
    assert len(surveyed(BIDIRECTIONAL.node("challenges"))) == 3


def test_under_explored_dimensions_are_flagged():
    found = [node.name for node in BIDIRECTIONAL.walk() if node.note.startswith("under-explored")]
    assert found == [
        "implicit-feedback", "simulated-feedback", "inference-stage", "interactive-alignment",
        "human-in-the-loop", "ai-literacy", "ethical-auditing", "b3", "on-society",
    ]  # fmt: skip
