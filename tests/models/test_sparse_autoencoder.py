import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from trueup.errors import UserError
from trueup.models.sparse_autoencoder import SparseAutoencoder, load_sae
from trueup.models.tensors import save_tensors

WIDTH, FEATURES = 4, 6


def tensors(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    own = {
        "W_enc": torch.randn(WIDTH, FEATURES, generator=generator, dtype=torch.float64),
        "b_enc": torch.randn(FEATURES, generator=generator, dtype=torch.float64) / 4,
        "b_dec": torch.randn(WIDTH, generator=generator, dtype=torch.float64) / 4,
        "W_dec": torch.randn(FEATURES, WIDTH, generator=generator, dtype=torch.float64),
    }
    return {**own, **more}


def lens_folder(folder: Path, weights: dict[str, torch.Tensor], **config: object) -> Path:
    """A folder as sae-lens writes it."""
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "sae_weights.safetensors")
    described = {"d_in": WIDTH, "d_sae": FEATURES, "dtype": "float64", **config}
    (folder / "cfg.json").write_text(json.dumps(described))
    return folder


def made(**settings: object) -> SparseAutoencoder:
    own = {name.lower(): tensor for name, tensor in tensors().items()}
    return SparseAutoencoder(**{**own, **settings})


def before(states: np.ndarray, *, with_bias: bool = True) -> np.ndarray:
    """(h - b_dec) W_enc + b_enc."""
    w, b, d = (tensors()[name].numpy() for name in ("W_enc", "b_enc", "b_dec"))
    return (states - d * with_bias) @ w + b


@pytest.fixture
def states(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(5, WIDTH))


def test_relu_keeps_what_is_above_zero(states: np.ndarray):
    np.testing.assert_allclose(made().encode(states), np.maximum(before(states), 0), atol=1e-12)


def test_jumprelu_keeps_what_is_above_its_threshold(states: np.ndarray):
    x = before(states)
    found = made(activation="jumprelu", threshold=torch.full((FEATURES,), 0.7).double())
    assert ((x > 0) & (x < 0.7)).any()
    np.testing.assert_allclose(found.encode(states), np.where(x > 0.7, x, 0), atol=1e-12)


def test_a_jumprelu_with_a_threshold_below_zero_gives_nothing_negative(states: np.ndarray):
    found = made(activation="jumprelu", threshold=torch.full((FEATURES,), -9.0).double())
    assert found.encode(states).min() == 0


def test_topk_keeps_the_largest_above_zero(states: np.ndarray):
    found = made(activation="topk", k=2).encode(states)
    for row, x in zip(found, before(states), strict=True):
        largest = np.sort(x)[-2:]
        assert sorted(row[row > 0]) == pytest.approx(sorted(largest[largest > 0]))


def test_identity_is_linear(states: np.ndarray):
    np.testing.assert_allclose(made(activation="identity").encode(states), before(states))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation": "jumprelu", "threshold": torch.full((FEATURES,), 0.5).double()},
        {"activation": "topk", "k": 2},
        {"scaling": "layer_norm"},
        {"scaling": "constant_norm_rescale"},
    ],
    ids=["relu", "jumprelu", "topk", "layer_norm", "constant_norm_rescale"],
)
def test_a_response_is_the_mean_change_of_the_features(
    states: np.ndarray, rng: np.random.Generator, settings: dict
):
    shifts = rng.normal(size=(3, WIDTH))
    sae = made(**settings)
    expected = [(sae.encode(states + shift) - sae.encode(states)).mean(axis=0) for shift in shifts]
    np.testing.assert_allclose(sae.responses(states, shifts), expected, atol=1e-12)


def test_layer_norm_sees_neither_mean_nor_length(states: np.ndarray):
    sae = made(scaling="layer_norm")
    np.testing.assert_allclose(sae.encode(3 * states + 2), sae.encode(states), atol=1e-3)


def test_constant_norm_scales_every_state_to_the_root_of_its_width():
    sae = made(scaling="constant_norm_rescale", activation="identity")
    np.testing.assert_allclose(sae.encode([[8.0, 0, 0, 0]]), before(np.array([[2.0, 0, 0, 0]])))


def test_feature_directions_have_length_one():
    rows = tensors()["W_dec"].numpy()
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(made().feature_directions(), expected)


def test_without_a_decoder_there_are_no_directions():
    with pytest.raises(UserError, match="has no decoder"):
        made(w_dec=None).feature_directions()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"b_enc": torch.zeros(5)}, r"b_enc must have the shape \(6,\), got \(5,\)"),
        ({"w_dec": torch.zeros(4, 6)}, r"w_dec must have the shape \(6, 4\), got \(4, 6\)"),
        ({"activation": "jumprelu"}, "a jumprelu needs a threshold"),
        ({"activation": "topk"}, "k must be at least 1, got 0"),
        ({"activation": "gelu"}, "activation must be one of .*, got 'gelu'"),
        ({"scaling": "half"}, "scaling must be one of .*, got 'half'"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict, line: str):
    with pytest.raises(UserError, match=line):
        made(**settings)


# files


def test_a_standard_sae_lens_folder_of_version_3(tmp_path: Path, states: np.ndarray):
    folder = lens_folder(tmp_path / "sae", tensors(), architecture="standard",
                         activation_fn_str="relu", activation_fn_kwargs={}, hook_layer=8,
                         hook_name="blocks.8.hook_resid_pre", apply_b_dec_to_input=True,
                         normalize_activations="none")  # fmt: skip
    sae = load_sae(folder)
    np.testing.assert_allclose(sae.encode(states), np.maximum(before(states), 0), atol=1e-12)
    assert sae.layer == 8


def test_a_jumprelu_sae_lens_folder_of_version_6(tmp_path: Path, states: np.ndarray):
    folder = lens_folder(tmp_path / "sae", tensors(threshold=torch.full((FEATURES,), 0.7).double()),
                         architecture="jumprelu", apply_b_dec_to_input=False,
                         metadata={"hook_name": "blocks.2.hook_resid_post"})  # fmt: skip
    sae, x = load_sae(folder), before(states, with_bias=False)
    np.testing.assert_allclose(sae.encode(states), np.where(x > 0.7, x, 0), atol=1e-12)
    assert sae.layer == 3


@pytest.mark.parametrize(
    "config",
    [{"architecture": "topk", "k": 2},
     {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}}],
)  # fmt: skip
def test_a_topk_folder_in_both_spellings(tmp_path: Path, states: np.ndarray, config: dict):
    sae = load_sae(lens_folder(tmp_path / "sae", tensors(), **config))
    np.testing.assert_allclose(sae.encode(states), made(activation="topk", k=2).encode(states))
    assert sae.layer is None


def test_features_scaled_by_the_decoders_norms(tmp_path: Path, states: np.ndarray):
    config = {"architecture": "topk", "k": FEATURES, "rescale_acts_by_decoder_norm": True}
    norms = tensors()["W_dec"].norm(dim=1).numpy()
    found = load_sae(lens_folder(tmp_path / "sae", tensors(), **config)).encode(states)
    np.testing.assert_allclose(found, np.maximum(before(states) * norms, 0), atol=1e-12)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"architecture": "gated"}, "must be a standard, jumprelu or topk one, got 'gated'"),
        ({"activation_fn_str": "tanh-relu"}, "got 'standard' with 'tanh-relu'"),
        ({"normalize_activations": "expected_average_only_in"}, "fold it into the weights"),
        ({"normalize_activations": "other"}, "scaling must be one of .*, got 'other'"),
        ({"hook_name": "blocks.3.hook_mlp_out"}, "residual stream, got the hook 'blocks.3.hook_m"),
    ],
)
def test_folders_of_other_kinds_are_refused(tmp_path: Path, config: dict, line: str):
    with pytest.raises(UserError, match=line):
        load_sae(lens_folder(tmp_path / "sae", tensors(), **config))


def test_a_plain_file_either_way_round(tmp_path: Path, states: np.ndarray):
    turned = {**tensors(), "W_enc": tensors()["W_enc"].T.contiguous(),
              "W_dec": tensors()["W_dec"].T.contiguous()}  # fmt: skip
    save_file(tensors(), tmp_path / "one.safetensors")
    save_file(turned, tmp_path / "other.safetensors")
    one, other = load_sae(tmp_path / "one.safetensors"), load_sae(tmp_path / "other.safetensors")
    np.testing.assert_allclose(one.encode(states), np.maximum(before(states), 0), atol=1e-12)
    np.testing.assert_array_equal(one.encode(states), other.encode(states))
    np.testing.assert_array_equal(one.feature_directions(), other.feature_directions())


def test_a_plain_file_with_a_threshold_is_a_jumprelu_and_needs_no_decoder(tmp_path: Path):
    own = {name: tensor for name, tensor in tensors().items() if name in ("W_enc", "b_enc")}
    save_file({**own, "threshold": torch.ones(FEATURES).double()}, tmp_path / "sae.safetensors")
    sae = load_sae(tmp_path / "sae.safetensors")
    assert (sae.activation, sae.w_dec, sae.layer) == ("jumprelu", None, None)
    assert not sae.b_dec.any()


def test_a_plain_file_may_say_more_in_its_header(tmp_path: Path):
    file = tmp_path / "sae.safetensors"
    save_tensors(file, tensors(), {"activation": "topk", "k": 3, "layer": 5})
    sae = load_sae(file)
    assert (sae.activation, sae.k, sae.layer) == ("topk", 3, 5)


def test_half_precision_weights_become_single(tmp_path: Path):
    halves = {name: tensor.bfloat16() for name, tensor in tensors().items()}
    save_file(halves, tmp_path / "sae.safetensors")
    assert load_sae(tmp_path / "sae.safetensors").w_enc.dtype == torch.float32


def test_broken_files_are_told_in_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_sae(tmp_path / "nothing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_sae(tmp_path / "broken.safetensors")
    save_file({"b_enc": torch.zeros(2)}, tmp_path / "half.safetensors")
    with pytest.raises(UserError, match="'W_enc' is missing; it holds b_enc"):
        load_sae(tmp_path / "half.safetensors")
    folder = lens_folder(tmp_path / "sae", tensors())
    (folder / "cfg.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load_sae(folder)
