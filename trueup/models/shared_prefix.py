"""Shared-prefix scoring: one prompt and its completions in one row, each prompt token once.

A row holds the prompt and then every completion without its last token (nothing is predicted from
it). The completions see the prompt and themselves, not one another, and their positions restart
after the prompt. The head runs once per position that predicts something: the prompt's last token
(shared by all completions) and every completion token in the row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from trueup.models import architecture
from trueup.models.selected_logps import selected_logps
from trueup.models.work import Work

PASS_COST = 7e9  # multiplications that one more forward pass is worth, measured on two CPU cores


@dataclass(frozen=True)
class Group:
    """One prompt and its completions as token ids, at least one token each."""

    prompt: list[int]
    completions: list[list[int]]


@dataclass(frozen=True)
class Packed:
    """The tensors of one forward pass over several groups.

    Shapes: input_ids, position_ids, segments [R, L]; segments are 0 for the prompt, 1.. for the
            completions, -1 for padding. head_rows, head_columns [S] are the positions that go
            through the head; source, target, completion, offset [N] say, for every scored token,
            the head row that predicts it, its id, its completion (in the order of the groups) and
            its place in that completion. lengths [C].
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: Tensor
    head_rows: Tensor
    head_columns: Tensor
    source: Tensor
    target: Tensor
    completion: Tensor
    offset: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str) -> "Packed":
        """The same tensors on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})

    def count(self, work: Work) -> None:
        """Add this pass to the counters."""
        padding = int((self.segments < 0).sum())
        work.add(
            trunk_tokens=self.segments.numel() - padding,
            head_rows=len(self.head_rows),
            padding_tokens=padding,
        )


def row_length(group: Group) -> int:
    """The tokens that a group puts into its row."""
    return len(group.prompt) + sum(len(completion) - 1 for completion in group.completions)


def separated(groups: Sequence[Group]) -> list[Group]:
    """A group per completion, for models that cannot share a prompt."""
    return [
        Group(group.prompt, [completion]) for group in groups for completion in group.completions
    ]


def pack(groups: Sequence[Group], *, pad_id: int = 0) -> Packed:
    """Lay the groups out, a row each, padded on the right."""
    width = max(map(row_length, groups))
    shape = (len(groups), width)
    input_ids = torch.full(shape, pad_id)
    position_ids = torch.zeros(shape, dtype=torch.long)
    segments = torch.full(shape, -1)
    head: list[Tensor] = []  # [n, 2] row and column
    scored: list[Tensor] = []  # [T, 4] source, target, completion, offset
    lengths: list[int] = []
    heads = 0
    for row, group in enumerate(groups):
        start = len(group.prompt)
        input_ids[row, :start] = torch.tensor(group.prompt)
        position_ids[row, :start] = torch.arange(start)
        segments[row, :start] = 0
        first = heads
        head.append(torch.tensor([[row, start - 1]]))
        heads += 1
        end = start
        for number, completion in enumerate(group.completions, start=1):
            tokens, inner = torch.tensor(completion), len(completion) - 1
            place = slice(end, end + inner)
            input_ids[row, place] = tokens[:-1]
            position_ids[row, place] = torch.arange(start, start + inner)
            segments[row, place] = number
            columns = torch.arange(end, end + inner)
            head.append(torch.stack([torch.full_like(columns, row), columns], dim=1))
            sources = torch.cat([torch.tensor([first]), torch.arange(heads, heads + inner)])
            order = torch.full_like(tokens, len(lengths))
            scored.append(torch.stack([sources, tokens, order, torch.arange(inner + 1)], dim=1))
            lengths.append(inner + 1)
            heads += inner
            end += inner
    head_rows, head_columns = torch.cat(head).unbind(1)
    source, target, completion_index, offset = torch.cat(scored).unbind(1)
    return Packed(
        input_ids=input_ids,
        position_ids=position_ids,
        segments=segments,
        head_rows=head_rows,
        head_columns=head_columns,
        source=source,
        target=target,
        completion=completion_index,
        offset=offset,
        lengths=torch.tensor(lengths),
    )


def buckets(
    lengths: Sequence[int], *, token_budget: int, floor: int = 512, waste: float = 0.1
) -> list[list[int]]:
    """Indices of rows that go through the model together, longest first.

    A bucket grows while its padded size stays within `token_budget`; once it holds `floor` tokens
    it takes only rows that are at most the share `waste` shorter than its longest.
    Edges:  a row longer than the budget goes alone.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    result: list[list[int]] = []
    longest = 0
    for index in order:
        filled = longest * len(result[-1]) if result else 0
        fits = filled + longest <= token_budget
        similar = filled < floor or lengths[index] >= (1 - waste) * longest
        if not result or not fits or not similar:
            result.append([])
            longest = lengths[index]
        result[-1].append(index)
    return result


def token_logps(model: Any, packed: Packed) -> tuple[Tensor, Tensor]:
    """Log-probabilities of every completion token in its context, with gradients where enabled.

    Shapes: -> token_logps [C, T] in nats, 0 beyond a completion's end, and mask [C, T], True on
            completion tokens; C counts the completions of all groups in order.
    """
    hidden = _head_inputs(model, packed)  # [S, D]
    head = architecture.plain_head(model)
    if head is not None:
        picked = selected_logps(hidden, head.weight, packed.source, packed.target)
    else:
        logits = architecture.causal_model(model).get_output_embeddings()(hidden).float()
        picked = torch.log_softmax(logits, dim=-1)[packed.source, packed.target]
    return _by_completion(picked, packed)


def token_logps_from_logits(model: Any, packed: Packed) -> tuple[Tensor, Tensor]:
    """The same through the model's own forward pass, for heads that do more than one product."""
    output = architecture.causal_model(model)(**_inputs(model, packed))
    logits = output.logits[packed.head_rows, packed.head_columns].float()
    picked = torch.log_softmax(logits, dim=-1)[packed.source, packed.target]
    return _by_completion(picked, packed)


def _head_inputs(model: Any, packed: Packed) -> Tensor:
    """The hidden states that go through the head, [S, D]."""
    output = architecture.run_trunk(model, _inputs(model, packed))
    states: Tensor = output.last_hidden_state[packed.head_rows, packed.head_columns]
    return states


def _inputs(model: Any, packed: Packed) -> dict[str, Any]:
    """The arguments of the forward pass; rows of one completion need no mask but causality."""
    inputs: dict[str, Any] = {"input_ids": packed.input_ids, "use_cache": False}
    if packed.segments.amax() > 1:
        allowed = _allowed(packed, architecture.sliding_window(model))
        inputs["attention_mask"] = architecture.attention_mask(
            allowed, model, architecture.dtype_of(model)
        )
        inputs["position_ids"] = packed.position_ids
    else:
        inputs["attention_mask"] = (packed.segments >= 0).long()
    return inputs


def _allowed(packed: Packed, window: int | None) -> Tensor:
    """Who may look at whom, [R, L, L]: causal, and the prompt or one's own completion only."""
    segments, positions = packed.segments, packed.position_ids
    own = segments[:, :, None] == segments[:, None, :]
    prompt = segments[:, None, :] == 0
    steps = torch.arange(segments.shape[1], device=segments.device)
    allowed = (own | prompt) & (steps[:, None] >= steps[None, :])
    if window is not None:
        allowed &= positions[:, :, None] - positions[:, None, :] < window
    return allowed | torch.eye(len(steps), dtype=torch.bool, device=segments.device)


def _by_completion(picked: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """Scored tokens as a table with a row per completion."""
    count, longest = len(packed.lengths), int(packed.lengths.max())
    table = picked.new_zeros(count, longest).index_put((packed.completion, packed.offset), picked)
    steps = torch.arange(longest, device=picked.device)
    return table, steps[None, :] < packed.lengths[:, None]


class PackedScorer(nn.Module):
    """`token_logps` as a module, so that DDP, FSDP and autocast can wrap it.

    Fields: layout says how the model may be run (see `Layout`).
    """

    def __init__(self, model: Any, layout: "Layout") -> None:
        super().__init__()
        self.model = model
        self.layout = layout

    def forward(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """As `token_logps`."""
        if self.layout.splits_head:
            return token_logps(self.model, packed)
        return token_logps_from_logits(self.model, packed)


@dataclass(frozen=True)
class Layout:
    """How a model may be run: prompts shared between completions, head apart from the trunk.

    Fields: longest_shared is the longest row that may be shared, None for no limit; a model whose
            layers look back by different windows cannot take one mask for all beyond the shortest;
            bucket_floor is the number of tokens up to which a bucket takes rows of any length:
            a small model loses more by another pass than by padding.
    """

    shares_prefix: bool
    splits_head: bool
    longest_shared: int | None = None
    bucket_floor: int = 512

    def groups(self, groups: Sequence[Group]) -> list[Group]:
        """The groups as this model takes them, completions in the same order."""
        return [part for group in groups for part in self._parts(group)]

    def _parts(self, group: Group) -> list[Group]:
        """The group itself where it may share its prompt, else a group per completion."""
        limit = self.longest_shared
        fits = limit is None or row_length(group) <= limit
        return [group] if self.shares_prefix and fits else separated([group])


@torch.no_grad()
def find_layout(model: Any, *, vocab_size: int) -> Layout:
    """Try both shortcuts on a small random example and keep those that change nothing.

    An architecture whose masks or positions cannot be set (ALiBi, recurrent, sliding layers mixed
    with full ones) gives other numbers for the shared row; it is then run a row per completion.
    """
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device

    def tokens(count: int) -> list[int]:
        return torch.randint(vocab_size, (count,), generator=generator).tolist()

    group = Group(tokens(5), [tokens(4), tokens(6), tokens(3)])
    was_training = model.training
    model.eval()
    try:
        apart = pack(separated([group])).to(device)
        expected, _ = token_logps_from_logits(model, apart)
        tolerance = _tolerance(expected, architecture.dtype_of(model))
        splits_head = _agrees(token_logps, model, apart, expected, tolerance)
        together = pack([group]).to(device)
        shares_prefix = architecture.takes_masks(model) and _agrees(
            token_logps_from_logits, model, together, expected, tolerance
        )
    finally:
        model.train(was_training)
    return Layout(
        shares_prefix=shares_prefix,
        splits_head=splits_head,
        longest_shared=architecture.shortest_window(model),
        bucket_floor=max(128, int(PASS_COST / architecture.trunk_size(model))),
    )


def _tolerance(expected: Tensor, dtype: torch.dtype) -> float:
    """What rounding may do: 1e-4 of the spread in float32, more in half precision."""
    spread = max(float(expected[expected != 0].std()), 1e-3)
    return spread * (1e-4 if dtype in (torch.float32, torch.float64) else 0.05)


def _agrees(way: Any, model: Any, packed: Packed, expected: Tensor, tolerance: float) -> bool:
    """Whether this way gives the expected numbers; an architecture that refuses does not."""
    try:
        result, _ = way(model, packed)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return False
    return bool((result - expected).abs().max() <= tolerance)


@torch.no_grad()
def score_groups(
    scorer: PackedScorer,
    groups: Sequence[Group],
    *,
    token_budget: int,
    pad_id: int = 0,
    work: Work | None = None,
) -> Iterator[tuple[int, list[Tensor]]]:
    """Yield (index of group, token log-probabilities per completion) bucket by bucket.

    The order is that of the buckets, so a caller that saves as it goes loses one bucket at most.
    """
    device = next(scorer.parameters()).device
    lengths = [row_length(group) for group in groups]
    floor = scorer.layout.bucket_floor
    for bucket in buckets(lengths, token_budget=token_budget, floor=floor):
        chosen = [groups[index] for index in bucket]
        packed = pack(scorer.layout.groups(chosen), pad_id=pad_id)
        if work is not None:
            packed.count(work)
        table, _ = scorer(packed.to(device))
        rows = iter(zip(table.float().cpu(), packed.lengths.tolist(), strict=True))
        for index, group in zip(bucket, chosen, strict=True):
            yield index, [row[:length] for row, length in (next(rows) for _ in group.completions)]
