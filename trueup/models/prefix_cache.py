"""One beginning that many prompts share, read once and kept: each request reads only its rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from trueup.models import architecture
from trueup.models.decoding_state import DecodingState
from trueup.models.encoding import Prompt
from trueup.models.growing_cache import GrowingCache
from trueup.models.language_model import LanguageModel
from trueup.models.prefix_tree import common_length
from trueup.models.residual_stream import edits_of
from trueup.models.work import Work


@dataclass(frozen=True)
class CachedPrefix:
    """The keys and values of every layer, [1, heads, P, D] each, of the tokens `ids` [P].

    It is only ever read: a state that starts from it takes copies.
    """

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]

    @classmethod
    @torch.no_grad()
    def read(cls, model: Any, ids: Sequence[int], work: Work) -> "CachedPrefix":
        """One pass over the tokens."""
        device = next(model.parameters()).device
        cache = transformers.DynamicCache()
        inputs = {"input_ids": torch.tensor([list(ids)], device=device)}
        architecture.run_trunk(model, {**inputs, "past_key_values": cache, "use_cache": True})
        work.add(trunk_tokens=len(ids))
        return cls(list(ids), [(keys, values) for keys, values, _ in cache])

    def shared(self, prompts: Sequence[Sequence[int]]) -> int:
        """How many tokens all prompts begin with; the last token of a prompt is never among them.

        Prompts are compared as tokens, so a merge across the prefix's end only shortens what is
        shared, and the result is that of a whole pass.
        """
        return min(min(common_length(self.ids, row), len(row) - 1) for row in prompts)

    def copied(self, rows: int, length: int) -> GrowingCache:
        """A cache of the first `length` tokens for so many rows."""
        return GrowingCache(
            (
                keys[:, :, :length].expand(rows, -1, -1, -1),
                values[:, :, :length].expand(rows, -1, -1, -1),
            )
            for keys, values in self.layers
        )


class PrefixedState(DecodingState):
    """A decoding state whose rows begin with the first `length` tokens of a cached prefix.

    A row is the prefix, padding where its rest is shorter than the longest, then its rest; the
    padding is masked and positions count real tokens, so nothing differs from a whole pass.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        prefix: CachedPrefix,
        length: int,
        *,
        pad_id: int,
        work: Work,
    ):
        rests = [list(prompt[length:]) for prompt in prompts]
        width = max(map(len, rests))
        device = next(model.parameters()).device
        self._model = model
        self._work = work
        self._head = architecture.causal_model(model).get_output_embeddings()
        self._cache = prefix.copied(len(prompts), length)
        self._history = []
        self._logprobs = None
        self.lengths = torch.tensor([len(rest) for rest in rests], device=device)  # what is read
        own = torch.arange(width, device=device)[None, :] >= width - self.lengths[:, None]
        self._mask = torch.cat([own.new_ones(len(rests), length), own], dim=1).long()
        self._is_padded = bool((self._mask == 0).any())
        positions = (self._mask.cumsum(1) - 1)[:, length:]
        padded = [[pad_id] * (width - len(rest)) + rest for rest in rests]
        self._run(torch.tensor(padded, device=device), positions)
        self.lengths = self.lengths + length


class PrefixedModel(LanguageModel):
    """A model that keeps the beginning of its prompts; all else is the model's own.

    Its weights, its tokenizer and its counters are those of the model it is made of. The prefix is
    read by the first request, and again after the weights were changed in place, or an edit of
    activations (`residual_stream.edited`) came or went.
    Edges:  prompts that begin otherwise are read whole, and so are prompts of unequal length where
            the model looks back by a window, which the padding would shift.
    Use:    with hooks of other makers, inside their block: they leave weights as they are, and a
            prefix that was read before them is another one.
    """

    def __init__(self, lm: LanguageModel, prefix: Prompt) -> None:
        super().__init__(lm.model, lm.tokenizer, name=lm.name)
        self.work = lm.work
        self.encoder = lm.encoder
        self._ids = lm.encoder.prompt(prefix)
        self._prefix: CachedPrefix | None = None
        self._read_under: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"{super().__repr__()} with {len(self._ids)} tokens kept"

    def start_ids(self, prompts: Sequence[Sequence[int]]) -> DecodingState:
        """Read what is new of the prompts and stand ready to decode, a row each."""
        self.model.eval()
        length = self._cached().shared(prompts)
        is_padded = len({len(prompt) for prompt in prompts}) > 1
        is_shifted = is_padded and architecture.sliding_window(self.model) is not None
        if length < 1 or is_shifted:
            return super().start_ids(prompts)
        return PrefixedState(
            self.model, prompts, self._cached(), length, pad_id=self.pad_id, work=self.work
        )

    def _cached(self) -> CachedPrefix:
        """The prefix under the weights and edits as they are now."""
        weights = ((part.data_ptr(), part._version) for part in self.model.parameters())
        now = (*weights, *edits_of(self.model))
        if self._prefix is None or now != self._read_under:
            self._prefix = CachedPrefix.read(self.model, self._ids, self.work)
            self._read_under = now
        return self._prefix
