"""A decoding state whose rows come and go between steps, each with a length of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from trueup.models.decoding_state import DecodingState


class BatchState(DecodingState):
    """Rows that other rows may join, and that leave when they have ended.

    BatchState.of(state)  the rows of a state, however it was started
    state.join(other)     the rows of another state behind these, caches padded left to one length
    state.select(rows)    keep these rows; columns in which no row has a token are cut off

    Edges:  no token goes through the model for either; a row's log-probabilities are those that it
            has alone. Only the newest hidden state is kept, so there is no rollback.
    """

    @classmethod
    def of(cls, state: DecodingState) -> "BatchState":
        """The rows of a state, which must not be used any more, as one that others may join."""
        taken = cls.__new__(cls)
        vars(taken).update(vars(state))
        del taken._history[:-1]
        return taken

    def join(self, other: DecodingState) -> None:
        """Take over the rows of `other`, which must not be used any more."""
        logprobs = torch.cat([self.logprobs, other.logprobs])
        width = max(self._mask.shape[1], other._mask.shape[1])
        for ours, theirs in zip(_layers(self), _layers(other), strict=True):
            ours.keys = torch.cat([_widened(ours.keys, width), _widened(theirs.keys, width)])
            ours.values = torch.cat([_widened(ours.values, width), _widened(theirs.values, width)])
        masks = [pad(mask, (width - mask.shape[1], 0)) for mask in (self._mask, other._mask)]
        self._mask = torch.cat(masks)
        self.lengths = torch.cat([self.lengths, other.lengths])
        self._history = [torch.cat([self._history[-1], other._history[-1]])]
        self._logprobs = logprobs
        self._is_padded = bool(self.lengths.min() < width)

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Keep these rows, in this order; naming a row twice forks it."""
        super().select(rows)
        spare = int(self._mask.any(dim=0).int().argmax())  # columns before the first token of all
        if spare:
            for layer in _layers(self):
                layer.keys = layer.keys[..., spare:, :]
                layer.values = layer.values[..., spare:, :]
            self._mask = self._mask[:, spare:]
        self._is_padded = bool(self.lengths.min() < self._mask.shape[1])

    def advance(self, tokens: Tensor | Sequence[int]) -> None:
        """Append one token to each row, [R]."""
        super().advance(tokens)
        del self._history[:-1]


def _layers(state: DecodingState) -> list[Any]:
    """The layers of the cache, which hold keys and values [R, H, L, D]."""
    return list(state._cache.layers)


def _widened(cached: Tensor, width: int) -> Tensor:
    """Keys or values [R, H, L, D] with empty places before the first, [R, H, width, D]."""
    return pad(cached, (0, 0, width - cached.shape[-2], 0))
