"""A key-value cache with room to grow: a new token is written, and the old ones are not moved."""

from collections.abc import Iterable
from typing import Any, Self

import transformers
from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens that fit behind the last one when a layer's memory is taken anew


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """The keys and values [R, H, L, D] of one layer, views of memory with some room behind them.

    New tokens go into that room where the views are still those of the last update; whoever sets
    other tensors, or crops, has the layer take new memory next time. A copy of a layer shares what
    is there and grows apart.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory: tuple[Tensor, Tensor] | None = None
        self._view: Tensor | None = None

    @classmethod
    def holding(cls, keys: Tensor, values: Tensor) -> Self:
        """A layer that holds these tensors, which it only reads."""
        layer = cls()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        return layer

    def __copy__(self) -> Self:
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__)
        twin._memory = twin._view = None
        return twin

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append tokens, [R, H, new, D] each; all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        memory = self._memory
        if memory is None or self.keys is not self._view or end > memory[0].shape[-2]:
            memory = (
                _roomy(self.keys, key_states, start),
                _roomy(self.values, value_states, start),
            )
        keys, values = memory
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self._memory = memory
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        self._view = self.keys
        return self.keys, self.values


class GrowingCache(transformers.DynamicCache):
    """Layers that grow in place, empty or with what is given as keys and values per layer."""

    def __init__(self, filled: Iterable[tuple[Tensor, Tensor]] = ()) -> None:
        super().__init__()
        self.layer_class_to_replicate = GrowingLayer
        self.layers = [GrowingLayer.holding(keys, values) for keys, values in filled]


def _roomy(old: Tensor | None, new: Tensor, length: int) -> Tensor:
    """Memory for the old tokens, the new ones, and some more."""
    shape = [*new.shape[:-2], length + new.shape[-2] + ROOM, new.shape[-1]]
    memory = new.new_empty(shape)
    if length and old is not None:
        memory[..., :length, :] = old
    return memory
