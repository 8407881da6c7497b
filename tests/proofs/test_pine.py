"""Pine: the sheet's vectors and identities, what must fail, a planted lean for the last place."""

import itertools

import numpy as np
import pytest
import torch
import transformers

from tests.proofs.pine_reference import (
    Sequenced,
    oracle,
    random_vectors,
    re_rotated,
    sheet_vectors,
    stock,
)
from trueup.models.pine_attention import pine_attention, pine_shifts
from trueup.models.pine_grid import Order
from trueup.models.pine_state import PineState, SegmentIds, find_rotation
from trueup.models.work import Work

EXACT = {"atol": 1e-12, "rtol": 0}
DIGITS = {"atol": 5e-9, "rtol": 0}  # the sheet gives eight decimals
N_KEYS, N_VALUES = 20, 10  # of the planted world: a document is a key and its value


def pine(s: Sequenced, order: Order = "importance") -> torch.Tensor:
    return pine_attention(s.q, s.k, s.v, s.prefix, s.lengths, order=order)


def change_under(s: Sequenced, attention, order: tuple[int, ...]) -> float:
    """The largest change of any token's output when the documents are given in this order."""
    rows = s.rows(order)
    return float((attention(s.permuted(order)) - attention(s)[:, rows]).abs().max())


# 1. Identity: reference vectors


def test_shifts_of_the_sheet():
    s = sheet_vectors()
    shifts = pine_shifts(s.q, s.k, s.prefix, s.lengths)
    assert shifts[0, [2, 4, 7]].tolist() == [[0, 2, 5], [3, 0, 5], [1, 3, 0]]
    assert shifts[:, 8].tolist() == [[1, 3, 0], [4, 1, 0]]
    assert shifts[:, 9].tolist() == [[4, 1, 0], [4, 0, 3]]


@pytest.mark.parametrize(
    ("head", "row", "expected"),
    [
        (0, 2, (0.93317016, 0.75541215, 0.39270291, -0.06615371)),
        (0, 4, (0.80974905, 0.92264705, 0.80964887, 0.49842041)),
        (0, 7, (0.58755083, 0.83501605, 0.87804021, 0.70608951)),
        (0, 8, (0.79641873, 0.62147726, 0.29437647, -0.10479794)),
        (0, 9, (0.73462234, 0.65806375, 0.42038820, 0.07978696)),
        (1, 8, (0.44257183, 0.09972618, -0.26753591, -0.56929589)),
        (1, 9, (0.55928953, 0.21556213, -0.18094239, -0.53314591)),
    ],
)
def test_outputs_of_the_sheet(head: int, row: int, expected: tuple[float, ...]):
    got = pine(sheet_vectors())[head, row]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), **DIGITS)


def test_stock_attention_of_the_sheet_differs_but_where_the_orders_agree():
    s = sheet_vectors()
    expected = torch.tensor((0.69956380, 0.56816232, 0.29765489, -0.04572884)).double()
    torch.testing.assert_close(stock(s)[0, 8], expected, atol=5e-8, rtol=0)
    torch.testing.assert_close(stock(s)[0, 9], pine(s)[0, 9], **EXACT)


def test_one_document_is_stock_attention():
    s = random_vectors(0, lengths=(6,))
    torch.testing.assert_close(pine(s), stock(s), **EXACT)


def test_every_permutation_permutes_document_rows_and_no_others():
    s = random_vectors(1)
    changes = [change_under(s, pine, order) for order in itertools.permutations(range(4))]
    assert max(changes) < 1e-12
    assert change_under(s, stock, (3, 2, 1, 0)) > 0.1


def test_identical_documents_may_be_swapped():
    s = random_vectors(2, lengths=(3, 3, 2))
    q, k, v = (x.clone() for x in (s.q, s.k, s.v))
    for x in (q, k, v):
        x[:, 5:8] = x[:, 2:5]
    same = Sequenced(q, k, v, 2, s.lengths)
    torch.testing.assert_close(pine(same.permuted((1, 0, 2))), pine(same), **EXACT)
    torch.testing.assert_close(pine(same)[:, 5:8], pine(same)[:, 2:5], **EXACT)


def test_two_documents_read_each_other_as_the_one_before():
    s = random_vectors(3, lengths=(4, 3))
    swapped = s.permuted((1, 0))
    got, other_way = pine(s), stock(swapped)
    torch.testing.assert_close(got[:, 2:6], other_way[:, 5:9], **EXACT)  # D1 after D2
    torch.testing.assert_close(got[:, 6:9], stock(s)[:, 6:9], **EXACT)  # D2 after D1


# 2. Differential: stock attention on prompts permuted into each query's own order


@pytest.mark.parametrize("seed", range(4))
def test_pine_is_stock_attention_in_each_querys_own_order(seed: int):
    s = random_vectors(10 + seed)
    torch.testing.assert_close(pine(s), oracle(s), **EXACT)


# 3. What must not hold


def test_neither_the_mask_nor_the_positions_alone_are_invariant():
    s = random_vectors(1)
    assert change_under(s, lambda each: pine(each, "input"), (3, 2, 1, 0)) > 0.1
    assert change_under(s, lambda each: re_rotated(each, bidirectional=False), (3, 2, 1, 0)) > 0.1


def test_reverse_is_invariant_and_another_answer():
    s = random_vectors(1)
    assert change_under(s, lambda each: pine(each, "reverse"), (3, 2, 1, 0)) < 1e-12
    assert float((pine(s, "reverse") - pine(s)).abs().max()) > 0.05


def test_no_false_alarm_in_200_random_worlds():
    """A random permutation each: pine never changes by more than rounding, stock always does."""
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(3), (200, 1)), axis=1)
    moved = [(seed, tuple(order)) for seed, order in enumerate(orders) if tuple(order) != (0, 1, 2)]
    worlds = [(random_vectors(seed, (1, 2, 2), heads=1, dims=4), order) for seed, order in moved]
    assert max(change_under(s, pine, order) for s, order in worlds) < 1e-12
    assert min(change_under(s, stock, order) for s, order in worlds) > 1e-4


# A whole model


@pytest.fixture(scope="module")
def llama():
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.12,  # six times the default, so that attention has a shape
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def logprobs(model, prompts: list[SegmentIds], order: Order = "importance") -> torch.Tensor:
    rotation = find_rotation(model)
    state = PineState(model, prompts, rotation=rotation, order=order, pad_id=0, work=Work())
    return state.logprobs


def test_a_whole_model_says_the_same_under_all_permutations(llama):
    docs = ((10, 11, 12), (20, 21, 22, 23, 24), (30, 31))
    orders = list(itertools.permutations(docs))
    rows = [SegmentIds((1, 50), order, (60, 61)) for order in orders]
    stock_rows = torch.tensor([[1, 50, *sum(order, ()), 60, 61] for order in orders])
    said = logprobs(llama, rows)
    with torch.no_grad():
        stock_said = llama(stock_rows).logits[:, -1].log_softmax(-1)
    assert float((said - said[0]).abs().max()) < 1e-5
    assert float((stock_said - stock_said[0]).abs().max()) > 0.1
    assert float((logprobs(llama, rows, "input") - said[0]).abs().max()) > 0.1


# 4. and 5. A model that learned to trust the last document


def drawn(rng: np.random.Generator, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Documents [N, 3, 2] of a key and a value, the key asked for, and its value."""
    count = len(gold)
    keys = rng.permuted(np.tile(np.arange(N_KEYS), (count, 1)), axis=1)[:, :3] + 4
    values = rng.integers(N_VALUES, size=(count, 3)) + 40
    rows = np.arange(count)
    return np.stack([keys, values], axis=2), keys[rows, gold], values[rows, gold]


def flat(docs: np.ndarray, asked: np.ndarray) -> torch.Tensor:
    count = len(asked)
    start, mark = np.full((count, 1), 1), np.full((count, 1), 3)
    return torch.from_numpy(np.hstack([start, docs.reshape(count, -1), mark, asked[:, None]]))


@pytest.fixture(scope="module")
def last_reader():
    """Two layers, trained where the document asked for is the last one in 90 % of the items."""
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(200):
        gold = np.where(rng.random(96) < 0.9, 2, rng.integers(0, 2, 96))
        docs, asked, answers = drawn(rng, gold)
        logits = model(flat(docs, asked), use_cache=False, logits_to_keep=1).logits[:, -1]
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(answers)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def stock_answers(model, docs: np.ndarray, asked: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits = model(flat(docs, asked), logits_to_keep=1).logits[:, -1]
    answers: np.ndarray = logits.argmax(-1).numpy()
    return answers


def pine_answers(
    model, docs: np.ndarray, asked: np.ndarray, order: Order = "importance"
) -> np.ndarray:
    prompts = [
        SegmentIds((1,), tuple(map(tuple, each.tolist())), (3, int(key)))
        for each, key in zip(docs, asked, strict=True)
    ]
    answers: np.ndarray = logprobs(model, prompts, order).argmax(-1).numpy()
    return answers


def test_pine_removes_the_planted_lean_and_adds_no_skill(last_reader):
    rng = np.random.default_rng(1)
    by_place = []
    for place in range(3):
        docs, asked, answers = drawn(rng, np.full(200, place))
        by_place.append(float((stock_answers(last_reader, docs, asked) == answers).mean()))
    assert by_place[2] - max(by_place[:2]) > 0.5
    docs, asked, answers = drawn(rng, np.full(200, 2))
    orders = [list(order) for order in itertools.permutations(range(3))]
    fair = np.stack([pine_answers(last_reader, docs[:, order], asked) for order in orders])
    leaning = np.stack([stock_answers(last_reader, docs[:, order], asked) for order in orders])
    assert int((fair != fair[0]).any(axis=0).sum()) == 0
    assert int((leaning != leaning[0]).any(axis=0).sum()) > 100
    assert abs(float((fair[0] == answers).mean()) - float(np.mean(by_place))) < 0.10


def test_positions_from_the_input_keep_the_lean(last_reader):
    docs, asked, _ = drawn(np.random.default_rng(2), np.full(100, 2))
    told = pine_answers(last_reader, docs, asked, "input")
    turned = pine_answers(last_reader, docs[:, ::-1], asked, "input")
    assert int((told != turned).sum()) > 30


def test_items_without_an_order_are_left_as_they_are(last_reader):
    """One document: nothing to correct, and every answer is the stock model's."""
    docs, asked, _ = drawn(np.random.default_rng(3), np.full(100, 2))
    alone = docs.reshape(100, 1, -1)
    np.testing.assert_array_equal(
        pine_answers(last_reader, alone, asked), stock_answers(last_reader, docs, asked)
    )
