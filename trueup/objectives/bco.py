"""Binary classifier optimisation: single completions, thumbs up or down, as a bound on DPO."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from trueup.errors import UserError, check_at_least, check_positive
from trueup.objectives.protocol import Data, Needs, Unweighted


@dataclass(frozen=True, kw_only=True)
class BCO(Unweighted):
    """Binary classifier optimization: a classifier of good answers whose logit is DPO's reward.

    label true : loss_i = -desirable_weight * log sigmoid(reward_i - delta)
    label false: loss_i = -undesirable_weight * density_weight_i * log sigmoid(delta - reward_i)
    reward_i = beta * log pi/ref(completion_i)
    delta    = (mean reward of true completions + mean reward of false ones) / 2, no gradient

    delta is a running mean per label, updated with a batch before the batch reads it: an average
    with exponential decay, corrected for its start. A label that was never seen counts as 0.

    Units:  nats, sums over completion tokens.
    Fields: beta > 0 ties the policy to the reference; 0 <= momentum < 1 of the running means, 0.9
            for short runs; balanced False is TRL's delta instead, the mean reward of all examples
            since the start of training, whatever their labels (momentum is not read); weights >= 0.
    Data:   a column density_weights holds P(prompt | true) / P(prompt | false) for completions
            labelled false, where the two labels come from different prompts; 1 if absent.
    Raises: UserError where a field leaves its range.
    Use:    logs of good and bad answers without pairs, mostly one answer per prompt.
    Not:    pairs: it is on par with DPO there, and it moves both kinds of answers away from delta
            when their order is already right.
    Source: Jung et al. 2025, arXiv 2404.04656. The decay of 0.99 is ours, as is the mean per label;
            the batch's loss is divided by its examples as in TRL, not by the sum of weights.
    """

    beta: float = 0.1
    momentum: float = 0.99
    balanced: bool = True
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    name: ClassVar[str] = "bco"
    data: ClassVar[Data] = "labelled"
    needs: ClassVar[Needs] = Needs(reference=True, whole_batch=True)
    arxiv: ClassVar[str] = "2404.04656"

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        check_at_least(
            0,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum must be at least 0 and below 1, got {self.momentum}")

    def start(self) -> dict[str, float]:
        """No reward seen of either label."""
        return {"mean_true": 0.0, "count_true": 0.0, "mean_false": 0.0, "count_false": 0.0}

    def advance(
        self, state: Mapping[str, float], batch: Mapping[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The running means after this batch, and their `delta`."""
        rewards = self.beta * (batch["logps"] - batch["ref_logps"]).detach()
        after, delta = reward_shift(
            state,
            rewards=rewards,
            labels=batch["labels"],
            momentum=self.momentum,
            balanced=self.balanced,
        )
        return after, {"delta": rewards.new_tensor(delta)}

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per completion, [B]."""
        logps, labels = batch["logps"], batch["labels"].bool()
        ones = torch.ones_like(logps)
        weights = torch.where(
            labels,
            self.desirable_weight * ones,
            self.undesirable_weight * batch.get("density_weights", ones),
        )
        return bco_loss(
            logps=logps,
            ref_logps=batch["ref_logps"],
            labels=labels,
            delta=batch["delta"],
            weights=weights,
            beta=self.beta,
        )


def bco_loss(
    *,
    logps: Tensor,
    ref_logps: Tensor,
    labels: Tensor,
    delta: Tensor,
    beta: float,
    weights: Tensor | None = None,
) -> Tensor:
    """BCO's formula on plain tensors, [B] in, [B] out, not reduced.

    delta is a scalar; weights [B] factor each loss; neither passes a gradient on.
    """
    ahead = beta * (logps - ref_logps) - delta.detach()
    losses = -logsigmoid(torch.where(labels.bool(), ahead, -ahead))
    return losses if weights is None else weights.detach() * losses


def bco_pair_loss(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    delta: Tensor,
    beta: float,
) -> Tensor:
    """The same for pairs, [B]: the chosen's loss as a good answer plus the rejected's as a bad one.

    It bounds DPO's loss from above, tightest where delta is the mean reward of the two.
    Source: arXiv 2404.04656; TRL's `bco_pair` is this one at delta = 0.
    """
    good = bco_loss(
        logps=chosen_logps,
        ref_logps=ref_chosen_logps,
        labels=torch.ones_like(chosen_logps),
        delta=delta,
        beta=beta,
    )
    bad = bco_loss(
        logps=rejected_logps,
        ref_logps=ref_rejected_logps,
        labels=torch.zeros_like(rejected_logps),
        delta=delta,
        beta=beta,
    )
    return good + bad


def reward_shift(
    state: Mapping[str, float],
    *,
    rewards: Tensor,
    labels: Tensor,
    momentum: float,
    balanced: bool = True,
) -> tuple[dict[str, float], float]:
    """The state of `BCO.start` after a batch of rewards [B] with their labels, and delta.

    balanced: per label mean = momentum * mean + (1 - momentum) * batch mean, count = batches seen,
              delta = half the sum of mean / (1 - momentum ** count); 0 where count = 0
    else:     mean and count of all examples so far, delta = their pooled mean
    Edges:  a batch without a label leaves that label's mean as it is; the order of the examples
            changes nothing, to the last bit.
    Source: the pooled mean over the whole history is that of TRL's BCOTrainer.
    """
    after = dict(state)
    for kind, chosen in (("true", labels.bool()), ("false", ~labels.bool())):
        found: list[float] = rewards.detach()[chosen].tolist()
        if not found:
            continue
        mean, count = state[f"mean_{kind}"], state[f"count_{kind}"]
        batch_mean = math.fsum(found) / len(found)
        share = 1 - momentum if balanced else len(found) / (count + len(found))
        after[f"mean_{kind}"] = mean + share * (batch_mean - mean)
        after[f"count_{kind}"] = count + (1 if balanced else len(found))
    return after, _delta(after, momentum if balanced else None)


def _delta(state: Mapping[str, float], momentum: float | None) -> float:
    """The shift that a state stands for; no momentum means pooled."""
    means = (state["mean_true"], state["mean_false"])
    counts = (state["count_true"], state["count_false"])
    if momentum is None:
        total = sum(mean * count for mean, count in zip(means, counts, strict=True))
        return total / max(sum(counts), 1)
    seen = [
        mean / (1 - math.pow(momentum, count))
        for mean, count in zip(means, counts, strict=True)
        if count
    ]
    return sum(seen) / 2


def density_ratio(probs: Tensor, min_ratio: float = 0.5, max_ratio: float = 10.0) -> Tensor:
    """How much likelier a prompt is among the good than among the bad: probs / (1 - probs).

    probs is P(good | prompt) of a classifier fitted as if both were equally frequent. The result
    is clipped; for the weights of bad completions.
    """
    return (probs / (1 - probs)).clamp(min_ratio, max_ratio)


def bco_optimum(ref_probs: Tensor, thumbs_up_rate: Tensor, beta: float) -> Tensor:
    """The policy that BCO reaches on one prompt, responses shown equally often, [Y]; proof's truth.

    pi = ref * exp(logit(thumbs_up_rate) / beta), normalised
    Edges: holds where the rates have mean 1/2 and their logits mean 0; otherwise the running delta
           has no such fixed point.
    """
    return (ref_probs.log() + thumbs_up_rate.logit() / beta).softmax(-1)
