"""What a model holds where each completion ends, behind all of its blocks; prompts read once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trueup.errors import UserError
from trueup.models.language_model import LanguageModel
from trueup.models.prefix_tree import Group
from trueup.models.residual_stream import blocks_of, recorded
from trueup.models.shared_prefix import Packed, buckets, head_inputs, pack


@dataclass(frozen=True)
class EndStates:
    """Some groups' states, as one forward pass gave them.

    Shapes: groups [C], the number of each completion's group, whose completions follow one another
            in order; states [C, L, D] behind every block at each completion's last token;
            token_norms [L, S] of all real tokens of the pass.
    Fields: on the CPU, in float32 at least.
    """

    groups: list[int]
    states: Tensor
    token_norms: Tensor


def end_states(lm: LanguageModel, groups: Sequence[Group]) -> Iterator[EndStates]:
    """The states at the completions' ends, bucket by bucket.

    Layer l is the stream behind block l, before any final norm, as `residual_stream` counts.
    Work:   every prompt once for all its completions, the completions once each; no head.
    Raises: UserError where a completion with its prompt is longer than the context.
    """
    count = len(blocks_of(lm.model))
    for part in _passes(lm, groups):
        states: list[Tensor] = [torch.empty(0)] * count
        norms: list[Tensor] = [torch.empty(0)] * count
        ends, real = _ends(part.packed), _real(part.packed)

        def take(layer: int, found: Tensor, into: Any = (states, norms, ends, real)) -> None:
            states, norms, ends, real = into
            wide = found.detach()
            wide = wide if wide.dtype == torch.float64 else wide.float()
            states[layer] = wide[ends].cpu()
            norms[layer] = wide.norm(dim=-1)[real].cpu()

        part.run(take)
        yield EndStates(part.groups, torch.stack(states, 1), torch.stack(norms))


def token_projections(
    lm: LanguageModel, groups: Sequence[Group], layer: int, direction: Tensor
) -> Tensor:
    """The real tokens' states behind block `layer` along a direction [D], as one list [S]."""
    found: list[Tensor] = []
    for part in _passes(lm, groups):
        real = _real(part.packed)

        def take(_: int, states: Tensor, real: Tensor = real) -> None:
            wide = states.detach().double()
            found.append((wide @ direction.to(wide))[real].cpu())

        part.run(take, [layer])
    return torch.cat(found)


@dataclass(frozen=True)
class _Pass:
    """One forward pass over some groups."""

    lm: LanguageModel
    packed: Packed
    groups: list[int]

    @torch.no_grad()
    def run(self, take: Callable[[int, Tensor], None], layers: Sequence[int] | None = None) -> None:
        """Read, and count the work."""
        tokens = int(self.packed.lengths_of_rows.sum())
        self.lm.work.add(trunk_tokens=tokens, padding_tokens=self.packed.input_ids.numel() - tokens)
        with recorded(self.lm.model, take, layers):
            head_inputs(self.lm.model, self.packed)


def _passes(lm: LanguageModel, groups: Sequence[Group]) -> Iterator[_Pass]:
    """The groups in as many passes as the token budget makes of them."""
    lm.model.eval()
    for place, group in enumerate(groups, start=1):
        longest = len(group.prompt) + max(map(len, group.completions))
        if longest > lm.max_length:
            raise UserError(
                f"pair {place} has {longest} tokens, but the model reads {lm.max_length}; "
                "shorten it"
            )
    # Rows leave out what predicts nothing, so that one token more makes the last real one stay.
    longer = [
        Group(group.prompt, [[*each, lm.pad_id] for each in group.completions]) for group in groups
    ]
    families = lm.layout.families(longer)
    trees = [lm.layout.trees([longer[index] for index in family]) for family in families]
    lengths = [sum(map(len, several)) for several in trees]
    for bucket in buckets(lengths, token_budget=lm.token_budget, floor=lm.layout.bucket_floor):
        packed = pack([tree for number in bucket for tree in trees[number]], pad_id=lm.pad_id)
        of_groups = [
            index
            for family in bucket
            for index in families[family]
            for _ in groups[index].completions
        ]
        yield _Pass(lm, packed.to(lm.device), of_groups)


def _ends(packed: Packed) -> tuple[Tensor, Tensor]:
    """Row and column of every completion's last real token, [C] each."""
    last = packed.source[packed.offset == packed.lengths[packed.completion] - 1]
    return packed.head_rows[last], packed.head_columns[last]


def _real(packed: Packed) -> Tensor:
    """True on the tokens that are no padding, [R, T]."""
    steps = torch.arange(packed.input_ids.shape[1], device=packed.lengths_of_rows.device)
    return steps < packed.lengths_of_rows[:, None]
