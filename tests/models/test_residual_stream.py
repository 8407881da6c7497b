"""The stream of six architectures: edited, read, restored, and told apart by caches."""

import pytest
import torch

from tests.models.residual_models import direction, ids_of, inputs_of, logits_of, wide_llama
from tests.tiny_models import make_tiny
from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.models.embedder import vectors_of
from trueup.models.prefix_cache import PrefixedModel
from trueup.models.residual_stream import (
    Add,
    Clamp,
    blocks_of,
    edited,
    edits_of,
    final_norm,
    recorded,
    unedited,
)

ARCHITECTURES = ["llama", "qwen2", "gpt2", "gpt_neox", "mistral", "bloom"]
PREFIX = "Be kind. " * 4


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = make_tiny(request.param, tmp_path_factory.mktemp("stream") / request.param)
    return load(folder, dtype="float64", device="cpu")


@pytest.fixture
def llama() -> LanguageModel:
    return wide_llama()


def test_an_addition_is_what_the_next_block_reads_in_every_architecture(lm: LanguageModel):
    ids, vector = ids_of(lm, "hello", "there"), direction(32)
    clean, before = inputs_of(lm.model, ids), logits_of(lm.model, ids)
    with edited(lm.model, 0, Add(vector)):
        steered = inputs_of(lm.model, ids)
        assert not torch.equal(logits_of(lm.model, ids), before)
    torch.testing.assert_close(
        steered[1] - clean[1], vector.expand_as(clean[1]), atol=1e-12, rtol=0
    )
    assert torch.equal(steered[0], clean[0])
    assert torch.equal(logits_of(lm.model, ids), before)


def test_reading_gives_what_the_next_block_reads_in_every_architecture(lm: LanguageModel):
    ids = ids_of(lm, "hello")
    found = {}
    with recorded(lm.model, lambda layer, states: found.update({layer: states})):
        logits = logits_of(lm.model, ids)
    assert torch.equal(found[0], inputs_of(lm.model, ids)[1])
    head = lm.model.get_output_embeddings()
    torch.testing.assert_close(head(final_norm(lm.model)(found[1])), logits, atol=1e-6, rtol=0)
    assert all(len(block._forward_hooks) == 0 for block in blocks_of(lm.model))


def test_hidden_states_show_the_edit_whoever_hooked_first(llama: LanguageModel):
    """transformers captures them by hooks, which would run before a plain hook put there later."""
    llama.hidden_states(["first"])  # now they are there
    clean = llama.hidden_states(["hello"])[0]
    with edited(llama.model, 1, Add(direction())):
        steered = llama.hidden_states(["hello"])[0]
    assert torch.equal(steered[:2], clean[:2])
    expected = direction().float().expand_as(clean[2])
    torch.testing.assert_close(steered[2] - clean[2], expected, atol=1e-5, rtol=0)


def test_a_plain_hook_is_not_seen_in_hidden_states(llama: LanguageModel):
    """The trap itself: the sheet's point 4, checked so that it is noticed when it goes."""
    llama.hidden_states(["first"])
    clean = llama.hidden_states(["hello"])[0]
    handle = blocks_of(llama.model)[1].register_forward_hook(lambda *given: given[2] + direction())
    steered = llama.hidden_states(["hello"])[0]
    handle.remove()
    assert torch.equal(steered[2], clean[2])
    assert not torch.equal(steered[3], clean[3])


def test_generated_changes_steps_and_neither_prompts_nor_scored_texts(lm: LanguageModel):
    clean = lm.start(["hello", "there"])
    with edited(lm.model, 1, Add(10 * direction(32)), "generated"):
        state = lm.start(["hello", "there"])
        assert torch.equal(state.logprobs, clean.logprobs)
        scored = lm.text_logps(["hello"])
        state.advance([70, 71])
    assert scored == lm.text_logps(["hello"])
    clean.advance([70, 71])
    assert float((state.logprobs - clean.logprobs).abs().max()) > 0.01


def test_a_prompt_of_one_token_is_no_generated_step(llama: LanguageModel):
    row = [[70]]
    with edited(llama.model, 1, Add(10 * direction()), "generated"):
        steered = llama.start_ids(row).logprobs
    assert torch.equal(steered, llama.start_ids(row).logprobs)


def test_unedited_lifts_edits_alone_and_puts_them_back_in_order(llama: LanguageModel):
    block, ids = blocks_of(llama.model)[1], ids_of(llama, "hello")
    clean = logits_of(llama.model, ids)
    foreign = block.register_forward_hook(lambda *given: None)
    with edited(llama.model, 1, Add(direction())), edited(llama.model, 1, Clamp(*unit_range())):
        steered, order = logits_of(llama.model, ids), list(block._forward_hooks)
        assert len(edits_of(llama.model)) == 2
        with unedited(llama.model):
            assert edits_of(llama.model) == ()
            assert list(block._forward_hooks) == [foreign.id]
            assert torch.equal(logits_of(llama.model, ids), clean)
        assert list(block._forward_hooks) == order
        assert torch.equal(logits_of(llama.model, ids), steered)
    foreign.remove()


def unit_range() -> tuple[torch.Tensor, float, float]:
    return direction() / direction().norm(), -0.1, 0.1


def test_a_clamp_holds_projections_and_spares_what_is_inside(llama: LanguageModel):
    unit, low, high = unit_range()
    ids = ids_of(llama, "hello there")
    clean = inputs_of(llama.model, ids)[2]
    inside = ((clean @ unit) > low) & ((clean @ unit) < high)
    with edited(llama.model, 1, Clamp(unit, low, high)):
        held = inputs_of(llama.model, ids)[2]
    assert 0 < int(inside.sum()) < inside.numel()
    assert torch.equal(held[inside], clean[inside])
    assert float((held @ unit).min()) >= low - 1e-12
    assert float((held @ unit).max()) <= high + 1e-12


def test_a_clamp_has_the_last_word_over_an_addition_made_later(llama: LanguageModel):
    unit, low, high = unit_range()
    ids = ids_of(llama, "hello there")
    with edited(llama.model, 1, Clamp(unit, low, high)), edited(llama.model, 1, Add(9 * unit)):
        held = inputs_of(llama.model, ids)[2]
    assert float((held @ unit).max()) <= high + 1e-12


def test_a_kept_prefix_is_read_anew_when_an_edit_comes_and_goes(llama: LanguageModel):
    kept, prompt = PrefixedModel(llama, PREFIX), PREFIX + "Hello?"
    clean = kept.start([prompt]).logprobs
    with edited(llama.model, 1, Add(direction())):
        steered = kept.start([prompt]).logprobs
        torch.testing.assert_close(steered, llama.start([prompt]).logprobs, atol=2e-6, rtol=0)
    assert float((steered - clean).abs().max()) > 0.01
    assert torch.equal(kept.start([prompt]).logprobs, clean)


def test_a_kept_prefix_is_read_once_under_one_edit(llama: LanguageModel):
    kept, prompt = PrefixedModel(llama, PREFIX), PREFIX + "Hello?"
    for _ in range(2):
        with edited(llama.model, 1, Add(direction())):
            kept.start([prompt])
    rest = len(llama.encoder.prompt(prompt)) - len(llama.encoder.prompt(PREFIX))
    assert llama.work.trunk_tokens == len(llama.encoder.prompt(PREFIX)) + 2 * rest


def test_fingerprints_and_kept_vectors_tell_edits_apart(llama: LanguageModel):
    embedder = vectors_of(llama, "a test")
    clean, vector = llama.fingerprint, embedder.text_vectors(["hello"])
    found = set()
    for size in (1, 2):
        with edited(llama.model, 1, Add(size * direction())):
            found.add(llama.fingerprint)
            assert abs(embedder.text_vectors(["hello"]) - vector).max() > 1e-3
    assert len(found | {clean}) == 3
    assert llama.fingerprint == clean
    assert (embedder.text_vectors(["hello"]) == vector).all()


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_is_not_there_is_refused(llama: LanguageModel, layer: int):
    with pytest.raises(UserError, match=f"layer must lie between 0 and 3, got {layer}"):
        edited(llama.model, layer, Add(direction())).__enter__()


def test_a_model_without_blocks_says_so():
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=2, vocab_size=9, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config)
    model.model.layers = model.model.layers[:1]
    with pytest.raises(UserError, match="no list of 2 blocks"):
        blocks_of(model)
