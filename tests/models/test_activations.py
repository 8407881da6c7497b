from pathlib import Path

import numpy as np
import pytest
import torch

from tests.audits.planted_models import random_bert
from tests.tiny_models import make_tiny
from trueup.calibration.biaslens import PlantedStates
from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.models.activations import Activations, states_of
from trueup.models.static_vectors import StaticVectors

TEXTS = [
    "The nurse came home.",
    "Yes.",
    "A long sentence, with many words in it, ends here.",
    "No.",
]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_it_is_the_last_tokens_hidden_state_in_every_layer(tmp_path: Path, architecture: str):
    lm = load(make_tiny(architecture, tmp_path / architecture), device="cpu")
    found = states_of(lm, "a test").last_states(TEXTS)
    expected = np.stack([states[:, -1].numpy() for states in lm.hidden_states(TEXTS)])
    assert found.shape == (4, 3, 32)  # texts, the embedding and two blocks, width
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_padding_changes_nothing(tiny_llama: LanguageModel):
    states = states_of(tiny_llama, "a test")
    together = states.last_states(TEXTS)
    alone = np.concatenate([states.last_states([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_texts_that_end_otherwise_have_other_states(tiny_llama: LanguageModel):
    one, other = states_of(tiny_llama, "a test").last_states(["It rains.", "It rains!"])
    assert np.abs(one - other).max() > 0.01


def test_a_masked_models_end_mark_is_not_the_last_token():
    lm = random_bert(["the nurse came home", "yes"])
    [found] = states_of(lm, "a test").last_states(["the nurse came home"])
    ids = torch.tensor([lm.sentences(["the nurse came home"])[0].ids])
    with torch.no_grad():
        layers = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
    expected = torch.stack([layer[0, -2] for layer in layers]).numpy()  # -1 is the end mark
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_distinct_text_is_read_once_and_counted(tiny_model_folder: Path):
    lm = load(tiny_model_folder, device="cpu")
    states = states_of(lm, "a test")
    found = states.last_states(["Yes.", "No.", "Yes."])
    assert lm.work.trunk_tokens == len("Yes.") + len("No.") + 2  # bytes, and an opening token each
    assert lm.work.padding_tokens == 1
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 0


def test_half_precision_comes_back_in_single(tmp_path: Path):
    lm = load(make_tiny("llama", tmp_path), device="cpu", dtype="bfloat16")
    assert states_of(lm, "a test").last_states(["Yes."]).dtype == np.float32


def test_a_model_that_tells_its_states_is_taken_as_it_is():
    model = PlantedStates({"a": np.ones(3)})
    assert states_of(model, "a test") is model
    assert not isinstance(states_of(model, "a test"), Activations)


def test_static_vectors_have_no_layers():
    vectors = StaticVectors({"a": 0}, np.ones((1, 3)), name="static")
    with pytest.raises(UserError, match=r"biaslens needs a model with layers .*, got .*"):
        states_of(vectors, "biaslens")


def test_a_text_without_tokens_is_refused(tiny_llama: LanguageModel):
    with pytest.raises(UserError, match="has no tokens, got ''"):
        states_of(tiny_llama, "a test").last_states(["Yes.", ""])
