"""One forward pass of a batch, or part of it: tokens in, the objective's losses out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trueup.models import Group, Work
from trueup.objectives import Objective
from trueup.objectives.protocol import ROLES, Stateful
from trueup.training.distillation import Teachers
from trueup.training.examples import Examples, by_role
from trueup.training.processes import Processes
from trueup.training.scoring import Family, Scoring
from trueup.training.signals import planned, signals


@dataclass(frozen=True)
class Batch:
    """The examples whose loss is averaged together, over all processes.

    Shapes: reference [B, W]; mismatched [B], the reference's log-probabilities of
            `mismatched_groups`, prompts with other rows' completions; taught [B, W], the teacher's
            log-probabilities.
    """

    examples: Examples
    indices: list[int]
    reference: Tensor | None = None
    mismatched: Tensor | None = None
    mismatched_groups: Sequence[Group] = ()
    teachers: Teachers | None = None
    taught: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def weights(self, objective: Objective) -> Tensor:
        """What each example weighs, [B] in float64."""
        known = self.examples.known(self.indices)
        return objective.weights(planned(self.examples.kind, known)).double()

    def places(self, positions: Sequence[int]) -> list[str]:
        """Where some of its examples stand in the user's files."""
        return [self.examples.items[self.indices[position]].place for position in positions]

    def families(self, positions: Sequence[int]) -> list[Family]:
        """The token ids of some positions."""
        return [*self.examples.families([self.indices[position] for position in positions])]

    def parts(self, positions: Sequence[int], scoring: Scoring) -> list[list[int]]:
        """Some positions as micro-batches, cut as suits the model."""
        families = self.families(positions)
        return [[positions[number] for number in part] for part in scoring.buckets(families)]

    def heads(self, positions: Sequence[int]) -> Tensor | None:
        """The output head of each completion of some positions, where pairs are routed."""
        if self.examples.kind != "routed":
            return None
        ids = self.examples.known([self.indices[position] for position in positions])
        return ids["objective_ids"].repeat_interleave(self.examples.width)

    def rows(
        self,
        positions: Sequence[int],
        logps: Tensor,
        scalars: Mapping[str, Tensor],
        tokens: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The canonical batch of some positions, given the policy's sums [b, W]."""
        indices = [self.indices[position] for position in positions]
        places = list(positions)
        return signals(
            self.examples.kind,
            logps,
            known=self.examples.known(indices),
            beside={
                "ref_": None if self.reference is None else self.reference[places],
                "teacher_": None if self.taught is None else self.taught[places],
            },
            scalars=scalars,
            tokens=tokens,
        )


def passed(
    scoring: Scoring, batch: Batch, positions: Sequence[int], work: Work
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One forward pass: sums [b, W], and the table [b, W, T] behind them with its mask."""
    table, mask = scoring(batch.families(positions), work, batch.heads(positions))
    shape = (len(positions), -1, table.shape[-1])
    return table.sum(dim=1).reshape(shape[:2]), (table.reshape(shape), mask.reshape(shape))


def part_losses(
    objective: Objective,
    scoring: Scoring,
    batch: Batch,
    positions: Sequence[int],
    *,
    scalars: Mapping[str, Tensor],
    work: Work,
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The losses [b] of some positions, the canonical batch behind them, and the sums [b, W]."""
    if batch.teachers is None:
        logps, tokens = passed(scoring, batch, positions, work)
        rows = batch.rows(positions, logps, scalars, tokens)
    else:
        logps, divergences = _taught(scoring, batch, positions, batch.teachers, work)
        rows = batch.rows(positions, logps, scalars)
        for role, sums in by_role(batch.examples.kind, divergences).items():
            rows[f"{role}{batch.teachers.name}"] = sums
    return objective.loss(rows), rows, logps.detach()


def _taught(
    scoring: Scoring, batch: Batch, positions: Sequence[int], teachers: Teachers, work: Work
) -> tuple[Tensor, Tensor]:
    """Sums [b, W] of log-probabilities, and of the divergence from the teachers."""
    indices = [batch.indices[position] for position in positions]
    own, compare = teachers.comparison(batch.examples, indices, scoring.layout, work)
    families = batch.families(positions)
    table, _, divergence = replace(scoring, layout=own).compared(families, work, compare)
    sums = [value.sum(dim=1).reshape(len(positions), -1) for value in (table, divergence)]
    return sums[0], sums[1]


def joint_losses(
    objective: Objective,
    batch: Batch,
    logps: Tensor,
    *,
    scalars: Mapping[str, Tensor],
    state: Mapping[str, float],
) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
    """The losses [B] of a batch whose examples depend on one another, from all its sums [B, W].

    Gives the canonical batch and the objective's next state, too.
    """
    rows = batch.rows(range(len(batch)), logps, scalars)
    after = dict(state)
    if isinstance(objective, Stateful):
        seen = {name: value.detach() for name, value in rows.items()}
        after, made = objective.advance(state, seen)
        rows |= {name: value.to(logps.device, logps.dtype) for name, value in made.items()}
    return objective.loss(rows), rows, after


def batch_scalars(
    objective: Objective, scoring: Scoring, batch: Batch, *, processes: Processes, work: Work
) -> dict[str, Tensor]:
    """What the objective needs of the whole batch: `kl`, the mean lengths of its roles."""
    scalars = {}
    if batch.mismatched is not None:
        scalars["kl"] = _mismatched_kl(scoring, batch, batch.mismatched, processes, work)
    if objective.needs.mean_length:
        known = batch.examples.known(batch.indices)
        for role in ROLES[batch.examples.kind]:
            name = f"{role}_length" if role else "length"
            scalars[f"mean_{name}"] = known[f"{name}s"].mean()
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
    families = [[batch.mismatched_groups[position]] for position in mine]
    for part in scoring.buckets(families):
        table, _ = scoring([families[number] for number in part], work)
        known = reference[[mine[number] for number in part]]
        ratios += (table.sum(dim=1).cpu().double() - known).sum()
    return (processes.total(ratios) / len(batch)).clamp(min=0)
