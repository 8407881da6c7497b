"""Forward passes of the engine: groups of tokens in, log-probabilities out, work counted."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trueup.models import Group, LanguageModel, Work
from trueup.models.prefix_tree import row_length
from trueup.models.shared_prefix import Layout, buckets, pack
from trueup.training.config import Precision, TrainingConfig
from trueup.training.processes import Processes


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

    def buckets(self, groups: Sequence[Group]) -> list[list[int]]:
        """Indices of the groups that go through the model together."""
        lengths = [row_length(group) for group in groups]
        return buckets(lengths, token_budget=self.token_budget, floor=self.layout.bucket_floor)

    def __call__(self, groups: Sequence[Group], work: Work) -> tuple[Tensor, Tensor]:
        """Log-probabilities [C, T] of the groups' completions and their mask, as `token_logps`."""
        trees = [tree for group in groups for tree in self.layout.trees([group])]
        packed = pack(trees, pad_id=self.pad_id)
        packed.count(work)
        with autocast(self.device, self.precision):
            table, mask = self.scorer(packed.to(self.device))
        return table, mask


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
    groups: Sequence[Group],
    *,
    processes: Processes,
    before_bucket: Callable[[int, int], None],
) -> tuple[Tensor, Work]:
    """Sums over the tokens of every completion, [N, K] in float64 on the CPU, and the work.

    The processes share the buckets, and all get all sums. `before_bucket` hears how many of how
    many buckets are done.
    """
    own = Work()
    parts = scoring.buckets(groups)
    mine = processes.share(len(parts))
    sums = torch.zeros(len(groups), len(groups[0].completions), dtype=torch.float64)
    for done, number in enumerate(mine):
        before_bucket(done, len(mine))
        table, _ = scoring([groups[index] for index in parts[number]], own)
        sums[parts[number]] = table.sum(dim=1).reshape(len(parts[number]), -1).cpu().double()
    return processes.total(sums), processes.total_work(own)
