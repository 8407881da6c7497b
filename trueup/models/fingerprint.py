"""What a cached number depends on: weights, adapter, configuration, tokenizer, chat template."""

import hashlib
import json
from typing import Any

import torch

from trueup.models.residual_stream import edits_of


class Fingerprint:
    """The content hash of a model and its tokenizer, computed again only after a weight changed.

    While activations are edited (`residual_stream.edited`) it is another one.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._state: tuple[Any, ...] = ()
        self._weights = ""

    def value(self) -> str:
        """SHA-256 in hex."""
        state = tuple(
            (name, weight.data_ptr(), weight._version)
            for name, weight in self._model.state_dict(keep_vars=True).items()
        )
        if state != self._state:
            self._weights = _weights_hash(self._model)
            self._state = state
        parts = [self._weights, _settings(self._model), _tokenizer(self._tokenizer)]
        return hashlib.sha256(":".join([*parts, *edits_of(self._model)]).encode()).hexdigest()


def _weights_hash(model: Any) -> str:
    """SHA-256 over every tensor's name, type, shape and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}:{weight.dtype}:{tuple(weight.shape)}:".encode())
        flat = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def _settings(model: Any) -> str:
    """The configuration without what names a place or a version; the active adapters."""
    settings = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "_attn_implementation_autoset", "dtype"):
        settings.pop(name, None)
    adapters = (
        [str(name) for name in getattr(model, "active_adapters", None) or []]
        if hasattr(model, "peft_config")
        else []
    )
    return json.dumps([settings, adapters], sort_keys=True, default=str)


def _tokenizer(tokenizer: Any) -> str:
    """The vocabulary, its rules, the special tokens and the chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = sorted(tokenizer.get_vocab().items())
    if backend is not None:
        rules = json.loads(backend.to_str())
        for passing in ("padding", "truncation"):  # of the last call, no part of the tokenizer
            rules.pop(passing, None)
    template = getattr(tokenizer, "chat_template", None)
    return json.dumps([rules, tokenizer.special_tokens_map, template], sort_keys=True, default=str)
