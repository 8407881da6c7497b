"""Guide-Align: the sheet's loss and ratios, exact retrieval, and a planted world that it learns."""

import difflib

import numpy as np
import pytest
import torch

from tests.decoding.guide_world import RULES, TOPICS, Bag, World
from trueup.audits.text.similarity import longest_common
from trueup.decoding.bi_encoder import BiEncoder
from trueup.decoding.guide_align import GuideAlign
from trueup.decoding.guide_retriever import (
    RetrieverTraining,
    counted_contexts,
    guide_retriever_loss,
    train_towers,
)
from trueup.decoding.guideline_dedup import greedy_dedup, indel_ratio, light_dedup
from trueup.decoding.guidelines import GuidelineLibrary, Retrieval
from trueup.worlds.scripted_writer import ScriptedWriter

QUERIES = torch.tensor([[1, 0.5, -0.2], [0.1, -1, 0.7]], dtype=torch.float64)
POSITIVES = torch.tensor([[0.9, 0.2, 0], [0, -0.8, 1]], dtype=torch.float64)
NEGATIVES = torch.tensor([[0.3, 0.3, 0.3], [-0.5, 0.2, 0.4]], dtype=torch.float64)

# 1. identity: the loss


def test_the_sheet_s_loss():
    found = guide_retriever_loss(QUERIES, POSITIVES, NEGATIVES)
    assert float(found.mean()) == pytest.approx(0.587081112225, abs=1e-12)
    scores = np.array([[1.00, 0.39, -0.60, -0.48], [-0.11, -0.06, 1.50, 0.03]])
    alone = np.log(np.exp(scores).sum(1)) - scores[[0, 1], [0, 2]]
    assert found.tolist() == pytest.approx(alone.tolist(), abs=1e-12)


def test_the_sheet_s_loss_without_hard_negatives():
    found = guide_retriever_loss(QUERIES, POSITIVES).mean()
    assert float(found) == pytest.approx(0.183064319180, abs=1e-12)


def test_a_masked_context_is_as_if_it_were_not_there():
    mask = torch.tensor([[True, False, True, True], [True, True, True, True]])
    scores = np.array([1.00, -0.60, -0.48])
    expected = np.log(np.exp(scores).sum()) - scores[0]
    found = guide_retriever_loss(QUERIES, POSITIVES, NEGATIVES, mask)
    assert float(found[0]) == pytest.approx(expected, abs=1e-12)
    assert float(found[1]) == float(guide_retriever_loss(QUERIES, POSITIVES, NEGATIVES)[1])


def test_an_orthogonal_map_of_both_towers_changes_no_loss():
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())[
        0
    ]
    torch.testing.assert_close(
        guide_retriever_loss(QUERIES @ turn, POSITIVES @ turn, NEGATIVES @ turn),
        guide_retriever_loss(QUERIES, POSITIVES, NEGATIVES),
    )


def test_copies_of_a_positive_are_no_negatives_and_it_stays_itself():
    positives = ["Be kind: always", "Be kind: always", "Cite: sources"]
    contexts = ["Be kind: always", "x", "Be kind: always", "Be kind: alway", "Cite: sources", "y"]
    assert counted_contexts(positives, contexts, 0.75).tolist() == [
        [True, True, False, False, True, True],
        [False, True, True, False, True, True],
        [True, True, True, True, True, True],
    ]


# 1. identity: ratios and who stays


@pytest.mark.parametrize(
    ("a", "b", "ratio"),
    [
        ("this is a test", "this is a test!", 0.965517241379),
        ("avoid bias", "avoidance of bias", 0.740740740741),
        ("Discourage Illegal Activities", "Discourage Illegal Acts", 0.884615384615),
        ("abcd", "dcba", 0.25),
        ("", "", 1.0),
        ("A", "a", 0.0),
    ],
)
def test_the_sheet_s_ratios(a: str, b: str, ratio: float):
    assert indel_ratio(a, b) == pytest.approx(ratio, abs=1e-12)


def drawn(rng: np.random.Generator, count: int, length: int = 12) -> list[str]:
    return ["".join(row) for row in rng.choice(list("abcd"), size=(count, length))]


def test_the_ratio_is_that_of_the_longest_common_subsequence(rng: np.random.Generator):
    below = 0
    for a, b in zip(drawn(rng, 300), drawn(rng, 300, 9), strict=True):
        assert indel_ratio(a, b) == pytest.approx(2 * longest_common(a, b) / 21, abs=1e-12)
        other = difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()
        assert other <= indel_ratio(a, b) + 1e-12
        below += other < indel_ratio(a, b) - 1e-12
    assert below > 60  # difflib's blocks are no longest common subsequence


@pytest.mark.parametrize("delta", [0.3, 0.53, 0.8])
def test_who_stays(delta: float, rng: np.random.Generator):
    texts = drawn(rng, 40)
    kept = greedy_dedup(texts, delta)
    survivors = [texts[place] for place in kept]
    assert kept[0] == 0
    assert kept == sorted(kept)
    assert all(indel_ratio(a, b) < delta for i, a in enumerate(survivors) for b in survivors[:i])
    assert greedy_dedup(survivors, delta) == list(range(len(survivors)))
    assert greedy_dedup(texts, delta, 3) == kept[:3]
    assert greedy_dedup(texts, delta, 99) == kept


def test_the_ends_of_delta(rng: np.random.Generator):
    texts = [*drawn(rng, 9), "same", "same"]
    assert greedy_dedup(texts, 1.01) == list(range(11))
    assert greedy_dedup(texts, 0.0) == [0]


def test_light_dedup_is_one_by_one_comparison(rng: np.random.Generator):
    texts = drawn(rng, 700)
    kept: list[int] = []
    for place, text in enumerate(texts):
        if all(indel_ratio(text, texts[other]) <= 0.75 for other in kept):
            kept.append(place)
    assert light_dedup(texts, 0.75) == kept
    assert 30 < len(kept) < 600


# 1. identity: retrieval


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def library_of(world: World) -> GuidelineLibrary:
    return GuidelineLibrary(world.every_rule(), same=1.0)


def test_retrieval_is_a_brute_force_sort(world: World):
    bag = Bag(world.words)
    library, queries = library_of(world), [question for question, _ in world.unseen()]
    found = library.retrieve(queries, BiEncoder(bag, bag), Retrieval(n=7, k=7, delta=1.01))
    for query, several in zip(queries, found, strict=True):
        scores = bag.text_vectors(library.texts) @ bag.text_vectors([query])[0]
        best = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:7]
        assert [each.whole for each in several] == [library.texts[place] for place in best]
        assert [each.score for each in several] == pytest.approx(scores[best], abs=1e-12)


def test_the_order_of_insertion_and_the_batch_change_nothing(world: World):
    bag = Bag(world.words)
    encoder, queries = BiEncoder(bag, bag), [question for question, _ in world.unseen()]
    library = library_of(world)
    turned = GuidelineLibrary(library.texts[::-1], same=1.0)
    whole = [[g.whole for g in each] for each in library.retrieve(queries, encoder)]
    assert [[g.whole for g in each] for each in turned.retrieve(queries, encoder)] == whole
    alone = [library.retrieve([query], encoder)[0] for query in queries]
    assert [[g.whole for g in each] for each in alone] == whole


# 4. planted effect, 5. negative control

QUICK = RetrieverTraining(epochs=30, lr=0.05, warmup=0)  # 7 batches an epoch: 210 steps


def trained(world: World, pairs: list[tuple[str, str]]) -> BiEncoder:
    towers = Bag(world.words, seed=1), Bag(world.words, seed=2)
    for tower in towers:
        torch.nn.init.normal_(
            tower.table.weight, std=0.1, generator=torch.Generator().manual_seed(0)
        )
    losses = train_towers(*towers, pairs, QUICK)
    assert len(losses) == 210
    return BiEncoder(*towers)


def recall_at_3(world: World, encoder: BiEncoder) -> float:
    questions, rules = zip(*world.unseen(), strict=True)
    found = library_of(world).retrieve(questions, encoder, Retrieval(n=3, k=3, delta=1.01))
    hits = [len({g.whole for g in got} & {*own}) for got, own in zip(found, rules, strict=True)]
    return float(np.mean(hits)) / RULES


@pytest.fixture(scope="module")
def encoder(world: World) -> BiEncoder:
    return trained(world, world.pairs())


def test_the_retriever_finds_a_topic_s_guidelines_for_unseen_inputs(
    world: World, encoder: BiEncoder
):
    assert recall_at_3(world, encoder) > 0.9


def test_shuffled_pairs_teach_nothing(world: World, rng: np.random.Generator):
    pairs = world.pairs()
    texts = [pairs[index][1] for index in rng.permutation(len(pairs))]
    shuffled = [(question, text) for (question, _), text in zip(pairs, texts, strict=True)]
    assert recall_at_3(world, trained(world, shuffled)) < 0.2  # chance: 3 / 36


@pytest.mark.parametrize("delta", [0.35, 0.53, 1.01])
@pytest.mark.parametrize("where", ["system", "prefix"])
def test_guided_accuracy_is_recall_after_dedup_and_unguided_is_nothing(
    world: World, encoder: BiEncoder, delta: float, where
):
    """A model that does right iff the guideline it needs stands in its prompt."""
    needed = {
        question: rules[number % RULES] for number, (question, rules) in enumerate(world.unseen())
    }
    step = GuideAlign(
        library=library_of(world), encoder=encoder, n=6, k=3, delta=delta, where=where
    )

    def obeying(prompt: str, rng: object) -> str:
        return str(any(q in prompt and rule in prompt for q, rule in needed.items()))

    def accuracy(prompts: list) -> float:
        answers = ScriptedWriter(script=obeying).sample(prompts)
        return float(np.mean([answer.text == "True" for [answer] in answers]))

    prompts = list(needed)
    recall = np.mean(
        [
            needed[prompt] in [each.whole for each in found]
            for prompt, found in zip(prompts, step.guidelines(prompts), strict=True)
        ]
    )
    assert accuracy(step.prepare(prompts, ScriptedWriter(script=obeying))) == recall
    assert accuracy(prompts) == 0
    assert recall > 0.9 if delta > 1 else recall > 0.2


def test_an_untrained_retriever_is_near_chance(world: World):
    """Two towers drawn apart: nothing to be found."""
    recalls = [
        recall_at_3(
            world, BiEncoder(Bag(world.words, seed=2 * s), Bag(world.words, seed=2 * s + 1))
        )
        for s in range(200)
    ]
    chance = RULES / (TOPICS * RULES)
    assert abs(float(np.mean(recalls)) - chance) < 0.03
