"""Sparse autoencoders: the features that a layer's states switch on, and how a shift moves them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import safetensors
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from trueup.errors import UserError, check_at_least, check_choice
from trueup.models.tensors import read_tensors

Array = NDArray[np.float64]
Activation = Literal["relu", "jumprelu", "topk", "identity"]
Scaling = Literal["none", "layer_norm", "constant_norm_rescale"]

ACTIVATIONS = ("relu", "jumprelu", "topk", "identity")
SCALINGS = ("none", "layer_norm", "constant_norm_rescale")
WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"  # the names in a sae-lens folder

_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
_LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseAutoencoder:
    """An encoder from states to features, and where it is known the decoder.

    enc(h) = act((scale(h) - b_dec) W_enc + b_enc)
    act:   relu max(0, x); jumprelu x where x > max(0, threshold), else 0; topk keeps the k largest
           and of these what is above 0; identity x, a linear map
    scale: none; layer_norm (h - mean) / (sd + 1e-5); constant_norm_rescale h sqrt(D) / ||h||
    Shapes: w_enc [D, K], b_enc [K], b_dec [D] (zeros where it is not taken off), threshold [K],
            w_dec [K, D].
    Fields: layer is where its states lie, as `Activations` counts; None where that is unknown.
    Raises: UserError where shapes do not fit, or the activation's own tensor or number is missing.
    """

    w_enc: Tensor
    b_enc: Tensor
    b_dec: Tensor
    activation: Activation = "relu"
    threshold: Tensor | None = None
    k: int = 0
    w_dec: Tensor | None = None
    scaling: Scaling = "none"
    layer: int | None = None
    name: str = "sparse autoencoder"

    def __post_init__(self) -> None:
        check_choice(ACTIVATIONS, activation=self.activation)
        check_choice(SCALINGS, scaling=self.scaling)
        width, features = self.w_enc.shape
        wanted = {"b_enc": (features,), "b_dec": (width,), "w_dec": (features, width)}
        for name, shape in {**wanted, "threshold": (features,)}.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise UserError(
                    f"{self.name}: {name} must have the shape {shape}, got {tuple(tensor.shape)}"
                )
        if self.activation == "jumprelu" and self.threshold is None:
            raise UserError(f"{self.name}: a jumprelu needs a threshold; give the tensor")
        if self.activation == "topk":
            check_at_least(1, k=self.k)

    def encode(self, states: ArrayLike) -> Array:
        """The features [..., K] of states [..., D]."""
        features: Array = self._act(self._before(self._tensor(states))).double().numpy()
        return features

    def responses(self, states: ArrayLike, shifts: ArrayLike) -> Array:
        """How far each shift moves the features on average, [M, K].

        response_m = mean over j of enc(state_j + shift_m) - enc(state_j)
        Shapes: states [J, D], shifts [M, D].
        Work:   without scaling the shift goes through the encoder once, not once per state.
        """
        base, moves = self._tensor(states), self._tensor(shifts)
        before = self._before(base)
        rest = self._act(before).mean(dim=0)
        linear = moves @ self.w_enc
        rows = [
            self._act(before + linear[number] if self.scaling == "none" else
                      self._before(base + moves[number])).mean(dim=0) - rest
            for number in range(len(moves))
        ]  # fmt: skip
        return torch.stack(rows).double().numpy()

    def feature_directions(self) -> Array:
        """Each feature's direction in the decoder at length 1, [K, D]."""
        if self.w_dec is None:
            raise UserError(f"{self.name}: has no decoder; give W_dec, or use another mode")
        directions: Array = torch.nn.functional.normalize(self.w_dec, dim=1).double().numpy()
        return directions

    def _tensor(self, states: ArrayLike) -> Tensor:
        """The states in the weights' own precision."""
        return torch.as_tensor(np.asarray(states)).to(self.w_enc.dtype)

    def _before(self, states: Tensor) -> Tensor:
        """The features before the activation."""
        if self.scaling == "layer_norm":
            states = states - states.mean(dim=-1, keepdim=True)
            states = states / (states.std(dim=-1, keepdim=True) + _LAYER_NORM_EPS)
        if self.scaling == "constant_norm_rescale":
            states = states * states.shape[-1] ** 0.5 / states.norm(dim=-1, keepdim=True)
        return (states - self.b_dec) @ self.w_enc + self.b_enc

    def _act(self, before: Tensor) -> Tensor:
        """The activation."""
        if self.activation == "identity":
            return before
        if self.activation == "topk":
            largest = before.topk(self.k, dim=-1)
            kept = torch.zeros_like(before)
            return kept.scatter_(-1, largest.indices, largest.values.relu())
        if self.activation == "jumprelu":
            return before.relu() * (before > cast(Tensor, self.threshold))
        return before.relu()


def load_sae(path: str | Path) -> SparseAutoencoder:
    """A sparse autoencoder from a sae-lens folder, or from one safetensors file.

    A folder holds cfg.json and sae_weights.safetensors. A file holds W_enc, b_enc, perhaps b_dec,
    W_dec and threshold (which makes it a jumprelu), W_enc and W_dec either way
    round (square ones as in sae-lens, D x K and K x D); written by
    `trueup.models.tensors.save_tensors` it may name activation, k, scaling and layer as metadata.
    Raises: UserError where the files cannot be read, or hold a kind that is not known here.
    Source: the file format of sae-lens 3 to 6 (read, not imported).
    """
    place = Path(path)
    if place.is_dir():
        tensors, _ = _tensors(place / WEIGHTS)
        settings = _settings(place / CONFIG, tensors)
    else:
        tensors, settings = _tensors(place)
    return _built(place, tensors, settings)


def _built(
    place: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> SparseAutoencoder:
    """The autoencoder of tensors by the names that files give them."""
    missing = [name for name in ("W_enc", "b_enc") if name not in tensors]
    if missing:
        raise UserError(f"{place}: {missing[0]!r} is missing; it holds {', '.join(tensors)}")
    features, w_dec = len(tensors["b_enc"]), tensors.get("W_dec")
    w_enc = tensors["W_enc"] if tensors["W_enc"].shape[1] == features else tensors["W_enc"].T
    if w_dec is not None and w_dec.shape[0] != features:
        w_dec = w_dec.T
    threshold = tensors.get("threshold")
    takes_bias = settings.get("takes_bias", True) and "b_dec" in tensors
    return SparseAutoencoder(
        w_enc=w_enc.contiguous(),
        b_enc=tensors["b_enc"],
        b_dec=tensors["b_dec"] if takes_bias else torch.zeros(w_enc.shape[0], dtype=w_enc.dtype),
        activation=settings.get("activation", "relu" if threshold is None else "jumprelu"),
        threshold=threshold,
        k=int(settings.get("k", 0)),
        w_dec=w_dec,
        scaling=settings.get("scaling", "none"),
        layer=settings.get("layer"),
        name=str(place),
    )


def _tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The file's tensors, half precision made single, and our own metadata."""
    try:
        tensors, metadata = read_tensors(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file}: cannot be read as safetensors ({error})") from error
    half = (torch.float16, torch.bfloat16)
    return {
        name: tensor.float() if tensor.dtype in half else tensor for name, tensor in tensors.items()
    }, metadata


def _settings(file: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What a sae-lens cfg.json says, in our words; a decoder's norm is folded into the encoder."""
    try:
        config = cast(dict[str, Any], json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error})") from error
    scaling = config.get("normalize_activations", "none")
    if scaling == "expected_average_only_in":
        raise UserError(
            f"{file}: normalize_activations is {scaling!r}, whose factor is not in the file; fold "
            "it into the weights (fold_activation_norm_scaling_factor in sae-lens) and save again"
        )
    if config.get("rescale_acts_by_decoder_norm"):
        norms = tensors["W_dec"].norm(dim=1)
        tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * norms, tensors["b_enc"] * norms
    activation, k = _activation(file, config)
    return {
        "activation": activation,
        "k": k,
        "scaling": scaling,
        "takes_bias": bool(config.get("apply_b_dec_to_input", True)),
        "layer": _layer(file, config),
    }


def _activation(file: Path, config: Mapping[str, Any]) -> tuple[str, int]:
    """The activation and its k."""
    kind = config.get("architecture", "standard")
    function = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    k = config.get("k", (config.get("activation_fn_kwargs") or {}).get("k", 0))
    if kind == "topk" or (kind == "standard" and function == "topk"):
        return "topk", int(k)
    if kind not in ("standard", "jumprelu") or function != "relu":
        raise UserError(
            f"{file}: must be a standard, jumprelu or topk one, got {kind!r} with {function!r}"
        )
    return ("jumprelu" if kind == "jumprelu" else "relu"), 0


def _layer(file: Path, config: Mapping[str, Any]) -> int | None:
    """The layer, counted as hidden states are; None where the file does not name its hook.

    Raises: UserError where it reads something else than the residual stream.
    """
    told = config.get("metadata") or config.get("meta") or config
    hook = told.get("hook_name") or told.get("hook_point")
    if hook is None:
        return None
    found = _HOOK.fullmatch(str(hook))
    if found is None:
        raise UserError(f"{file}: must read a block's residual stream, got the hook {hook!r}")
    return int(found[1]) + (found[2] == "post")
