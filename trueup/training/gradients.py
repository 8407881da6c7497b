"""Backward passes of one step: the gradients are those of the whole batch, however it is cut."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trueup.models import Work
from trueup.objectives import Objective
from trueup.training.losses import Batch, joint_losses, part_losses, passed
from trueup.training.monitors import measures
from trueup.training.processes import Processes
from trueup.training.scoring import Scoring


@dataclass(frozen=True)
class Gradients:
    """How a step's loss, sum(w * l) / sum(w) over the whole batch, reaches the weights.

    Fields: training runs the policy with gradients through `wrapped`, the module that the
            processes share.
    """

    objective: Objective
    training: Scoring
    wrapped: nn.Module
    processes: Processes

    def of(
        self,
        batch: Batch,
        *,
        scalars: Mapping[str, Tensor],
        state: Mapping[str, float],
        work: Work,
    ) -> tuple[Tensor, dict[str, float]]:
        """Leave the gradients in the weights.

        Gives w * l / sum(w) and the measures, [B, 1 + M], NaN where another process has the row;
        and the objective's next state.
        """
        weights = batch.weights(self.objective)
        shares = weights / weights.sum().clamp(min=1e-12)  # no row may count: nothing moves
        if self.objective.needs.whole_batch:
            return self._joint(batch, shares, scalars, state, work)
        return self._separate(batch, shares, scalars, work), dict(state)

    def _separate(
        self, batch: Batch, shares: Tensor, scalars: Mapping[str, Tensor], work: Work
    ) -> Tensor:
        """Micro-batch by micro-batch.

        A process without a share joins with a loss of 0, because DDP waits for everyone.
        """
        mine = self.processes.share(len(batch))
        found = []
        parts = batch.parts(mine or [0], self.training)
        for number, part in enumerate(parts, start=1):
            counter = work if mine else Work()
            with self._quiet(is_last=number == len(parts)):
                losses, rows, _ = part_losses(
                    self.objective, self.training, batch, part, scalars=scalars, work=counter
                )
                weighted = losses * shares[part].to(losses.device, losses.dtype)
                loss = weighted.sum() * self.processes.count  # DDP takes the processes' mean
                torch.autograd.backward(loss if mine else loss * 0)
            if mine:
                measured = measures(batch.examples.kind, rows)
                found.append((part, torch.cat([weighted.detach()[:, None], measured], dim=1)))
        return _table(len(batch), found)

    def _joint(
        self,
        batch: Batch,
        shares: Tensor,
        scalars: Mapping[str, Tensor],
        state: Mapping[str, float],
        work: Work,
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of the whole batch from all its sums, then back through the model.

        Where the batch fits into one forward pass's budget, its micro-batches stay alive until
        the loss is known. Else the sums come from a pass without gradients, and a second pass
        carries d loss / d sums back: exact, for a third more work.
        """
        everyone = range(len(batch))
        mine = self.processes.share(len(batch))
        stays = self.processes.count == 1 and self.training.fits(batch.families(mine))
        parts = batch.parts(mine or [0], self.training)
        logps = self._alive(batch, parts, work) if stays else self._sums(batch, parts, mine, work)
        leaf = logps.detach().requires_grad_(True)
        losses, rows, after = joint_losses(
            self.objective, batch, leaf, scalars=scalars, state=state
        )
        weighted = losses * shares.to(losses.device, losses.dtype)
        [slopes] = torch.autograd.grad(weighted.sum(), leaf)
        if stays:
            logps.backward(slopes)  # type: ignore[no-untyped-call]
        else:
            self._second_pass(
                batch, parts, slopes, Work() if not mine else work, has_share=bool(mine)
            )
        measured = measures(batch.examples.kind, rows)
        table = torch.cat([weighted.detach()[:, None], measured], dim=1)
        return _table(len(batch), [([*everyone], table)]), after

    def _alive(self, batch: Batch, parts: Sequence[list[int]], work: Work) -> Tensor:
        """The sums [B, W] of all micro-batches with their graphs."""
        sums = [passed(self.training, batch, part, work)[0] for part in parts]
        order = torch.tensor([position for part in parts for position in part]).argsort()
        return torch.cat(sums)[order.to(sums[0].device)]

    @torch.no_grad()
    def _sums(
        self, batch: Batch, parts: Sequence[list[int]], mine: Sequence[int], work: Work
    ) -> Tensor:
        """The sums [B, W] of all processes, without gradients."""
        table = torch.zeros(len(batch), batch.examples.width, dtype=torch.float64)
        for part in parts if mine else ():
            table[part] = passed(self.training, batch, part, work)[0].cpu().double()
        dtype = self.training.dtype if self.training.dtype == torch.float64 else torch.float32
        return self.processes.total(table).to(self.training.device, dtype)

    def _second_pass(
        self,
        batch: Batch,
        parts: Sequence[list[int]],
        slopes: Tensor,
        work: Work,
        *,
        has_share: bool,
    ) -> None:
        """Carry the slopes of the sums back through the model, micro-batch by micro-batch."""
        for number, part in enumerate(parts, start=1):
            with self._quiet(is_last=number == len(parts)):
                sums, _ = passed(self.training, batch, part, work)
                loss = (sums * slopes[part]).sum() * self.processes.count
                torch.autograd.backward(loss if has_share else loss * 0)

    def _quiet(self, *, is_last: bool) -> contextlib.AbstractContextManager[object]:
        """A block whose gradients are exchanged only if it is the step's last."""
        return contextlib.nullcontext() if is_last else self.processes.quiet(self.wrapped)


def _table(size: int, found: Sequence[tuple[list[int], Tensor]]) -> Tensor:
    """The rows of all parts in the order of the batch, NaN where there is none."""
    columns = found[0][1].shape[1] if found else 1
    values = torch.full((size, columns), torch.nan, dtype=torch.float64)
    for part, table in found:
        values[part] = table.cpu().double()
    return values
