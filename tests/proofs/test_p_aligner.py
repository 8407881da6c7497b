"""P-Aligner: the sheet's numbers, the search on worlds of known truth, and its distillation."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.synthesis.rewrite_world import (
    EFFECTS,
    INSTRUCTIONS,
    STEP_COST,
    FormulaScene,
    effect_of,
    formula_trees,
    models,
    own_principles,
    quality,
    save_word_llama,
    share_right,
)
from trueup.decoding.p_aligner import PAligner
from trueup.models import load
from trueup.synthesis.p_aligner import PAlignerSearch, WrittenScene
from trueup.synthesis.rewrite_exports import preference_pairs, sft_rows, step_rows
from trueup.synthesis.rewrite_forms import read_form
from trueup.synthesis.rewrite_tree import RewriteTree, mean, nested_value, uct_scores
from trueup.training import TrainingConfig, train
from trueup.worlds.scripted_writer import ScriptedWriter

# 1. identity: the sheet's numbers

VALUES, VISITS = np.array([0.35, 0.34, 0.20]), np.array([4, 2, 1])


def sheet_s_tree() -> RewriteTree:
    """Root N=7; A .30 over .50 and .10 over .40; B .35 over .33; C .20."""
    tree = RewriteTree("x", {name: name for name in "ABC"})
    a = tree.add(0, "A", "a", [0.30])
    tree.add(a, "A", "aa", [0.50])
    inner = tree.add(a, "B", "ab", [0.10])
    tree.add(inner, "C", "abc", [0.40])
    b = tree.add(0, "B", "b", [0.35])
    tree.add(b, "A", "ba", [0.33])
    tree.add(0, "C", "c", [0.20])
    return tree


def test_the_sheet_s_nested_values_are_no_means_over_the_subtree():
    tree = sheet_s_tree()
    a, b, c = tree.nodes[0].children
    assert [tree.worth(n, "nested_mean") for n in (a, b, c)] == pytest.approx(VALUES, abs=1e-12)
    assert nested_value(0.30, [0.50, nested_value(0.10, [0.40])]) == pytest.approx(0.35, abs=1e-12)
    assert tree.worth(a, "flat_mean") == pytest.approx(0.325, abs=1e-12)
    assert tree.worth(a, "max") == 0.50
    assert [tree.nodes[n].visits for n in (0, a, b, c)] == [7, *VISITS]


@pytest.mark.parametrize(
    ("w", "scores", "wins"),
    [
        (0.1, [0.419747941709, 0.438638485112, 0.339495883418], 1),
        (1.0, [1.047479417090, 1.326384851124, 1.594958834178], 2),
        (0.0, [0.35, 0.34, 0.20], 0),
    ],
)
def test_the_sheet_s_uct_scores(w: float, scores: list[float], wins: int):
    found = uct_scores(VALUES, VISITS, 7, w)
    assert found.tolist() == pytest.approx(scores, abs=2e-12)  # the sheet's last digit is cut
    assert int(found.argmax()) == wins


@pytest.mark.parametrize(("w", "place"), [(0.1, "b"), (1.0, "c"), (0.0, "a")])
def test_selection_goes_where_the_score_is_highest(w: float, place: str):
    tree = sheet_s_tree()
    assert tree.nodes[tree.chosen(w=w)].text == place


def test_a_parent_visited_once_explores_nothing_and_ties_go_to_the_earlier_child():
    assert uct_scores(np.array([0.5, 0.5]), np.array([1, 1]), 1, 9.0).tolist() == [0.5, 0.5]
    tree = RewriteTree("x", {"A": "a", "B": "b"})
    tree.add(0, "B", "1", [0.3])
    tree.add(0, "A", "2", [0.3])
    assert tree.chosen(w=0.5) == 1


def test_normalised_selection_does_not_feel_the_reward_s_unit():
    def grown(unit: float, shift: float) -> list[str]:
        class Scaled(FormulaScene):
            def rewards(self, wanted, *, fresh):
                return [[unit * x + shift for x in r] for r in super().rewards(wanted, fresh=fresh)]

        trees = formula_trees(20)
        PAlignerSearch(w=0.5, n_responses=1, normalise=True).grow(trees, Scaled())
        return [node.text for tree in trees for node in tree.nodes]

    assert grown(1.0, 0.0) == grown(0.0078125, 4.0) == grown(1024.0, -2.0)


# 1. identity: what holds after every step


def check_invariants(tree: RewriteTree) -> None:
    nodes = tree.nodes
    assert nodes[0].visits == len(nodes) - 1
    for place, node in enumerate(nodes):
        assert place == 0 or node.visits == 1 + sum(nodes[child].visits for child in node.children)
        steps = [nodes[child].principle for child in node.children]
        assert len(set(steps)) == len(steps)
        values = [each.value for each in under(tree, place) if each.value is not None]
        assert node.best == max(values, default=None)


def under(tree: RewriteTree, place: int) -> list:
    node = tree.nodes[place]
    return [node, *(each for child in node.children for each in under(tree, child))]


@pytest.mark.parametrize("backup", ["nested_mean", "flat_mean", "max"])
def test_the_invariants_hold_after_every_step(backup: str):
    bests: list[list[float]] = []

    def keep(trees: Sequence[RewriteTree]) -> None:
        for tree in trees:
            check_invariants(tree)
        bests.append([tree.nodes[0].best for tree in trees])

    trees = formula_trees(10)
    PAlignerSearch(n_responses=1, backup=backup).grow(trees, FormulaScene(), keep=keep)
    assert len(bests) == 21  # twenty steps, and the end
    assert (np.diff(np.array(bests), axis=0) >= 0).all()
    assert {tree.iterations for tree in trees} == {20}


def test_values_kept_up_along_paths_are_those_of_whole_recursions():
    def nested(tree: RewriteTree, place: int) -> float:
        node = tree.nodes[place]
        return nested_value(node.value, [nested(tree, child) for child in node.children])

    trees = formula_trees(10)
    PAlignerSearch(w=0.3, n_responses=1).grow(trees, FormulaScene())
    for tree in trees:
        for place in range(1, len(tree.nodes)):
            assert tree.nodes[place].nested == pytest.approx(nested(tree, place), abs=1e-15)
            flat = mean([node.value for node in under(tree, place)])
            assert tree.worth(place, "flat_mean") == pytest.approx(flat, abs=1e-14)


def test_a_constant_reward_visits_the_root_s_children_evenly():
    class Flat(FormulaScene):
        def rewards(self, wanted, *, fresh):
            return [[0.1, 0.1, 0.1] for _ in wanted]

    trees = formula_trees(30)
    PAlignerSearch(w=0.1).grow(trees, Flat())
    for tree in trees:
        visits = [tree.nodes[child].visits for child in tree.nodes[0].children]
        assert max(visits) - min(visits) <= 1
        assert tree.best() is tree.nodes[0]
        assert tree.summary()["gain"] == 0
    assert preference_pairs(trees) == step_rows(trees) == []


# 3. known optimum: the enumerable world


def best_values(w: float, count: int = 300) -> np.ndarray:
    trees = formula_trees(count)
    PAlignerSearch(w=w, n_responses=1, recheck=False).grow(trees, FormulaScene())
    return np.array([tree.best().value for tree in trees])


@pytest.mark.parametrize(
    ("w", "expected", "spread"), [(0.0, 0.620, 0.016), (0.1, 0.579, 0.021), (1.0, 0.478, 0.037)]
)
def test_the_best_found_is_the_sheet_s(w: float, expected: float, spread: float):
    """Within four standard errors of a mean over 300 trees, and the sheet's own rounding."""
    found = best_values(w)
    assert found.mean() == pytest.approx(expected, abs=4 * spread / 300**0.5 + 0.0005)
    assert found.std() == pytest.approx(spread, rel=0.2)


def test_wide_exploration_is_breadth_first_and_random_paths_are_no_better_than_that():
    assert best_values(10.0) == pytest.approx(np.full(300, 0.42), abs=1e-12)
    rng = np.random.default_rng(0)
    paths = [
        ["".join(rng.choice(list(EFFECTS), rng.integers(1, 4))) for _ in range(20)]
        for _ in range(300)
    ]
    random = [max(effect_of(path, EFFECTS, STEP_COST) for path in several) for several in paths]
    assert np.mean(random) == pytest.approx(0.44, abs=0.01)
    assert best_values(0.1).mean() > 0.54


# the raw instruction is what answers are judged by


def lookup(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """Knows what each question wants; an easy question is easily answered."""
    wanted = {"What is the third prime?": "5", "Say hello.": "hello"}
    question = [next((q for q in wanted if prompt.startswith(q)), "") for prompt in prompts]
    return [
        float(wanted.get(q, "5") in text) for q, text in zip(question, completions, strict=True)
    ]


def trivial_world(tmp_path: Path) -> dict[str, object]:
    path = tmp_path / "principles.toml"
    names = {"trivial": "making it trivial", "hint": "giving a hint"}
    path.write_text(
        "".join(f'[[principle]]\nname = "{n}"\nphrase = "{p}"\n' for n, p in names.items())
    )

    def rewriting(prompt: str, rng) -> str:
        return "Say hello." if "trivial" in prompt else "What is the third prime? Count from 2."

    def answering(prompt: str, rng) -> str:
        if "hello" in prompt:
            return "hello"
        return "5" if rng.random() < (0.7 if "Count" in prompt else 0.2) else "7"

    return {
        "search": PAlignerSearch(iterations=4, n_responses=10, principles=str(path)),
        "rewriter": ScriptedWriter(script=rewriting),
        "answerer": ScriptedWriter(script=answering),
    }


def test_every_answer_is_judged_as_one_to_the_raw_instruction(tmp_path: Path):
    seen: list[str] = []

    def spy(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        seen.extend(prompts)
        return lookup(prompts, completions)

    world = trivial_world(tmp_path)
    search = world.pop("search")
    [tree] = search.search(["What is the third prime?"], reward=spy, **world)
    assert set(seen) == {"What is the third prime?"}
    assert tree.best().text == "What is the third prime? Count from 2."


def test_judged_by_the_rewrite_a_trivial_one_would_win(tmp_path: Path):
    class Swapped(WrittenScene):
        def rewards(self, wanted, *, fresh):
            return super().rewards([(text, text) for _, text in wanted], fresh=fresh)

    world = trivial_world(tmp_path)
    search = world.pop("search")
    trees = search.seeded(["What is the third prime?"])
    search.grow(trees, Swapped(search, read_form(), reward=lookup, **world))
    assert trees[0].best().text == "Say hello."


# 4. planted effect: scripted models, the whole code path


def gains(trees: Sequence[RewriteTree], texts: Sequence[str] | None = None) -> np.ndarray:
    """How much truer the answers to the best rewrite are than those to the raw instruction."""
    found = texts or [tree.best().text for tree in trees]
    return np.array(
        [quality(t) - quality(tree.instruction) for t, tree in zip(found, trees, strict=True)]
    )


def random_best(tree: RewriteTree, search: PAlignerSearch, scene, rng) -> str:
    """The best of as many random chains of rewrites as the tree has iterations."""
    names = list(tree.principles)
    texts = []
    for _ in range(search.iterations):
        steps = rng.choice(names, rng.integers(1, 4))
        texts.append(" ".join([tree.instruction, *steps]))
    rewards = scene.rewards([(tree.instruction, text) for text in texts], fresh=False)
    return texts[int(np.argmax([mean(r) for r in rewards]))]


def test_the_search_finds_what_helps_and_beats_random_rewrites(tmp_path: Path):
    search = PAlignerSearch(principles=own_principles(tmp_path))
    trees = search.search(INSTRUCTIONS, reward=share_right, **models())
    found = gains(trees)
    scene = WrittenScene(search, read_form(), reward=share_right, **models())
    rng = np.random.default_rng(0)
    random = gains(trees, [random_best(tree, search, scene, rng) for tree in trees])
    ahead = found - random
    error = ahead.std(ddof=1) / len(ahead) ** 0.5
    first = [tree.path(tree.ranked()[0])[0] for tree in trees]
    assert first.count("focus") > 50
    assert ahead.mean() - 2.58 * error > 0
    assert found.mean() > 0.3
    fresh = np.array([tree.summary()["gain"] for tree in trees])
    assert fresh.mean() == pytest.approx(found.mean(), abs=0.05)


# 5. negative control


def noise(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """Numbers in 0..1 that have nothing to do with what is right."""
    return [
        np.random.default_rng([len(prompt), *text.encode(), *prompt.encode()]).random()
        for prompt, text in zip(prompts, completions, strict=True)
    ]


def test_a_judge_of_noise_gains_nothing_though_its_own_values_say_so(tmp_path: Path):
    search = PAlignerSearch(principles=own_principles(tmp_path))
    trees = search.search(INSTRUCTIONS, reward=noise, **models())
    seeming = np.array([tree.best().value - tree.nodes[0].value for tree in trees])
    fresh = np.array([tree.summary()["gain"] for tree in trees])
    bounds = [1.96 * each.std(ddof=1) / len(trees) ** 0.5 for each in (seeming, fresh)]
    assert seeming.mean() - bounds[0] > 0.2  # the winner's curse
    assert abs(fresh.mean()) < bounds[1]


# distillation: search, export, train, rewrite


def word_model(folder: Path) -> Path:
    """A tiny model with a token per word of the distillation's world."""
    words = [*WORDS, *ADDED, "<q>", "</q>", "<r>", "</r>", "Human:", "Assistant:"]
    return save_word_llama(folder, words)


WORDS = [f"w{number}" for number in range(16)]
ADDED = ("please", "quickly", "briefly")
FORM = """
[teacher]
system = ""
ask = "$prompt | $phrase"
[rewriter]
ask = "$prompt"
principle = "$phrase"
answer = ""
unchanged = ""
[marks]
prompt_start = "<q>"
prompt_end = "</q>"
start = "<r>"
end = "</r>"
"""


def polite(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """What the scripted model below makes of a request, read from its answer."""
    return [float(text) for text in completions]


def helped(prompt: str, rng) -> str:
    """A better answer to a request that says please once, a worse one for every other addition."""
    words = [word for word in prompt.replace('"', " ").split() if word in ADDED]
    return str((words.count("please") > 0) - 0.2 * (len(words) - 1))


def distilled(tmp_path: Path, rows: list[dict], name: str) -> PAligner:
    lm = load(word_model(tmp_path / "base"), device="cpu")
    config = TrainingConfig(steps=300, batch_size=16, learning_rate=5e-3, save_every=0)
    train(lm, "sft", rows, config=config, out=tmp_path / name)
    return PAligner(rewriter=str(tmp_path / name), form=str(tmp_path / "form.toml"))


def test_a_distilled_rewriter_does_to_new_instructions_what_the_search_found(tmp_path: Path):
    """And one that learned from the same rewrites in another order does not."""
    (tmp_path / "form.toml").write_text(FORM)
    (tmp_path / "principles.toml").write_text(
        "".join(f'[[principle]]\nname = "{w}"\nphrase = "{w}"\n' for w in ADDED)
    )
    rng = np.random.default_rng(0)
    drawn = {" ".join(rng.choice(WORDS, 4)): None for _ in range(280)}
    trained, unseen = list(drawn)[:220], list(drawn)[220:]
    search = PAlignerSearch(
        iterations=6,
        n_responses=1,
        form=str(tmp_path / "form.toml"),
        principles=str(tmp_path / "principles.toml"),
    )
    teacher = ScriptedWriter(
        script=lambda prompt, rng: " ".join(json.loads(prompt)[-1]["content"].split(" | "))
    )
    answerer = ScriptedWriter(script=helped)
    trees = search.search(trained, rewriter=teacher, answerer=answerer, reward=polite)
    rows = sft_rows(trees, form=read_form(tmp_path / "form.toml"))
    assert len(rows) == len(trained)
    mixed = rng.permutation([row["completion"] for row in rows])
    shuffled = [{**row, "completion": str(c)} for row, c in zip(rows, mixed, strict=True)]
    rates = {}
    for name, data in (("shuffled", shuffled), ("distilled", rows)):
        step = distilled(tmp_path, data, name)
        prepared = step.prepare(unseen, answerer)
        pairs = zip(unseen, prepared, strict=True)
        rates[name] = np.mean([new == f"{raw} please" for raw, new in pairs])
    assert rates["distilled"] > 0.9
    assert rates["shuffled"] < 0.2
    before, after = (
        np.mean([float(several[0].text) for several in answerer.sample(prompts)])
        for prompts in (unseen, prepared)
    )
    assert after > before + 0.5
