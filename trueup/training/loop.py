"""One optimiser step and one evaluation, whatever the objective."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from trueup.errors import TrueupError
from trueup.models import Work
from trueup.objectives import Objective
from trueup.training.checkpoints import State
from trueup.training.config import TrainingConfig
from trueup.training.examples import Examples
from trueup.training.gradients import Gradients
from trueup.training.losses import Batch, batch_scalars, joint_losses, part_losses, passed
from trueup.training.monitors import is_paired, measure_names, measures
from trueup.training.optimiser import set_learning_rate
from trueup.training.policy import Policy
from trueup.training.processes import Processes
from trueup.training.scoring import Scoring

SHOWN_PLACES = 3


@dataclass(frozen=True)
class Loop:
    """Everything that a step needs.

    Fields: training runs the policy with gradients through `wrapped`, the module that the
            processes share; frozen runs it without.
    """

    objective: Objective
    config: TrainingConfig
    policy: Policy
    wrapped: nn.Module
    training: Scoring
    frozen: Scoring
    optimiser: torch.optim.Optimizer
    processes: Processes

    def step(
        self, batch: Batch, state: State, *, rate: float, epoch: int, stop: bool
    ) -> tuple[dict[str, float], bool]:
        """Take one step; give its row of the table, and whether to stop.

        The loss is sum(w * l) / sum(w) over the whole batch, however it is cut into processes and
        micro-batches. The run stops where any process wants to.

        Raises: TrueupError where loss or gradient is not finite; the weights are then untouched.
        """
        kind = batch.examples.kind
        names = measure_names(kind, has_reference=batch.reference is not None)
        own = Work()
        self.policy.model.eval()
        scalars = batch_scalars(
            self.objective, self.frozen, batch, processes=self.processes, work=own
        )
        self.policy.ready_to_train()
        self.optimiser.zero_grad()
        gradients = Gradients(self.objective, self.training, self.wrapped, self.processes)
        values, after = gradients.of(batch, scalars=scalars, state=state.objective, work=own)
        if values.shape[1] == 1:  # this process had no row
            values = values.new_full((len(batch), 1 + len(names)), math.nan)
        bound = self.config.clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.policy.trainable.values(), bound))
        counted = values[self.processes.share(len(batch))]  # [b, 1 + M] of this process
        parts = [counted[:, 0].sum()[None], counted[:, 1:].nansum(dim=0)]
        parts += [(~counted[:, 1:].isnan()).sum(dim=0), torch.tensor([stop])]
        spent = self.processes.total_work(own).as_dict()
        totals = self.processes.total(torch.cat([part.double() for part in parts])).tolist()
        loss, wants_stop = totals[0], totals[-1] > 0
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._not_finite(state.step, batch, loss, norm, values[:, 0])
        set_learning_rate(self.optimiser, rate)
        self.optimiser.step()
        state.work.add(**spent)
        state.objective = after
        state.step += 1
        row = {"step": state.step, "epoch": epoch, "loss": loss}
        row |= {"learning_rate": rate, "grad_norm": norm, "tokens": spent["trunk_tokens"]}
        width = len(names)
        for name, total, n in zip(names, totals[1:], totals[1 + width :], strict=False):
            row[name] = total / n if n else math.nan
        row |= {name: float(value) for name, value in scalars.items()}
        state.rows.append(row)
        return row, wants_stop

    def evaluate(
        self, step: int, batches: Sequence[Batch], reference: Tensor, state: State
    ) -> tuple[dict[str, float], pd.DataFrame]:
        """Loss and measures over all evaluation rows: their means, and a row per example.

        Shapes: reference [N, W], the same rows under the reference.
        """
        evaluation = batches[0].examples
        self.policy.model.eval()
        names = measure_names(evaluation.kind, has_reference=True)
        width = 1 + len(names) + evaluation.width
        values = torch.zeros(len(evaluation), width, dtype=torch.float64)
        own = Work()
        for batch in batches:
            scalars = batch_scalars(
                self.objective, self.frozen, batch, processes=self.processes, work=own
            )
            for positions, found in self._evaluated(batch, scalars, state, own):
                places = [batch.indices[position] for position in positions]
                values[places] = torch.cat(found, dim=1).cpu().double()
        values = self.processes.total(values)
        state.work.add(**self.processes.total_work(own).as_dict())
        weights = Batch(evaluation, list(range(len(evaluation)))).weights(self.objective)
        loss = float((weights * values[:, 0]).sum() / weights.sum())
        means = values[:, 1 : 1 + len(names)].nanmean(dim=0).tolist()
        items = _items(evaluation, values[:, 1 + len(names) :], reference)
        return {"step": step, "loss": loss, **dict(zip(names, means, strict=True))}, items

    @torch.no_grad()
    def _evaluated(
        self, batch: Batch, scalars: Mapping[str, Tensor], state: State, work: Work
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Positions of this process with their losses, measures and sums."""
        mine = self.processes.share(len(batch))
        kind = batch.examples.kind
        parts = batch.parts(mine, self.frozen)
        if not self.objective.needs.whole_batch:
            for part in parts:
                losses, rows, logps = part_losses(
                    self.objective, self.frozen, batch, part, scalars=scalars, work=work
                )
                yield part, [losses[:, None], measures(kind, rows), logps]
            return
        table = torch.zeros(len(batch), batch.examples.width, dtype=torch.float64)
        for part in parts:
            table[part] = passed(self.frozen, batch, part, work)[0].cpu().double()
        logps = self.processes.total(table)
        losses, rows, _ = joint_losses(
            self.objective, batch, logps, scalars=scalars, state=state.objective
        )
        found = [losses[:, None], measures(kind, rows), logps]
        yield mine, [value[mine] for value in found]

    def _not_finite(
        self, number: int, batch: Batch, loss: float, norm: float, losses: Tensor
    ) -> TrueupError:
        """The error that ends a run which diverged: step, value, rows, remedy."""
        mine = self.processes.share(len(batch))
        bad = [position for position in mine if not math.isfinite(losses[position])]
        places = self.processes.gather(batch.places(bad)) or batch.places(range(len(batch)))
        shown = ", ".join(places[:SHOWN_PLACES])
        more = f" and {len(places) - SHOWN_PLACES} more" if len(places) > SHOWN_PLACES else ""
        what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient's norm is {norm}"
        return TrueupError(
            f"step {number + 1}: the {what} ({shown}{more}); lower learning_rate or look at these "
            "rows; the last checkpoint is kept"
        )


def _items(evaluation: Examples, after: Tensor, before: Tensor) -> pd.DataFrame:
    """Each evaluation row's log-probabilities under reference and policy."""
    items = pd.DataFrame({"id": [item.place for item in evaluation.items]})
    paired = is_paired(evaluation.kind)
    sides = ("chosen_", "rejected_") if paired else ("",)
    for place, side in enumerate(sides):
        items[f"{side}before"] = before[:, place].tolist()
        items[f"{side}after"] = after[:, place].tolist()
    if paired:
        change = after - before
        items["margin"] = (change[:, 0] - change[:, 1]).tolist()
    if evaluation.kind == "labelled":
        items["label"] = [item.known["labels"] for item in evaluation.items]
    return items
