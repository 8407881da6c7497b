"""Forward passes of the engine: families of groups in, log-probabilities out, work counted."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from trueup.models import Group, LanguageModel, Work
from trueup.models.prefix_tree import Tree, row_length
from trueup.models.shared_prefix import Compared, Layout, Packed, buckets, pack
from trueup.training.config import Precision, TrainingConfig
from trueup.training.processes import Processes

Family = Sequence[Group]  # the prompts and completions of one example


@dataclass(frozen=True)
class Scoring:
    """How a model is run, the same for policy and reference."""

    scorer: nn.Module
    layout: Layout
    pad_id: int
    device: torch.device
    precision: Precision
    token_budget: int

    @classmethod
    def of(
        cls, lm: LanguageModel, scorer: nn.Module, config: TrainingConfig, device: torch.device
    ) -> "Scoring":
        """The scoring of a module that stands for `lm`."""
        budget = config.token_budget or lm.token_budget
        return cls(scorer, lm.layout, lm.pad_id, device, config.precision, budget)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.scorer.parameters()).dtype

    def buckets(self, families: Sequence[Family]) -> list[list[int]]:
        """Indices of the families that go through the model together."""
        lengths = [sum(map(row_length, family)) for family in families]
        return buckets(lengths, token_budget=self.token_budget, floor=self.layout.bucket_floor)

    def fits(self, families: Sequence[Family]) -> bool:
        """Whether all of them are within the budget of one forward pass."""
        return sum(row_length(group) for family in families for group in family) <= (
            self.token_budget
        )

    def __call__(
        self, families: Sequence[Family], work: Work, heads: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities [C, T] of the families' completions and their mask, `token_logps`.

        Shapes: heads [C], the output head of each completion, None for the model's own.
        """
        packed = replace(self.packed(families, work), heads=heads)
        with autocast(self.device, self.precision):
            table, mask, _ = self.scorer(packed.to(self.device))
        return table, mask

    def compared(
        self, families: Sequence[Family], work: Work, compare: Callable[[Packed], Compared]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same, and each token's divergence [C, T] from what the rows are compared with."""
        packed = self.packed(families, work).to(self.device)
        with autocast(self.device, self.precision):
            table, mask, divergence = self.scorer(packed, compare(packed))
        return table, mask, divergence

    def packed(self, families: Sequence[Family], work: Work) -> Packed:
        """The families as rows, counted; completions in the families' order.

        Examples of one prompt, such as its answers with their labels, share a row.
        """
        groups = [group for family in families for group in family]
        rows, trees = self._rows(families, groups)
        packed = pack(trees, pad_id=self.pad_id)
        packed.count(work)
        ends = list(itertools.accumulate(len(group.completions) for group in groups))
        order = torch.tensor(
            [
                c
                for row in rows
                for i in row
                for c in range(ends[i] - len(groups[i].completions), ends[i])
            ]
        )
        lengths = torch.empty_like(packed.lengths).index_copy_(0, order, packed.lengths)
        return replace(packed, completion=order[packed.completion], lengths=lengths)

    def _rows(
        self, families: Sequence[Family], groups: Sequence[Group]
    ) -> tuple[list[list[int]], list[Tree]]:
        """The numbers of the groups that share a row, and their trees.

        Examples are put together only where that makes the padded table no larger.
        """
        starts = itertools.accumulate((len(family) for family in families), initial=0)
        apart = [
            list(range(start, start + len(family)))
            for start, family in zip(starts, families, strict=False)
        ]
        choices = [apart]
        joined = self.layout.families(groups) if len(groups) == len(families) else apart
        if len(joined) < len(apart):
            choices.append(joined)
        made = [
            (rows, [tree for row in rows for tree in self.layout.trees([groups[i] for i in row])])
            for rows in choices
        ]
        return min(made, key=lambda pair: len(pair[1]) * max(map(len, pair[1])))


def autocast(
    device: torch.device, precision: Precision
) -> contextlib.AbstractContextManager[object]:
    """A block that computes matrix products in bfloat16 where that was asked for."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


@torch.no_grad()
def completion_logps(
    scoring: Scoring,
    families: Sequence[Family],
    *,
    processes: Processes,
    before_bucket: Callable[[int, int], None],
) -> tuple[Tensor, Work]:
    """Sums over the tokens of every completion, [N, K] in float64 on the CPU, and the work.

    The processes share the buckets, and all get all sums. `before_bucket` hears how many of how
    many buckets are done.
    """
    own = Work()
    parts = scoring.buckets(families)
    mine = processes.share(len(parts))
    width = sum(len(group.completions) for group in families[0])
    sums = torch.zeros(len(families), width, dtype=torch.float64)
    for done, number in enumerate(mine):
        before_bucket(done, len(mine))
        table, _ = scoring([families[index] for index in parts[number]], own)
        sums[parts[number]] = table.sum(dim=1).reshape(len(parts[number]), -1).cpu().double()
    return processes.total(sums), processes.total_work(own)
