"""Pine's attention on tensors: the turned query, masks, ties, padding, and models it fits."""

import pytest
import torch
import transformers

from tests.proofs.pine_reference import (
    Sequenced,
    random_vectors,
    re_rotated,
    sheet_vectors,
    stock,
)
from tests.tiny_models import make_config
from trueup.errors import UserError
from trueup.models.pine_attention import pine_attention, pine_shifts
from trueup.models.pine_grid import Order, Rotation
from trueup.models.pine_state import PineState, SegmentIds, find_rotation
from trueup.models.work import Work

EXACT = {"atol": 1e-12, "rtol": 0}
PROMPT = SegmentIds((1, 50, 51), ((10, 11, 12), (20, 21, 22, 23, 24), (30,)), (60, 61))


def pine(s: Sequenced, order: Order = "importance") -> torch.Tensor:
    return pine_attention(s.q, s.k, s.v, s.prefix, s.lengths, order=order)


def tiny(architecture: str, dtype: torch.dtype = torch.float32, **changes: object):
    config = make_config(architecture)
    config.initializer_range = 0.2
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    return model.to(dtype).eval()


def started(model, *prompts: SegmentIds, order: Order = "importance") -> PineState:
    rotation = find_rotation(model)
    return PineState(model, prompts, rotation=rotation, order=order, pad_id=0, work=Work())


@pytest.mark.parametrize("seed", range(3))
def test_turning_the_query_is_turning_every_key(seed: int):
    s = random_vectors(seed)
    torch.testing.assert_close(pine(s), re_rotated(s), **EXACT)


def test_prefix_rows_are_stock_rows():
    s = random_vectors(4)
    torch.testing.assert_close(pine(s)[:, :2], stock(s)[:, :2], **EXACT)


def test_no_prefix_at_all_works():
    s = random_vectors(5)
    bare = Sequenced(s.q[:, 2:], s.k[:, 2:], s.v[:, 2:], 0, s.lengths)
    torch.testing.assert_close(pine(bare), re_rotated(bare), **EXACT)


def test_shifts_tile_the_region_without_gaps():
    lengths = torch.tensor([2, 4, 1, 3])
    s = random_vectors(0)
    shifts = pine_shifts(s.q, s.k, s.prefix, s.lengths)[:, s.prefix :]
    order = shifts.argsort(-1)
    starts = shifts.gather(-1, order)
    assert (starts == lengths[order].cumsum(-1) - lengths[order]).all()


def test_reverse_is_ascending_behind_the_own_document():
    s = sheet_vectors()
    forward = pine_shifts(s.q, s.k, s.prefix, s.lengths)
    reverse = pine_shifts(s.q, s.k, s.prefix, s.lengths, order="reverse")
    assert forward[0, 8].tolist() == [1, 3, 0]  # D3, D1, D2
    assert reverse[0, 8].tolist() == [3, 0, 5]  # D2, D1, D3
    assert reverse[0, 2].tolist() == [0, 3, 2]  # D1 itself, D3, D2


def test_equal_importances_go_by_the_documents_order():
    s = random_vectors(1, lengths=(3, 3))
    k = s.k.clone()
    k[:, 5:8] = k[:, 2:5]
    shifts = pine_shifts(s.q, k, s.prefix, s.lengths)
    assert (shifts[:, s.end :] == torch.tensor([0, 3])).all()


def test_partial_rotation_leaves_the_rest():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    rotation = Rotation(torch.tensor([1.0]))
    moved = rotation.turned(x, torch.tensor([5, 5, 5]))
    assert torch.equal(moved[:, 2:], x[:, 2:])
    assert not torch.allclose(moved[:, :2], x[:, :2])


def test_a_scaled_table_is_divided_out_of_the_turned_part_alone():
    x = torch.randn(1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotation = Rotation(torch.tensor([1.0, 0.1], dtype=torch.float64), factor=1.5)
    at = torch.tensor([7])
    scaled = rotation.turned(x, at) * torch.tensor([1.5] * 4 + [1.0] * 4)
    torch.testing.assert_close(rotation.undone(scaled, at), x, **EXACT)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral", "gpt_neox"])
def test_one_document_is_the_stock_model(architecture: str):
    model = tiny(architecture)
    joined = SegmentIds(PROMPT.prefix, (sum(PROMPT.docs, ()),), PROMPT.suffix)
    ids = torch.tensor([[*joined.prefix, *joined.docs[0], *joined.suffix]])
    expected = model(ids).logits[0, -1].log_softmax(-1)
    got = started(model, joined).logprobs[0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_yarn_is_stock_with_one_document_and_invariant_with_three():
    parameters = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model = tiny("llama", rope_parameters=parameters)
    assert find_rotation(model).factor > 1.1
    test_one = SegmentIds(PROMPT.prefix, (sum(PROMPT.docs, ()),), PROMPT.suffix)
    ids = torch.tensor([[*test_one.prefix, *test_one.docs[0], *test_one.suffix]])
    expected = model(ids).logits[0, -1].log_softmax(-1)
    torch.testing.assert_close(started(model, test_one).logprobs[0], expected, atol=1e-5, rtol=0)
    swapped = SegmentIds(PROMPT.prefix, PROMPT.docs[::-1], PROMPT.suffix)
    both = started(model, PROMPT, swapped).logprobs
    torch.testing.assert_close(both[0], both[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["gpt2", "bloom"])
def test_a_model_without_rotary_positions_says_why(architecture: str):
    with pytest.raises(
        UserError, match="needs a model with rotary positions that its layers share, got"
    ):
        find_rotation(tiny(architecture))


def test_an_attention_that_takes_no_options_is_refused():
    config = transformers.StableLmConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=0,
    )
    with pytest.raises(UserError, match="cannot reach the attention of StableLmAttention"):
        find_rotation(transformers.AutoModelForCausalLM.from_config(config).eval())


def test_frequencies_that_grow_with_the_length_are_refused():
    parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(UserError, match="do not depend on the length, got 'dynamic'"):
        find_rotation(tiny("llama", rope_parameters=parameters))


def test_another_way_of_turning_is_refused():
    model = tiny("llama")
    model.model.layers[1].self_attn.q_proj.register_forward_hook(
        lambda _, __, out: out + torch.arange(out.shape[1])[:, None]
    )
    with pytest.raises(UserError, match="that all layers turn alike"):
        find_rotation(model)


def test_the_model_is_as_it_was_afterwards():
    model = tiny("llama")
    ids = torch.tensor([[1, 2, 3, 4]])
    before = model(ids).logits
    attention = model.config._attn_implementation
    started(model, PROMPT).advance([7])
    assert model.config._attn_implementation == attention
    assert torch.equal(model(ids).logits, before)


def test_a_batch_of_unequal_prompts_equals_one_by_one():
    model = tiny("llama", torch.float64)
    prompts = [
        PROMPT,
        SegmentIds((1,), ((40, 41),), (60, 61, 62, 63)),
        SegmentIds((1, 70, 71, 72), ((80,), (81, 82)), (90,)),
    ]
    state = started(model, *prompts)
    state.advance([5, 6, 7])
    for row, (prompt, token) in enumerate(zip(prompts, (5, 6, 7), strict=True)):
        alone = started(model, prompt)
        alone.advance([token])
        torch.testing.assert_close(state.logprobs[row], alone.logprobs[0], atol=1e-6, rtol=0)


def test_cached_tokens_equal_a_longer_suffix():
    model = tiny("gpt_neox", torch.float64)
    state = started(model, PROMPT)
    for token in (100, 101, 102):
        state.advance([token])
    whole = SegmentIds(PROMPT.prefix, PROMPT.docs, (*PROMPT.suffix, 100, 101, 102))
    torch.testing.assert_close(state.logprobs, started(model, whole).logprobs, atol=1e-6, rtol=0)


def test_select_and_rollback_keep_the_documents_of_each_row():
    model = tiny("llama", torch.float64)
    other = SegmentIds((1,), ((40, 41), (42,)), (60,))
    state = started(model, PROMPT, other)
    state.select([1, 0, 1])
    state.advance([5, 6, 7])
    state.advance([8, 8, 8])
    state.rollback(1)
    for row, (prompt, token) in enumerate(((other, 5), (PROMPT, 6), (other, 7))):
        alone = started(model, SegmentIds(prompt.prefix, prompt.docs, (*prompt.suffix, token)))
        torch.testing.assert_close(state.logprobs[row], alone.logprobs[0], atol=1e-6, rtol=0)


def test_prompts_with_the_same_documents_read_them_once():
    model = tiny("llama")
    work = Work()
    suffixes = ((60, 61), (62,), (63, 64, 65))
    prompts = [SegmentIds(PROMPT.prefix, PROMPT.docs, suffix) for suffix in suffixes]
    state = PineState(model, prompts, rotation=find_rotation(model), pad_id=0, work=work)
    assert work.trunk_tokens == 3 + (3 + 5 + 1) + (2 + 1 + 3)
    state.select([0, 0, 1, 2])
    state.advance([1, 2, 3, 4])
    assert work.trunk_tokens == 18 + 4
    for row, suffix in ((0, (60, 61, 1)), (3, (63, 64, 65, 4))):
        alone = started(model, SegmentIds(PROMPT.prefix, PROMPT.docs, suffix))
        torch.testing.assert_close(state.logprobs[row], alone.logprobs[0], atol=1e-5, rtol=0)
