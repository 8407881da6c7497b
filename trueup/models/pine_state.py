"""Decoding from a model that reads documents as a set: they first, then what follows them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from trueup.errors import UserError
from trueup.models import architecture
from trueup.models.decoding_state import DecodingState
from trueup.models.growing_cache import GrowingCache
from trueup.models.pine_attention import (
    Context,
    context_attention,
    read_context,
    suffix_attention,
)
from trueup.models.pine_grid import Grid, Order, Rotation
from trueup.models.work import Work

ATTENTION = "trueup_pine"  # the name in transformers' registry of attention functions
GROWING = ("dynamic", "longrope")  # rotary positions whose frequencies depend on the length
ADVICE = "take one of the Llama, Qwen, Mistral or GPT-NeoX families"
PROBED = (0, 1, 2, 7)  # positions at which one token is looked at

Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]  # layer, q, k, v, scale


@dataclass(frozen=True)
class SegmentIds:
    """A prompt with its documents as token ids; suffix and documents hold one token at least."""

    prefix: tuple[int, ...]
    docs: tuple[tuple[int, ...], ...]
    suffix: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prefix) + sum(map(len, self.docs)) + len(self.suffix)

    def canonical(self) -> "SegmentIds":
        """The same with the documents in the order of their tokens: equal for every order given."""
        return SegmentIds(self.prefix, tuple(sorted(self.docs)), self.suffix)


class PineState(DecodingState):
    """Rows that read their documents as a set; advanced, forked and rolled back as any state.

    Prompts that share prefix and documents share that part of the prefill, whatever their suffix.
    Documents stay in the order given: ties between them go by it, and sums are in it, so whoever
    wants results equal to the last bit gives `SegmentIds.canonical`.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[SegmentIds],
        *,
        rotation: Rotation,
        order: Order = "importance",
        pad_id: int,
        work: Work,
    ) -> None:
        # All that DecodingState sets; its own prefill would read a flat row.
        self._model = model
        self._work = work
        self._head = architecture.causal_model(model).get_output_embeddings()
        self._cache = GrowingCache()  # of what follows the documents
        self._device = next(model.parameters()).device
        self._logprobs: Tensor | None = None
        self._contexts: dict[int, Context] = {}  # by layer
        contexts = list(dict.fromkeys((each.prefix, each.docs) for each in prompts))
        places = {context: place for place, context in enumerate(contexts)}
        self._grid = self._read_contexts(contexts, rotation, order, pad_id)
        shared = [places[each.prefix, each.docs] for each in prompts]
        self._select_documents(torch.tensor(shared, device=self._device))
        self._read_suffixes([each.suffix for each in prompts], pad_id)

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Keep these rows, in this order; naming a row twice forks it."""
        super().select(rows)
        self._select_documents(torch.as_tensor(rows, device=self._device))

    def _read_contexts(
        self,
        contexts: Sequence[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]],
        rotation: Rotation,
        order: Order,
        pad_id: int,
    ) -> Grid:
        """One pass over prefixes and documents, each context once; where they stand."""
        count = max(len(docs) for _, docs in contexts)
        blocks = [(prefix, *docs, *[()] * (count - len(docs))) for prefix, docs in contexts]
        lengths = torch.tensor([[len(part) for part in each] for each in blocks])
        widths = [int(lengths[:, 0].max())] + [int(lengths[:, 1:].max())] * count
        rows = [
            [pad_id] * (width - len(part)) + list(part)
            for each in blocks
            for part, width in zip(each, widths, strict=True)
        ]
        ids = torch.tensor([token for row in rows for token in row], dtype=torch.long)
        lengths = lengths.to(self._device)
        grid = Grid(
            prefix_lengths=lengths[:, 0],
            doc_lengths=lengths[:, 1:],
            prefix_width=widths[0],
            doc_width=widths[-1],
            rotation=rotation,
            order=order,
        )
        positions = torch.cat([grid.prefix_positions, grid.doc_positions.flatten(1)], dim=1)
        input_ids = ids.reshape(len(blocks), -1).to(self._device)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            self._contexts[layer] = read_context(k, v, grid)
            return context_attention(q, self._contexts[layer], grid, scale)

        inputs = {"input_ids": input_ids, "position_ids": positions.clamp_min(0)}
        self._pass({**inputs, "use_cache": False}, attend, real=int(lengths.sum()))
        return grid

    def _select_documents(self, rows: Tensor) -> None:
        """Keep what these rows know of their documents."""
        self._grid = self._grid.selected(rows)
        self._contexts = {layer: each.selected(rows) for layer, each in self._contexts.items()}

    def _read_suffixes(self, suffixes: Sequence[Sequence[int]], pad_id: int) -> None:
        """One pass over the suffixes, padded on the left."""
        width = max(map(len, suffixes))
        ids = [[pad_id] * (width - len(each)) + list(each) for each in suffixes]
        lengths = torch.tensor([len(each) for each in suffixes], device=self._device)
        steps = torch.arange(width, device=self._device) - (width - lengths[:, None])
        self._mask = (steps >= 0).long()  # [R, S], of the suffix and what is generated
        self._history: list[Tensor] = []
        ends = self._grid.prefix_lengths + self._grid.doc_lengths.sum(1)
        positions = ends[:, None] + steps
        self.lengths = ends + lengths
        self._read(torch.tensor(ids, device=self._device), positions, real=int(lengths.sum()))

    def _run(self, input_ids: Tensor, positions: Tensor) -> None:
        """One pass over a new token per row, as `DecodingState.advance` asks for it."""
        self._read(input_ids, positions, real=self.rows)

    def _read(self, input_ids: Tensor, positions: Tensor, *, real: int) -> None:
        """One pass over tokens behind the documents; keeps the state that predicts the next."""
        mask = self._mask.bool()

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            context = self._contexts[layer]
            return suffix_attention(
                q, k, v, context, self._grid, scale, positions=positions, mask=mask
            )

        inputs = {"input_ids": input_ids, "position_ids": positions}
        cache = {"past_key_values": self._cache, "use_cache": True}
        self._history.append(self._pass({**inputs, **cache}, attend, real=real)[:, -1])
        self._logprobs = None

    @torch.no_grad()
    def _pass(self, inputs: dict[str, Any], attend: Attend, *, real: int) -> Tensor:
        """The trunk's last hidden states, [R, Q, D]."""
        with _attending(self._model):
            output = architecture.run_trunk(self._model, {**inputs, "pine": attend})
        self._work.add(trunk_tokens=real, padding_tokens=inputs["input_ids"].numel() - real)
        states: Tensor = output.last_hidden_state
        return states


@torch.no_grad()
def find_rotation(model: Any) -> Rotation:
    """How the model turns queries and keys, tried on one token at a few positions.

    Every layer's query at position a must be the one at 0 turned by a. So it is where positions
    enter by rotation in halves, with the same frequencies in all layers, and not else.
    Raises: UserError where it is not so.
    """
    kind = type(architecture.causal_model(model)).__name__
    rotary: Any = getattr(architecture.trunk_of(model), "rotary_emb", None)
    if not isinstance(getattr(rotary, "inv_freq", None), Tensor):
        raise UserError(
            f"pine needs a model with rotary positions that its layers share, got {kind}; {ADVICE}"
        )
    growing = str(getattr(rotary, "rope_type", "default"))
    if growing in GROWING:
        raise UserError(
            f"pine needs rotary positions that do not depend on the length, got {growing!r} in "
            f"{kind}; set another rope_type"
        )
    rotation = Rotation(rotary.inv_freq, float(getattr(rotary, "attention_scaling", 1.0)))
    seen: list[tuple[Tensor, Tensor]] = []
    _probe(model, seen)
    positions = torch.tensor(PROBED, device=rotary.inv_freq.device)
    if not seen or not all(_turns(each, rotation, positions) for pair in seen for each in pair):
        raise UserError(
            f"pine needs rotary positions that all layers turn alike, in halves; {kind} turns "
            f"them otherwise; {ADVICE}"
        )
    return rotation


def _probe(model: Any, seen: list[tuple[Tensor, Tensor]]) -> None:
    """Note every layer's queries and keys of one token, which stands at several positions."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        seen.append((q, k))
        return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)  # all values are alike

    device = next(model.parameters()).device
    embedded = architecture.causal_model(model).get_input_embeddings().weight[:256]
    token = int(embedded.float().norm(dim=1).argmax())  # a padding token's may be nothing
    inputs = {
        "input_ids": torch.full((1, len(PROBED)), token, device=device),
        "position_ids": torch.tensor([PROBED], device=device),
        "use_cache": False,
        "pine": attend,
    }
    with _attending(model):
        architecture.run_trunk(model, inputs)


def _turns(vectors: Tensor, rotation: Rotation, positions: Tensor) -> bool:
    """Whether the vectors [1, H, positions, d] are the first one, turned on."""
    expected = rotation.turned(vectors[:, :, :1], positions)
    tolerance = 1e-3 if vectors.dtype in (torch.float32, torch.float64) else 0.05
    return bool((vectors - expected).abs().max() <= tolerance * vectors.abs().max())


@contextmanager
def _attending(model: Any) -> Iterator[None]:
    """The model's attention is ours inside the block, and what it was behind it."""
    config = architecture.causal_model(model).config
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer; `pine` among the options says how to attend.

    Raises: UserError where the architecture passes no options on, or adds to the scores what pine
            does not know.
    """
    if "pine" not in options:
        raise UserError(f"pine cannot reach the attention of {type(module).__name__}; {ADVICE}")
    for name in ("softcap", "s_aux"):
        if options.get(name) is not None:
            raise UserError(f"pine knows no attention with {name}, got {type(module).__name__}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed: Tensor = options["pine"](module.layer_idx, query, key, value, scale)
    return mixed.transpose(1, 2).contiguous(), None


transformers.AttentionInterface.register(ATTENTION, _attention)
