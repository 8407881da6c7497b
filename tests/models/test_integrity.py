"""The integrity checks: what is wrong is named, and a clean model raises no alarm."""

import pytest
import torch
from torch import nn

from tests.models.residual_models import direction, ids_of, wide_llama
from tests.tiny_models import make_tiny
from trueup.errors import TrueupError
from trueup.models import LanguageModel, load
from trueup.models.integrity import (
    Inventory,
    hook_findings,
    residual_deltas,
    residual_findings,
    restored,
    state_findings,
    weight_hashes,
)
from trueup.models.residual_stream import Add, blocks_of, edited

ARCHITECTURES = ["llama", "qwen2", "gpt2", "gpt_neox", "mistral", "bloom"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def clean(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> LanguageModel:
    folder = make_tiny(request.param, tmp_path_factory.mktemp("clean") / request.param)
    return load(folder, dtype="float64", device="cpu")


@pytest.fixture
def llama() -> LanguageModel:
    return wide_llama()


def test_a_clean_model_raises_no_alarm(clean: LanguageModel):
    """Also after transformers has put its own hooks on the blocks."""
    clean.hidden_states(["hello"])
    assert hook_findings(clean.model) == []
    assert state_findings(clean.model, weight_hashes(clean.model)) == []
    deltas = residual_deltas(clean.model, ids_of(clean, "hello", "there"))
    assert float(deltas.abs().max()) == 0
    assert residual_findings(deltas) == []


def test_an_edit_is_found_by_hooks_and_stream_in_every_architecture(clean: LanguageModel):
    ids = ids_of(clean, "hello", "there")
    with edited(clean.model, 1, Add(direction(32))):
        (hook,) = hook_findings(clean.model)
        assert state_findings(clean.model) == []
        deltas = residual_deltas(clean.model, ids)
        assert len(blocks_of(clean.model)[1]._forward_hooks) >= 1  # the check lifts nothing
    assert hook.name.endswith(".1")
    assert "residual_stream.Edit" in hook.what
    ((finding, vector),) = residual_findings(deltas, 1e-12)
    assert finding.name == "block 1"
    assert finding.what.endswith(", the same for every token")
    torch.testing.assert_close(vector, direction(32), atol=1e-12, rtol=0)


def test_a_hook_inside_a_block_is_found(llama: LanguageModel):
    mlp = blocks_of(llama.model)[2].mlp
    handle = mlp.register_forward_hook(lambda *given: given[2] * 1.5)
    (hook,) = hook_findings(llama.model)
    deltas = residual_deltas(llama.model, ids_of(llama, "hello"))
    handle.remove()
    assert hook.name == "model.layers.2.mlp"
    ((finding, _),) = residual_findings(deltas, 1e-12)
    assert finding.name == "block 2"
    assert finding.what.endswith(", not the same for every token")


def test_a_replaced_forward_is_found_and_left_as_it_is(llama: LanguageModel):
    block = blocks_of(llama.model)[1]
    original = block.forward
    block.forward = lambda *args, **kwargs: original(*args, **kwargs) + direction()
    replaced = block.forward
    (finding,) = hook_findings(llama.model)
    deltas = residual_deltas(llama.model, ids_of(llama, "hello"))
    assert str(finding) == "model.layers.1 has another forward than its class"
    assert block.forward is replaced
    assert [each.name for each, _ in residual_findings(deltas, 1e-12)] == ["block 1"]


def test_a_pre_hook_is_found_behind_the_block_before(llama: LanguageModel):
    block = blocks_of(llama.model)[2]
    handle = block.register_forward_pre_hook(lambda _, args: (args[0] + direction(), *args[1:]))
    deltas = residual_deltas(llama.model, ids_of(llama, "hello"))
    (finding,) = hook_findings(llama.model)
    handle.remove()
    assert "a forward pre-hook" in finding.what
    assert [each.name for each, _ in residual_findings(deltas, 1e-12)] == ["block 1"]


def test_a_module_of_another_class_is_found(llama: LanguageModel):
    class Louder(type(blocks_of(llama.model)[0].mlp)):
        pass

    blocks_of(llama.model)[0].mlp.__class__ = Louder
    (finding,) = hook_findings(llama.model)
    assert finding.name == "model.layers.0.mlp"
    assert "Louder, not transformers.models.llama" in finding.what


def test_missing_misshapen_and_changed_weights_are_named(llama: LanguageModel):
    reference = weight_hashes(llama.model)
    layers = llama.model.model.layers
    with torch.no_grad():
        layers[0].mlp.up_proj.weight[0, 0] += 1e-9
    layers[1].input_layernorm.weight = nn.Parameter(torch.ones(8))
    del layers[2].mlp.down_proj._parameters["weight"]
    found = [str(finding) for finding in state_findings(llama.model, reference)]
    assert found == [
        "model.layers.1.input_layernorm.weight has the shape (8,), not (16,)",
        "model.layers.2.mlp.down_proj.weight is missing",
        "model.layers.0.mlp.up_proj.weight has other values than the reference",
    ]


def test_what_was_folded_into_weights_is_found_with_a_clean_copy(llama: LanguageModel):
    reference, ids = wide_llama(), ids_of(llama, "hello")
    linear = blocks_of(llama.model)[1].mlp.down_proj
    linear.bias = nn.Parameter(direction())
    assert residual_findings(residual_deltas(llama.model, ids), 1e-12) == []
    deltas = residual_deltas(llama.model, ids, reference.model)
    ((finding, vector),) = residual_findings(deltas, 1e-12)
    assert finding.name == "block 1"
    torch.testing.assert_close(vector, direction(), atol=1e-12, rtol=0)


def test_a_reference_inventory_allows_what_it_has_and_misses_what_went(llama: LanguageModel):
    handle = blocks_of(llama.model)[0].register_forward_hook(lambda *given: None)
    before = Inventory.of(llama.model)
    assert hook_findings(llama.model, before) == []
    handle.remove()
    (finding,) = hook_findings(llama.model, before)
    assert "has lost a forward hook" in finding.what


def test_a_hook_left_behind_breaks_the_proof_of_restoration(llama: LanguageModel):
    with (
        pytest.raises(TrueupError, match=r"not as it was.*layers\.0 has a forward hook"),
        restored(llama.model),
    ):
        blocks_of(llama.model)[0].register_forward_hook(lambda *given: None)


def test_a_weight_written_to_breaks_the_proof_of_restoration(llama: LanguageModel):
    with (
        pytest.raises(TrueupError, match=r"norm\.weight was written to"),
        restored(llama.model),
        torch.no_grad(),
    ):
        llama.model.model.norm.weight.add_(1)


def test_hidden_states_asked_for_inside_are_no_change(llama: LanguageModel):
    with restored(llama.model):
        llama.hidden_states(["hello"])
