"""Processors for vLLM against its base classes: each row is steered as its own request asks.

Both interfaces run over batches whose requests come, go and move as an engine moves them.
"""

import inspect
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.decoding.slow_search import hashed, next_logprobs
from tests.decoding.table_model import table_lm
from tests.decoding.vllm_interfaces import (
    BatchUpdate,
    Buffers,
    Context,
    Moves,
    real,
    recorded,
)
from trueup.decoding import vllm_processors
from trueup.decoding.args import ARGS
from trueup.decoding.contrast import Contrast, contrast_scores
from trueup.decoding.protocol import Request
from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.models.sampling import Sampling

PROMPTS = ["The nurse said", "A", "He went to the house near"]
V = 260


@pytest.fixture(params=[recorded, real], ids=["recorded", "real"])
def bases(request, monkeypatch):
    vllm_processors._joined.cache_clear()
    yield request.param(monkeypatch)
    vllm_processors._joined.cache_clear()


@pytest.fixture(scope="module")
def exact(tiny_model_folder) -> LanguageModel:
    return load(tiny_model_folder, device="cpu", dtype="float64")


@pytest.fixture
def config(tiny_model_folder):
    return SimpleNamespace(
        model_config=SimpleNamespace(tokenizer=str(tiny_model_folder), tokenizer_revision=None)
    )


def args_class(weight=2.0, top_k=4, reward=hashed) -> type[Any]:
    from trueup.decoding.vllm_processors import ArgsLogitsProcessor

    class Steered(ArgsLogitsProcessor):
        method = ARGS(weight=weight, top_k=top_k)
        rewards = {"r": reward}  # noqa: RUF012

    return Steered


def asking(**extra):
    return SimpleNamespace(extra_args=extra or None)


class EngineV1:
    """A persistent batch: rows are filled, emptied, closed up and swapped, as vLLM does."""

    def __init__(self, processor) -> None:
        self.processor = processor
        self.rows: list[tuple[Any, list[int], list[int]]] = []

    def change(self, *, leave=(), join=(), swap=None) -> None:
        removed, added, moved = sorted(leave, reverse=True), [], []
        rows: list[Any] = [None if i in leave else row for i, row in enumerate(self.rows)]
        for request in join:
            place = removed.pop() if removed else len(rows)
            rows[place:place] = [] if place < len(rows) else [None]
            rows[place] = request
            added.append((place, *request))
        while None in rows:  # the last request moves into the first empty row
            if rows[-1] is None:
                rows.pop()
                continue
            empty = rows.index(None)
            moved.append((len(rows) - 1, empty, Moves.UNIDIRECTIONAL))
            rows[empty] = rows.pop()
        if swap:
            one, other = swap
            rows[one], rows[other] = rows[other], rows[one]
            moved.append((one, other, Moves.SWAP))
        self.rows = rows
        self.processor.update_state(BatchUpdate(len(rows), removed, added, moved))

    def apply(self, logits):
        return self.processor.apply(logits)


class EngineV2:
    """Slots that requests keep, rows in another order at every step, tokens in its buffers."""

    def __init__(self, make, slots: int = 8) -> None:
        self.ids = torch.zeros(slots, 256, dtype=torch.int32)
        self.prompts = np.zeros(slots, dtype=np.int32)
        self.totals = torch.zeros(slots, dtype=torch.int32)
        self.processor = make(
            Buffers(
                SimpleNamespace(gpu=self.ids),
                SimpleNamespace(np=self.prompts),
                SimpleNamespace(gpu=self.totals),
            )
        )

    def add(self, slot: int, params, prompt, output=()) -> bool:
        whole = [*prompt, *output]
        self.ids[slot, : len(whole)] = torch.tensor(whole)
        self.prompts[slot], self.totals[slot] = len(prompt), len(whole)
        return self.processor.add_request(slot, params)

    def take(self, slot: int, token: int) -> None:
        self.ids[slot, self.totals[slot]] = token
        self.totals[slot] += 1

    def apply(self, logits, slots, *, drafts=()):
        """One row per slot and one for each of its drafted tokens behind it."""
        mapping, fed, pos = [], [], []
        for place, slot in enumerate(slots):
            total = int(self.totals[slot])
            own = [int(self.ids[slot, total - 1]), *(drafts[place] if drafts else ())]
            mapping += [slot] * len(own)
            fed += own
            pos += range(total - 1, total - 1 + len(own))
        ctx = Context(torch.tensor(mapping), torch.tensor(fed), torch.tensor(pos))
        return self.processor.apply(logits, ctx)


def logits_for(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, V, generator=torch.Generator().manual_seed(seed)) * 2


def by_hand(lm, logits, prompt, output, weight, top_k=4) -> torch.Tensor:
    """ARGS's rule on one row, text by text."""
    logps = logits.double().log_softmax(-1)
    expected = torch.full_like(logits, -torch.inf)
    for token in logps.topk(top_k).indices.tolist():
        text = lm.tokenizer.decode([*output, token], skip_special_tokens=True)
        read = lm.tokenizer.decode(prompt, skip_special_tokens=True)
        expected[token] = logps[token] + weight * hashed([read], [text])[0]
    return expected


# The classes.


def test_a_processor_is_a_subclass_of_both_interfaces(bases, config):
    made = args_class()
    assert all(issubclass(made, base) for base in bases)
    assert not made(config, torch.device("cpu"), False).is_argmax_invariant()
    assert not getattr(made, "__abstractmethods__", None)
    assert not getattr(vllm_processors.ContrastTableLogitsProcessor, "__abstractmethods__", None)


def test_recorded_signatures_are_vllm_s(monkeypatch):
    for ours, theirs in zip(recorded(monkeypatch), real(monkeypatch), strict=True):
        methods = [name for name in vars(theirs) if callable(getattr(theirs, name))]
        methods = [name for name in methods if name == "__init__" or not name.startswith("_")]
        for name in methods:
            expected = list(inspect.signature(getattr(theirs, name)).parameters)
            assert list(inspect.signature(getattr(ours, name)).parameters) == expected
        assert ours.__abstractmethods__ == theirs.__abstractmethods__


def test_the_classes_travel_by_name(bases):
    made = vllm_processors.ArgsLogitsProcessor
    assert pickle.loads(pickle.dumps(made)) is made  # noqa: TID251
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        _ = vllm_processors.Other


def test_no_vllm_names_the_extra(monkeypatch):
    monkeypatch.setattr(vllm_processors, "INTERFACES", ("vllm_that_is_not_here.v1",))
    vllm_processors._joined.cache_clear()
    with pytest.raises(UserError, match=r"need vllm .* pip install 'trueup\[vllm\]'"):
        _ = vllm_processors.ArgsLogitsProcessor


def test_a_bad_strength_refuses_the_request(bases):
    made = args_class()
    made.validate_params(asking())
    made.validate_params(asking(args_weight=0.5, other="x"))
    for value in ("2", -1, True, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="args_weight must be a number of at least 0, got"):
            made.validate_params(asking(args_weight=value))


def test_missing_settings_stop_the_engine_s_start(bases, config, tmp_path):
    plain = vllm_processors.ArgsLogitsProcessor
    with pytest.raises(UserError, match="needs a reward"):
        plain(config, torch.device("cpu"), False)

    class Table(vllm_processors.ContrastTableLogitsProcessor):
        table = str(tmp_path / "none.safetensors")

    with pytest.raises(UserError, match=r"none.safetensors: is no table of a contrast"):
        Table(config, torch.device("cpu"), False)


# ARGS.


def test_rows_are_steered_as_their_own_requests_while_the_batch_changes(bases, config, exact, rng):
    """V1: 60 random changes of the batch; a request of weight 0 keeps its logits bit for bit."""
    engine = EngineV1(args_class()(config, torch.device("cpu"), False))
    weights = [None, 0.0, 0.5, 6.0]
    for step in range(60):
        count = len(engine.rows)
        leave = [row for row in range(count) if rng.random() < 0.25]
        join = []
        for _ in range(int(rng.integers(0, 3)) if count < 6 else 0):
            weight = weights[int(rng.integers(4))]
            params = asking() if weight is None else asking(args_weight=weight)
            join.append((params, rng.integers(4, V, 3).tolist(), []))
        left = count - len(leave) + len(join)
        swap = tuple(rng.choice(left, 2, replace=False).tolist()) if left > 1 else None
        engine.change(leave=leave, join=join, swap=swap)
        logits = logits_for(len(engine.rows), seed=step)
        found = engine.apply(logits.clone())
        for row, (params, prompt, output) in enumerate(engine.rows):
            weight = (params.extra_args or {}).get("args_weight", 2.0)
            if weight == 0:
                assert torch.equal(found[row], logits[row])
            else:
                expected = by_hand(exact, logits[row], prompt, output, weight)
                torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=0)
            output.append(int(found[row].argmax()))


def test_a_request_without_prompt_tokens_is_steered(bases, config, exact):
    engine = EngineV1(args_class()(config, torch.device("cpu"), False))
    engine.change(join=[(asking(), None, [])])
    logits = logits_for(1)
    expected = by_hand(exact, logits[0], [], [], 2.0)
    torch.testing.assert_close(engine.apply(logits.clone())[0], expected, atol=1e-5, rtol=0)


def test_a_request_that_moves_one_way_replaces_who_was_there(bases, config, exact):
    engine = EngineV1(args_class()(config, torch.device("cpu"), False))
    engine.change(join=[(asking(), [50], []), (asking(args_weight=5), [60], [])])
    engine.processor.update_state(BatchUpdate(1, [], [], [(1, 0, Moves.UNIDIRECTIONAL)]))
    logits = logits_for(2)
    found = engine.apply(logits.clone())
    expected = by_hand(exact, logits[0], [60], [], 5.0)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)
    assert torch.equal(found[1], logits[1])


def test_no_change_of_the_batch_is_none(bases, config):
    processor = args_class()(config, torch.device("cpu"), False)
    processor.update_state(None)
    logits = logits_for(2)
    assert torch.equal(processor.apply(logits.clone()), logits)


def test_slots_are_steered_whatever_the_order_of_rows(bases, config, exact):
    engine = EngineV2(lambda buffers: args_class()(config, buffers))
    texts = {1: [50, 51], 4: [60], 6: [70, 71, 72]}
    asked = {1: asking(), 4: asking(args_weight=0), 6: asking(args_weight=5)}
    assert [engine.add(slot, asked[slot], texts[slot]) for slot in texts] == [True, False, True]
    outputs: dict[int, list[int]] = {slot: [] for slot in texts}
    for step, slots in enumerate([[1, 4, 6], [6, 1, 4], [4, 6], [6, 4, 1]]):
        logits = logits_for(len(slots), seed=step)
        found = engine.apply(logits.clone(), slots)
        for row, slot in enumerate(slots):
            if slot == 4:
                assert torch.equal(found[row], logits[row])
            else:
                weight = {1: 2.0, 6: 5.0}[slot]
                expected = by_hand(exact, logits[row], texts[slot], outputs[slot], weight)
                torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=0)
            token = int(found[row].argmax())
            engine.take(slot, token)
            outputs[slot].append(token)


def test_a_slot_forgets_who_was_in_it(bases, config, exact):
    engine = EngineV2(lambda buffers: args_class()(config, buffers))
    engine.add(2, asking(), [50, 51])
    engine.apply(logits_for(1), [2])
    engine.add(2, asking(args_weight=1), [80, 81], [90])  # resumed: some output is there already
    logits = logits_for(1, seed=1)
    expected = by_hand(exact, logits[0], [80, 81], [90], 1.0)
    torch.testing.assert_close(engine.apply(logits.clone(), [2])[0], expected, atol=1e-5, rtol=0)
    assert not engine.add(2, asking(args_weight=0), [50])
    assert torch.equal(engine.apply(logits.clone(), [2]), logits)


def test_drafted_tokens_are_read_as_if_they_were_taken(bases, config, exact):
    engine = EngineV2(lambda buffers: args_class()(config, buffers))
    engine.add(0, asking(), [50, 51], [52])
    engine.add(3, asking(), [60])
    drafts = [[100, 101], [110]]
    logits = logits_for(5)
    found = engine.apply(logits.clone(), [0, 3], drafts=drafts)
    read = [([50, 51], [52]), ([50, 51], [52, 100]), ([50, 51], [52, 100, 101])]
    read += [([60], []), ([60], [110])]
    for row, (prompt, output) in enumerate(read):
        expected = by_hand(exact, logits[row], prompt, output, 2.0)
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_an_engine_with_args_writes_what_the_search_writes(bases, config, exact, runner):
    """Greedy decoding of a real model through either interface, against `ARGS.decode`."""
    args = ARGS(weight=4.0, top_k=4)
    made = args_class(weight=4.0)
    request = Request(sampling=Sampling(max_new_tokens=6), rewards={"r": hashed})
    expected = [list(several[0].token_ids) for several in args.decode(exact, PROMPTS, request)]
    assert expected != [
        several[0].token_ids for several in exact.sample(PROMPTS, temperature=0, max_new_tokens=6)
    ]
    prompts = [exact.encoder.prompt(prompt) for prompt in PROMPTS]
    outputs: list[list[int]] = [[] for _ in prompts]
    if runner == "v1":
        engine = EngineV1(made(config, torch.device("cpu"), False))
        engine.change(join=[(asking(), p, o) for p, o in zip(prompts, outputs, strict=True)])
    else:
        engine = EngineV2(lambda buffers: made(config, buffers))
        for slot, prompt in enumerate(prompts):
            engine.add(slot, asking(), prompt)
    for _ in range(6):
        rows = [next_logprobs(exact, p + o) for p, o in zip(prompts, outputs, strict=True)]
        logits = torch.stack(rows)
        found = engine.apply(logits) if runner == "v1" else engine.apply(logits, [0, 1, 2])
        for slot, token in enumerate(found.argmax(-1).tolist()):
            outputs[slot].append(token)
            if runner == "v2":
                engine.take(slot, token)
    assert [ids[: len(e)] for ids, e in zip(outputs, expected, strict=True)] == expected


def test_a_constraint_is_a_veto(bases, config, exact):
    from trueup.decoding.vllm_processors import ArgsLogitsProcessor

    class Clean(ArgsLogitsProcessor):
        method = ARGS(weight=1e4, top_k=2)
        rewards = {"clean": "no-regex:a"}  # noqa: RUF012

    engine = EngineV1(Clean(config, torch.device("cpu"), False))
    engine.change(join=[(asking(), [50], [])])
    a, b = exact.encoder.tokens(["a", "b"])
    logits = torch.full((1, V), -5.0)
    logits[0, a[0]], logits[0, b[0]] = 9.0, 0.0
    assert int(engine.apply(logits.clone())[0].argmax()) == b[0]
    assert int(logits[0].argmax()) == a[0]


# The table.


def test_a_table_is_the_contrast_with_an_amateur_that_does_not_read(bases, config, tmp_path):
    row = np.array([0.5, 0.2, 0.2, 0.1])
    amateur = table_lm(np.tile(row, (4, 1)), start="3", eos=None)
    path = tmp_path / "table.safetensors"
    vllm_processors.save_table(amateur, ["0", "1 2"], path)

    class Table(vllm_processors.ContrastTableLogitsProcessor):
        method = Contrast(alpha=0.7, beta=0.05)
        table = path

    engine = EngineV1(Table(config, torch.device("cpu"), False))
    engine.change(
        join=[
            (ask, [1], []) for ask in (asking(), asking(contrast_alpha=2), asking(contrast_alpha=0))
        ]
    )
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    found = engine.apply(logits.clone())
    for place, alpha in enumerate((0.7, 2.0)):
        expected = contrast_scores(
            logits[place].log_softmax(-1), torch.tensor(row).log().float(), alpha=alpha, beta=0.05
        )
        torch.testing.assert_close(found[place], expected, atol=1e-5, rtol=0)
    assert torch.equal(found[2], logits[2])


def test_a_table_of_several_prompts_is_their_mean_probability(tmp_path):
    rows = np.array([[0.5, 0.5, 0], [0.1, 0.3, 0.6], [1 / 3] * 3])
    lm = table_lm(rows, start="2", eos=None)
    vllm_processors.save_table(lm, ["0", "1"], tmp_path / "t.safetensors")
    table = vllm_processors.read_tensors(tmp_path / "t.safetensors")[0]["logprobs"]
    assert table.exp().tolist() == pytest.approx([0.3, 0.4, 0.3], abs=1e-6)
