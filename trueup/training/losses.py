"""One forward pass of a batch, or part of it: tokens in, the objective's losses out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trueup.models import Group, Work
from trueup.objectives import Objective
from trueup.training.examples import Examples
from trueup.training.processes import Processes
from trueup.training.scoring import Scoring
from trueup.training.signals import planned, signals


@dataclass(frozen=True)
class Batch:
    """The examples whose loss is averaged together, over all processes.

    Shapes: reference [B, K]; mismatched [B], the reference's log-probabilities of
            `mismatched_groups`, prompts with other rows' completions.
    """

    examples: Examples
    indices: list[int]
    reference: Tensor | None = None
    mismatched: Tensor | None = None
    mismatched_groups: Sequence[Group] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def weights(self, objective: Objective) -> Tensor:
        """What each example weighs, [B] in float64."""
        known = self.examples.known(self.indices)
        return objective.weights(planned(self.examples.kind, known)).double()

    def places(self, positions: Sequence[int]) -> list[str]:
        """Where some of its examples stand in the user's files."""
        return [self.examples.items[self.indices[position]].place for position in positions]

    def parts(self, positions: Sequence[int], scoring: Scoring) -> list[list[int]]:
        """Some positions as micro-batches, cut as suits the model."""
        groups = self.examples.groups([self.indices[position] for position in positions])
        return [[positions[number] for number in part] for part in scoring.buckets(groups)]


def batch_losses(
    objective: Objective,
    scoring: Scoring,
    batch: Batch,
    positions: Sequence[int],
    *,
    scalars: Mapping[str, Tensor],
    work: Work,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses [b] of some positions of the batch, and the canonical batch behind them."""
    indices = [batch.indices[position] for position in positions]
    table, mask = scoring(batch.examples.groups(indices), work)
    rows = signals(
        batch.examples.kind,
        table,
        mask,
        known=batch.examples.known(indices),
        reference=None if batch.reference is None else batch.reference[list(positions)],
        scalars=scalars,
    )
    return objective.loss(rows), rows


def batch_scalars(
    objective: Objective, scoring: Scoring, batch: Batch, *, processes: Processes, work: Work
) -> dict[str, Tensor]:
    """What the objective needs of the whole batch: `kl`, `mean_chosen_length`."""
    scalars = {}
    if batch.mismatched is not None:
        scalars["kl"] = _mismatched_kl(scoring, batch, batch.mismatched, processes, work)
    if objective.needs.mean_length:
        scalars["mean_chosen_length"] = batch.examples.known(batch.indices)["chosen_lengths"].mean()
    return scalars


@torch.no_grad()
def _mismatched_kl(
    scoring: Scoring, batch: Batch, reference: Tensor, processes: Processes, work: Work
) -> Tensor:
    """KTO's z0: the mean of log pi/ref over mismatched pairs of the whole batch, at least 0.

    Edges:  0 for a batch of one, which has no other row.
    Source: Ethayarajh et al. 2024, arXiv 2402.01306.
    """
    if len(batch) < 2:
        return torch.zeros(())
    ratios = torch.zeros((), dtype=torch.float64)
    mine = processes.share(len(batch))
    groups = [batch.mismatched_groups[position] for position in mine]
    for part in scoring.buckets(groups):
        table, _ = scoring([groups[number] for number in part], work)
        known = reference[[mine[number] for number in part]]
        ratios += (table.sum(dim=1).cpu().double() - known).sum()
    return (processes.total(ratios) / len(batch)).clamp(min=0)
