"""What differs between transformers' architectures, in one place: trunk, head, masks, positions."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

Model = Any  # transformers and peft are untyped


def causal_model(model: Model) -> Model:
    """The transformers model inside a peft wrapper (its adapters are layers of it), or itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def trunk_of(model: Model) -> Model:
    """The transformer without its output head."""
    inner = causal_model(model)
    return inner.base_model if hasattr(inner, "base_model") else inner


def run_trunk(model: Model, inputs: dict[str, Any]) -> Any:
    """One pass through the trunk; positions are left out where the architecture takes none."""
    trunk = trunk_of(model)
    if "position_ids" not in inspect.signature(trunk.forward).parameters:
        inputs = {name: value for name, value in inputs.items() if name != "position_ids"}
    return trunk(**inputs)


def plain_head(model: Model) -> nn.Linear | None:
    """The output head where it is one bias-free matrix; None where it is anything else."""
    head = causal_model(model).get_output_embeddings()
    is_plain = type(head) is nn.Linear and head.bias is None
    return head if is_plain else None


def takes_masks(model: Model) -> bool:
    """Whether attention reads a custom 4-D mask and positions can be given."""
    config = causal_model(model).config
    known = inspect.signature(trunk_of(model).forward).parameters
    return config._attn_implementation in ("sdpa", "eager") and "position_ids" in known


def attention_mask(allowed: Tensor, model: Model, dtype: torch.dtype) -> Tensor:
    """`allowed` [R, L, L] as the model's attention wants it: bool for sdpa, additive for eager."""
    allowed = allowed[:, None]
    if causal_model(model).config._attn_implementation == "sdpa":
        return allowed
    bias = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return bias.masked_fill_(~allowed, torch.finfo(dtype).min)


def sliding_window(model: Model) -> int | None:
    """The number of tokens a layer looks back, where any layer is limited."""
    config = causal_model(model).config
    if getattr(config, "use_sliding_window", True) is False:
        return None
    return getattr(config, "sliding_window", None)


def shortest_window(model: Model) -> int | None:
    """The shortest window where some layers are limited and others are not, else None."""
    kinds = set(getattr(causal_model(model).config, "layer_types", None) or ())
    return sliding_window(model) if len(kinds) > 1 else None


def dtype_of(model: Model) -> torch.dtype:
    """The type of the weights."""
    dtype: torch.dtype = next(trunk_of(model).parameters()).dtype
    return dtype


def trunk_size(model: Model) -> int:
    """The number of weights that every token goes through, embeddings left out."""
    embeddings: Tensor = causal_model(model).get_input_embeddings().weight
    weights = sum(int(weight.numel()) for weight in trunk_of(model).parameters())
    return max(1, weights - int(embeddings.numel()))


def context_length(model: Model, tokenizer: Any) -> int:
    """The number of tokens that one sequence may have."""
    config = causal_model(model).config
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    limits.append(tokenizer.model_max_length)
    return min((limit for limit in limits if limit), default=1 << 30)
