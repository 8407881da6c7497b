"""The library: built, added to, saved, read; the encoders and the training behind it."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.decoding.guide_world import Bag, World
from tests.tiny_models import make_tiny
from trueup.decoding.bi_encoder import BiEncoder, load_retriever
from trueup.decoding.guide_retriever import EncoderTower, RetrieverTraining, train_retriever
from trueup.decoding.guideline_writing import is_risky, parse_guidelines, write_guidelines
from trueup.decoding.guidelines import Guideline, GuidelineLibrary, Retrieval
from trueup.errors import UserError
from trueup.models.embedder import load_embedder

SAFETY, QUALITY = "Safety: Warn of dangers.", "Quality: Keep to the form asked for."
RULES = ["Be kind: Speak gently.", "Cite: Name where a fact is from.", "Order: One thing a time."]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def bag(world: World) -> BiEncoder:
    tower = Bag(world.words)
    return BiEncoder(tower, tower)


@pytest.fixture
def bert(tmp_path):
    return load_embedder(make_tiny("bert", tmp_path / "bert"), device="cpu")


class Teacher:
    """Calls inputs with "knife" risky; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __call__(self, prompts: list[Any]) -> list[str]:
        self.asked.append(prompts)
        return [self.answer(turns) for turns in prompts]

    def answer(self, turns: list[dict[str, str]]) -> str:
        if len(self.asked) == 1:
            risky = "knife" in turns[0]["content"].rpartition("Input:")[2]
            return f"1. Yes, look. 2. ANALYSIS\n{'Yes' if risky else 'No'}"
        first = SAFETY if len(turns) == 3 else QUALITY
        return f"Here they are:\n1. {first}\n2. **Order**: One thing at a time."


# stage 1


def test_risky_inputs_go_on_in_their_conversation_and_others_start_afresh():
    teacher = Teacher()
    safe, risky = write_guidelines(["a poem", "a knife"], teacher)
    assert (safe.is_risky, risky.is_risky) == (False, True)
    assert safe.guidelines[0] == QUALITY
    assert risky.guidelines == [
        SAFETY,
        "Order: One thing at a time.",
    ]
    afresh, going_on = teacher.asked[1]
    assert [turn["role"] for turn in afresh] == ["user"]
    assert "ANALYSIS" not in afresh[0]["content"]
    assert afresh[0]["content"].endswith("Input: a poem\nAnswer:")
    assert [turn["role"] for turn in going_on] == ["user", "assistant", "user"]
    assert "ANALYSIS" in going_on[1]["content"]
    assert len(teacher.asked) == 2


@pytest.mark.parametrize(
    ("analysis", "risky"),
    [("1. Yes. 2. No.", False), ("No, none.\nYES", True), ("Nobody knows", True), ("no", False)],
)
def test_the_last_word_decides(analysis: str, risky: bool):
    assert is_risky(analysis) is risky


def test_guidelines_are_read_from_lines():
    answer = "Sure:\n- **Be kind:** Speak.\n2) Cite: a: b\n\nno colon\n* Order : One. *"
    assert parse_guidelines(answer) == ["Be kind: Speak.", "Cite: a: b", "Order: One."]


def test_build_keeps_no_copies_and_all_pairs():
    library = GuidelineLibrary.build(["a knife", "a poem", "another knife"], Teacher())
    assert library.texts == [
        SAFETY,
        "Order: One thing at a time.",
        QUALITY,
    ]
    assert len(library.pairs) == 6
    assert library.pairs[2] == ("a poem", QUALITY)


# by hand


def test_rules_by_hand_are_added_once():
    library = GuidelineLibrary(RULES)
    assert library.add(" Dates :  Write them out. ")
    assert library.texts[-1] == "Dates: Write them out."
    assert not library.add("Be kind: Speak gently!")
    assert len(library) == 4


@pytest.mark.parametrize("text", ["no title", ": text", "title: "])
def test_a_rule_without_title_or_text_is_refused(text: str):
    with pytest.raises(UserError, match="a guideline reads 'Title: text'"):
        GuidelineLibrary().add(text)


# retrieval


def test_an_empty_library_gives_nothing(bag: BiEncoder, world: World):
    assert GuidelineLibrary().retrieve([world.noise[0]], bag) == [[]]


def test_below_the_floor_there_is_no_guideline(bag: BiEncoder, world: World):
    library = GuidelineLibrary(world.rules[0], same=1.0)
    query = [world.inputs[0][0]]
    [every] = library.retrieve(query, bag, Retrieval(delta=1.01))
    scores = [each.score for each in every]
    [above] = library.retrieve(query, bag, Retrieval(delta=1.01, floor=scores[1]))
    assert [each.score for each in above] == scores[:2]
    assert library.retrieve(query, bag, Retrieval(floor=scores[0] + 1)) == [[]]


def test_copies_are_dropped_before_the_first_k_are_taken(bag: BiEncoder, world: World):
    """The nearest two are near copies: two guidelines are found all the same."""
    word, other = world.topic_words[0][0], world.topic_words[1][0]
    texts = [f"{word}: {word}", f"{word}: {word} {word} {word}", f"{other}: {other}"]
    library = GuidelineLibrary(texts, same=1.0)
    [found] = library.retrieve([word], bag, Retrieval(k=2))
    assert [each.whole for each in found] == [texts[0], texts[2]]


def test_ties_go_to_what_came_first(bag: BiEncoder, world: World):
    word = world.noise[0]
    library = GuidelineLibrary([f"{word}: {word}", f"{word} {word}: {word}"], same=1.0)
    [found] = library.retrieve([word], bag, Retrieval(delta=1.01))
    assert [each.whole for each in found] == library.texts


def test_a_new_rule_is_found_without_a_new_index(bag: BiEncoder, world: World):
    library = GuidelineLibrary(world.rules[0], same=1.0)
    library.retrieve([world.noise[0]], bag)
    rule = f"{world.noise[0]}: {world.noise[0]}"
    library.add(rule)
    assert rule in [g.whole for g in library.retrieve([world.noise[0]], bag)[0]]


def test_another_encoder_makes_another_index(bag: BiEncoder, world: World):
    library = GuidelineLibrary(world.every_rule(), same=1.0)
    other = Bag(world.words, seed=5)
    query = [world.inputs[0][0]]
    library.retrieve(query, bag)
    found = library.retrieve(query, BiEncoder(other, other))
    fresh = GuidelineLibrary(library.texts, same=1.0).retrieve(query, BiEncoder(other, other))
    assert found == fresh


def test_title_and_text():
    assert (Guideline("A b: c: d").title, Guideline("A b: c: d").text) == ("A b", "c: d")
    assert Guideline("all").text == "all"


@pytest.mark.parametrize("settings", [{"n": 0}, {"k": 0}, {"delta": -0.1}])
def test_retrieval_out_of_range_is_refused(settings: dict[str, Any]):
    with pytest.raises(UserError, match="must"):
        Retrieval(**settings)


# files


def test_saving_and_loading_is_bit_identical(tmp_path, bag: BiEncoder, world: World):
    library = GuidelineLibrary(world.every_rule(), world.pairs(), same=0.9)
    query = [world.inputs[3][7]]
    expected = library.retrieve(query, bag)
    library.save(tmp_path / "library")
    again = GuidelineLibrary.load(tmp_path / "library")
    assert (again.texts, again.pairs, again.same) == (library.texts, library.pairs, 0.9)
    assert again._vectors is not None
    assert library._vectors is not None
    assert np.array_equal(again._vectors, library._vectors)
    assert again.retrieve(query, bag) == expected


def test_a_library_without_vectors_is_saved_too(tmp_path):
    GuidelineLibrary(RULES).save(tmp_path / "library")
    assert GuidelineLibrary.load(tmp_path / "library").texts == RULES


@pytest.mark.parametrize("content", [None, "{", '{"same": 1}', "[]"])
def test_a_damaged_library_is_one_line(tmp_path, content: str | None):
    if content is not None:
        (tmp_path / "guidelines.json").write_text(content)
    with pytest.raises(UserError, match=r"guidelines.json: is no library of guidelines"):
        GuidelineLibrary.load(tmp_path)


def test_more_vectors_than_texts_are_damage(tmp_path, bag: BiEncoder, world: World):
    library = GuidelineLibrary(world.rules[0], same=1.0)
    library.retrieve([world.noise[0]], bag)
    library.save(tmp_path / "library")
    path = tmp_path / "library" / "guidelines.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, "guidelines": known["guidelines"][:1]}))
    with pytest.raises(UserError, match="1 texts, 3 vectors"):
        GuidelineLibrary.load(tmp_path / "library")


# encoders


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_the_tower_gives_the_embedder_s_vectors(bert, pooling: Any):
    texts = ["Be kind.", "Name where a fact is from, and when.", "x"]
    tower = EncoderTower(bert, pooling).eval()
    np.testing.assert_allclose(
        tower(texts).detach().numpy(), bert.text_vectors(texts, pooling=pooling), atol=1e-5
    )


def test_training_separates_pairs_and_leaves_the_encoder_alone(bert):
    pairs = [(f"{letter * 3} please", f"{letter}: {letter * 9}") for letter in "abcdefgh"]
    before = {name: weight.clone() for name, weight in bert.model.state_dict().items()}
    settings = RetrieverTraining(epochs=12, batch=8, lr=3e-3, normalise=True, temperature=0.05)
    encoder = train_retriever(bert, pairs, pooling="mean", settings=settings)
    library = GuidelineLibrary([text for _, text in pairs], same=1.0)
    found = library.retrieve([asked for asked, _ in pairs], encoder, Retrieval(n=1))
    assert [each.whole for [each] in found] == library.texts
    after = bert.model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_the_same_seed_trains_the_same_retriever(bert):
    pairs = [(f"{letter * 3} please", f"{letter}: {letter * 9}") for letter in "abcd"]
    settings = RetrieverTraining(epochs=2, batch=2, lr=1e-3)
    first, second = (train_retriever(bert, pairs, settings=settings) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    other = RetrieverTraining(epochs=2, batch=2, lr=1e-3, seed=1)
    assert train_retriever(bert, pairs, settings=other).fingerprint != first.fingerprint


def test_a_retriever_is_saved_and_read(tmp_path, bert):
    encoder = BiEncoder(bert, bert, pooling="first", normalise=True)
    encoder.save(tmp_path / "retriever")
    again = load_retriever(tmp_path / "retriever")
    np.testing.assert_array_equal(again.query_vectors(RULES), encoder.query_vectors(RULES))
    assert (again.pooling, again.normalise) == ("first", True)


def test_any_encoder_is_a_retriever_by_the_cosine(tmp_path):
    folder = make_tiny("bert", tmp_path / "bert")
    vectors = load_retriever(folder).guideline_vectors(RULES)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-12)


def test_an_encoder_without_weights_cannot_be_saved(tmp_path, bag: BiEncoder):
    with pytest.raises(UserError, match="only encoders with weights"):
        bag.save(tmp_path / "retriever")


def test_one_pair_teaches_nothing(bert):
    with pytest.raises(UserError, match="at least two pairs, got 1"):
        train_retriever(bert, [("a", "b: c")])


def test_library_trains_on_its_pairs(bert):
    library = GuidelineLibrary(RULES, [("aaa", RULES[0]), ("bbb", RULES[1])])
    encoder = library.train_retriever(bert, RetrieverTraining(epochs=1))
    assert encoder.pooling == "first"
