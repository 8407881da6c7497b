"""What a run with `monitor` measures at every evaluation, and what it concludes for the user."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from trueup.errors import UserError
from trueup.models import Group, LanguageModel, Work, architecture
from trueup.models.multi_head import MultiHead
from trueup.models.shared_prefix import (
    Packed,
    PackedScorer,
    head_inputs,
    head_logits_of_own_pass,
)
from trueup.selection.ches import Ches
from trueup.training.examples import Examples
from trueup.training.monitors import is_paired
from trueup.training.overoptimisation import (
    MASS_TOLERANCE,
    OveroptimisationMetrics,
    Tolerances,
    overoptimisation_flags,
    overoptimisation_report,
    top_k_statistics,
)
from trueup.training.processes import Processes
from trueup.training.scoring import Family, Scoring, autocast

CHUNK = 256  # rows of logits at once
FEWEST = 3  # evaluations: the one before training and the detector's patience of 2
SIDES = ("chosen", "rejected")
RISKY = 0.05  # the share of pairs that the displacement report names; the paper keeps 0.8 to 0.95


@dataclass(frozen=True)
class Monitor:
    """Likelihood, top-k entropy and top-k mass on the evaluation rows, without a gradient.

    Entropy and mass take one more pass, over the wanted completions alone; the likelihoods are
    those of the evaluation itself.
    """

    scoring: Scoring
    processes: Processes
    examples: Examples
    k: int

    def measured(self, items: pd.DataFrame, work: Work) -> dict[str, float]:
        """The monitor's columns of the evaluations: means over rows of means over positions.

        Columns: entropy_bits, top_k_mass, chosen_likelihood, and rejected_likelihood where some
                 rows are unwanted; likelihoods in nats per token.
        Fields:  items are the evaluation's, of the same examples.
        """
        rows = self.wanted_rows()
        entropy, mass = self._statistics(rows, work) if rows else (math.nan, math.nan)
        return {"entropy_bits": entropy, "top_k_mass": mass, **self._likelihoods(items, rows)}

    def wanted_rows(self) -> list[int]:
        """The examples whose first completion is to become likelier."""
        items = self.examples.items
        return [row for row, item in enumerate(items) if item.known.get("labels", True)]

    def _likelihoods(self, items: pd.DataFrame, rows: Sequence[int]) -> dict[str, float]:
        """Nats per token of wanted and unwanted completions."""
        lengths = np.array([item.lengths[:2] for item in self.examples.items], dtype=float)
        if is_paired(self.examples.kind):
            return {
                f"{side}_likelihood": float((items[f"{side}_after"] / lengths[:, place]).mean())
                for place, side in enumerate(SIDES)
            }
        per_token = (items["after"] / lengths[:, 0]).to_numpy()
        others = np.delete(per_token, rows)
        found = {"chosen_likelihood": float(per_token[rows].mean()) if rows else math.nan}
        return found | ({"rejected_likelihood": float(others.mean())} if len(others) else {})

    def _statistics(self, rows: Sequence[int], work: Work) -> tuple[float, float]:
        """Mean top-k entropy and mass at the positions that predict the wanted completions."""
        families = [[_first(self.examples, row)] for row in rows]
        values = top_k_means(
            self.scoring, self.processes, families, self.k, work, heads=self._heads(rows)
        )
        entropy, mass = values[:, 0].mean(dim=0).tolist()
        return entropy, mass

    def _heads(self, rows: Sequence[int]) -> Tensor | None:
        """The output head of every row, where the model has several."""
        if self.examples.kind != "routed":
            return None
        return self.examples.known(rows)["objective_ids"]


@torch.no_grad()
def top_k_means(
    scoring: Scoring,
    processes: Processes,
    families: Sequence[Family],
    k: int,
    work: Work,
    *,
    heads: Tensor | None = None,
) -> Tensor:
    """Each completion's mean top-k entropy in bits and mass over its positions, [N, W, 2].

    The processes share the passes, and all get all means.
    Shapes: heads [N], the output head of each family, where the model has several and W is 1.
    """
    own = Work()
    width = sum(len(group.completions) for group in families[0])
    values = torch.zeros(len(families), width, 2, dtype=torch.float64)
    parts = scoring.buckets(families)
    for number in processes.share(len(parts)):
        part = parts[number]
        packed = scoring.packed([families[row] for row in part], own)
        if heads is not None:
            packed = replace(packed, heads=heads[part])
        packed = packed.to(scoring.device)
        with autocast(scoring.device, scoring.precision):
            found = _token_statistics(scoring.scorer, packed, k)
        sums = found.new_zeros(len(packed.lengths), 2).index_add(0, packed.completion, found)
        values[part] = (sums / packed.lengths[:, None]).cpu().reshape(len(part), width, 2)
    work.add(**processes.total_work(own).as_dict())
    return processes.total(values)


def good_so_far(evaluations: Sequence[Mapping[str, float]]) -> tuple[bool, int]:
    """Whether the newest evaluation is the one to go back to, and 1 once over-optimisation shows.

    It is while its entropy is the highest so far and no mass has left the top k: what the two signs
    of `overoptimisation_flags` will suggest.
    """
    entropy = [row["entropy_bits"] for row in evaluations]
    mass = [row["top_k_mass"] for row in evaluations]
    flags = overoptimisation_flags(entropy, mass)
    is_good = entropy[-1] >= max(entropy) and mass[-1] >= mass[0] - MASS_TOLERANCE
    return is_good, int(flags.suggested_index is not None)


def overoptimisation_note(evaluations: Sequence[Mapping[str, float]]) -> str:
    """What the detector finds in the evaluations, with the sheet's tolerances, as a sentence."""
    if len(evaluations) < FEWEST:
        return (
            f"over-optimisation: {len(evaluations)} evaluations are too few to tell; set eval_every"
        )
    names = ("chosen_likelihood", "entropy_bits", "top_k_mass")
    series = [[row[name] for name in names] for row in evaluations]
    if not np.isfinite(series).all():
        return "over-optimisation: not judged, for an evaluation has no finite number"
    steps = [int(row["step"]) for row in evaluations]
    metrics = [OveroptimisationMetrics(*map(torch.tensor, row)) for row in series]
    return str(overoptimisation_report(steps, metrics, **Tolerances()))


def ches_note(lm: LanguageModel, examples: Examples, work: Work) -> str:
    """How alike the training pairs are to the model before its first step, as a sentence.

    Edges: a model whose head does not read its last hidden state has no score, which is said.
    """
    before = lm.work.as_dict()
    try:
        scores = Ches().of_groups(lm, [item.group for item in examples.items])
    except UserError as error:
        return f"displacement risk: not measured, {error}"
    work.add(**{name: spent - before[name] for name, spent in lm.work.as_dict().items()})
    limit = float(np.quantile(scores, 1 - RISKY))
    return (
        f"displacement risk: CHES median {np.median(scores):.3g}, {np.mean(scores > limit):.0%} of "
        f"{len(scores)} pairs above {limit:.3g}; `trueup select --method ches --keep "
        f"{1 - RISKY:g}` drops them"
    )


def _first(examples: Examples, row: int) -> Group:
    """An example's first completion with its prompt."""
    group = examples.items[row].groups[0]
    return Group(group.prompt, group.completions[:1])


def _token_statistics(scorer: nn.Module, packed: Packed, k: int) -> Tensor:
    """Entropy in bits and mass for every scored token, [N, 2] in float64."""
    order: list[Tensor] = []

    def stream() -> Iterator[Tensor]:
        for tokens, logits in _logits(scorer, packed):
            order.append(tokens)
            yield logits

    values = torch.stack(top_k_statistics(stream(), k), dim=1).double()
    return torch.empty_like(values).index_copy_(0, torch.cat(order), values)


def _logits(scorer: nn.Module, packed: Packed) -> Iterator[tuple[Tensor, Tensor]]:
    """Scored tokens [n] with the logits [n, V] that predict them, a few rows at a time."""
    assert isinstance(scorer, PackedScorer)
    everything = torch.arange(len(packed.source), device=packed.source.device)
    if packed.heads is None and not scorer.layout.splits_head:
        logits = head_logits_of_own_pass(scorer.model, packed)
        for tokens in torch.split(everything, CHUNK):
            yield tokens, logits[packed.source[tokens]]
        return
    hidden = head_inputs(scorer.model, packed)
    if packed.heads is None:
        head = architecture.causal_model(scorer.model).get_output_embeddings()
        for tokens in torch.split(everything, CHUNK):
            yield tokens, head(hidden[packed.source[tokens]])
        return
    assert isinstance(scorer.heads, MultiHead)
    heads = packed.heads[packed.completion]
    for number in torch.unique(heads).tolist():
        for tokens in torch.split(everything[heads == number], CHUNK):
            yield tokens, scorer.heads.logits(number, hidden[packed.source[tokens]])
