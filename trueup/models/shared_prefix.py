"""Shared-prefix scoring: one prompt and its completions in one row, each prompt token once.

A row is a `Tree`: the completions see the prompt and themselves, not one another, and their
positions restart after the prompt. The head runs once per position that predicts something: the
prompt's last token (shared by all completions) and the completion tokens in the row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trueup.models import architecture
from trueup.models.prefix_tree import (
    FAMILY_LENGTH,
    Group,
    Tree,
    families,
    lay_out,
    separated,
)
from trueup.models.selected_logps import selected_logps
from trueup.models.work import Work

PASS_COST = 7e9  # multiplications that one more forward pass is worth, measured on two CPU cores


@dataclass(frozen=True)
class Packed:
    """The tensors of one forward pass over several rows.

    Shapes: input_ids, position_ids, ends [R, L] as in `Tree`; lengths_of_rows [R], the rest is
            padding; head_rows, head_columns [S] are the positions that go through the head;
            source, target, completion, offset [N] say, for every scored token, the head row that
            predicts it, its id, its completion (in the order of the groups) and its place in
            that completion. lengths [C]; heads [C] name the output head of each completion, where
            the model has several.
    Fields: has_branches is False where causality alone masks every row.
    """

    input_ids: Tensor
    position_ids: Tensor
    ends: Tensor
    lengths_of_rows: Tensor
    head_rows: Tensor
    head_columns: Tensor
    source: Tensor
    target: Tensor
    completion: Tensor
    offset: Tensor
    lengths: Tensor
    has_branches: bool
    heads: Tensor | None = None

    def to(self, device: torch.device | str) -> "Packed":
        """The same tensors on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        return replace(self, **moved)

    def count(self, work: Work) -> None:
        """Add this pass to the counters."""
        tokens = int(self.lengths_of_rows.sum())
        work.add(
            trunk_tokens=tokens,
            head_rows=len(self.head_rows),
            padding_tokens=self.input_ids.numel() - tokens,
        )


def pack(trees: Sequence[Tree], *, pad_id: int = 0) -> Packed:
    """Lay the trees out, a row each, padded on the right."""
    width = max(map(len, trees))
    shape = (len(trees), width)
    input_ids = np.full(shape, pad_id)
    position_ids = np.zeros(shape, dtype=np.int64)
    ends = np.tile(np.arange(width), (len(trees), 1))  # padding is seen by itself alone
    predictors, targets = [], []
    for row, tree in enumerate(trees):
        input_ids[row, : len(tree)] = tree.ids
        position_ids[row, : len(tree)] = tree.positions
        ends[row, : len(tree)] = tree.ends
        predictors += [row * width + columns for columns in tree.predictors]
        targets += tree.targets
    lengths = np.array([len(target) for target in targets])
    places, source = np.unique(np.concatenate(predictors), return_inverse=True)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    arrays = {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "ends": ends,
        "lengths_of_rows": np.array([len(tree) for tree in trees]),
        "head_rows": places // width,
        "head_columns": places % width,
        "source": source,
        "target": np.concatenate(targets),
        "completion": np.repeat(np.arange(len(lengths)), lengths),
        "offset": np.arange(len(starts)) - starts,
        "lengths": lengths,
    }
    return Packed(
        **{name: torch.from_numpy(values) for name, values in arrays.items()},
        has_branches=any(tree.has_branches for tree in trees),
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
    return _by_completion(_picked(model, head_inputs(model, packed), packed), packed)


def _picked(model: Any, hidden: Tensor, packed: Packed) -> Tensor:
    """The scored tokens' log-probabilities [N] from the hidden states [S, D]."""
    head = architecture.plain_head(model)
    if head is not None:
        return selected_logps(hidden, head.weight, packed.source, packed.target)
    logits = architecture.causal_model(model).get_output_embeddings()(hidden).float()
    return torch.log_softmax(logits, dim=-1)[packed.source, packed.target]


def token_logps_from_logits(model: Any, packed: Packed) -> tuple[Tensor, Tensor]:
    """The same through the model's own forward pass, for heads that do more than one product."""
    logits = head_logits_of_own_pass(model, packed).float()
    picked = torch.log_softmax(logits, dim=-1)[packed.source, packed.target]
    return _by_completion(picked, packed)


def head_logits_of_own_pass(model: Any, packed: Packed) -> Tensor:
    """The logits [S, V] of the model's own forward pass, all at once."""
    output = architecture.causal_model(model)(**_inputs(model, packed))
    logits: Tensor = output.logits[packed.head_rows, packed.head_columns]
    return logits


def head_inputs(model: Any, packed: Packed) -> Tensor:
    """The hidden states that the output head reads, [S, D]; row s predicts what `source` says."""
    output = architecture.run_trunk(model, _inputs(model, packed))
    states: Tensor = output.last_hidden_state[packed.head_rows, packed.head_columns]
    return states


def _inputs(model: Any, packed: Packed) -> dict[str, Any]:
    """The arguments of the forward pass; rows without branches need no mask but causality."""
    inputs: dict[str, Any] = {"input_ids": packed.input_ids, "use_cache": False}
    if packed.has_branches:
        allowed = _allowed(packed, architecture.sliding_window(model))
        inputs["attention_mask"] = architecture.attention_mask(
            allowed, model, architecture.dtype_of(model)
        )
        inputs["position_ids"] = packed.position_ids
    else:
        steps = torch.arange(packed.input_ids.shape[1], device=packed.input_ids.device)
        inputs["attention_mask"] = (steps < packed.lengths_of_rows[:, None]).long()
    return inputs


def _allowed(packed: Packed, window: int | None) -> Tensor:
    """Who may look at whom, [R, L, L]: a token sees those that it follows from, and itself."""
    columns = torch.arange(packed.ends.shape[1], device=packed.ends.device)
    allowed = (columns[:, None] >= columns) & (columns[:, None] <= packed.ends[:, None, :])
    if window is not None:
        positions = packed.position_ids
        near = positions[:, :, None] - positions[:, None, :] < window
        allowed &= near | (columns[:, None] == columns)
    return allowed


def _by_completion(picked: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """Scored tokens as a table with a row per completion."""
    count, longest = len(packed.lengths), int(packed.lengths.max())
    table = picked.new_zeros(count, longest).index_put((packed.completion, packed.offset), picked)
    steps = torch.arange(longest, device=picked.device)
    return table, steps[None, :] < packed.lengths[:, None]


@dataclass(frozen=True)
class Compared:
    """What a teacher says of some positions, for the policy to be compared with.

    Shapes: rows [P] of the head rows; tokens [N] bool, the scored tokens that stand on them.
    Fields: divergence gives a number per row, [P], from the policy's states [P, D] and head [V, D].
    """

    rows: Tensor
    tokens: Tensor
    divergence: Callable[[Tensor, Tensor], Tensor]


class PackedScorer(nn.Module):
    """`token_logps` as a module, so that DDP, FSDP and autocast can wrap it.

    Fields: layout says how the model may be run (see `Layout`); heads, where there are several,
            give (hidden, heads, source, target) -> log-probabilities, as `MultiHead.head_logps`.
    """

    def __init__(self, model: Any, layout: "Layout", heads: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.layout = layout
        self.heads = heads

    def forward(
        self, packed: Packed, compared: Compared | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `token_logps`; completions that name a head go through that one.

        With `compared` the third result is [C, T], each token's divergence from the teacher.
        """
        if packed.heads is None and compared is None and not self.layout.splits_head:
            return (*token_logps_from_logits(self.model, packed), None)
        hidden = head_inputs(self.model, packed)
        if packed.heads is not None:
            assert self.heads is not None
            heads = packed.heads[packed.completion]
            picked = self.heads(hidden, heads, packed.source, packed.target)
        else:
            picked = _picked(self.model, hidden, packed)
        table, mask = _by_completion(picked, packed)
        if compared is None:
            return table, mask, None
        weight = architecture.causal_model(self.model).get_output_embeddings().weight
        per_row = compared.divergence(hidden[compared.rows], weight)
        spread = per_row.new_zeros(len(hidden)).index_put((compared.rows,), per_row)
        taken = torch.where(compared.tokens, spread[packed.source], 0.0)
        return table, mask, _by_completion(taken, packed)[0]


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

    def families(self, groups: Sequence[Group]) -> list[list[int]]:
        """Indices of the groups that go into one row together, as `prefix_tree.families`."""
        if not self.shares_prefix:
            return [[index] for index in range(len(groups))]
        return families(groups, longest=min(FAMILY_LENGTH, self.longest_shared or FAMILY_LENGTH))

    def trees(self, family: Sequence[Group]) -> list[Tree]:
        """The rows of a family as this model takes them, completions in the same order.

        One row where it may share its prompts, else a row per completion.
        """
        if self.shares_prefix:
            tree = lay_out(family)
            if self.longest_shared is None or len(tree) <= self.longest_shared:
                return [tree]
        return [lay_out([part]) for part in separated(family)]


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
        apart = pack([lay_out([part]) for part in separated([group])]).to(device)
        expected, _ = token_logps_from_logits(model, apart)
        tolerance = _tolerance(expected, architecture.dtype_of(model))
        splits_head = _agrees(token_logps, model, apart, expected, tolerance)
        together = pack([lay_out([group])]).to(device)
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

    Groups whose prompts begin alike share a row. The order is that of the buckets, so a caller
    that saves as it goes loses one bucket at most.
    """
    device = next(scorer.parameters()).device
    layout = scorer.layout
    rows = layout.families(groups)
    trees = [layout.trees([groups[index] for index in row]) for row in rows]
    lengths = [sum(map(len, several)) for several in trees]
    for bucket in buckets(lengths, token_budget=token_budget, floor=layout.bucket_floor):
        packed = pack([tree for number in bucket for tree in trees[number]], pad_id=pad_id)
        if work is not None:
            packed.count(work)
        table, _, _ = scorer(packed.to(device))
        found = iter(zip(table.float().cpu(), packed.lengths.tolist(), strict=True))
        for index in (index for number in bucket for index in rows[number]):
            several = [next(found) for _ in groups[index].completions]
            yield index, [row[:length] for row, length in several]
