"""Multi-action-head DPO: one trunk, one output head per objective, each pair trains its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from trueup.errors import check_at_least, check_positive
from trueup.objectives.protocol import Data, Needs, Unweighted

LABEL_THRESHOLD = 0.85  # of a response's largest value, as in the authors' data processor


@dataclass(frozen=True, kw_only=True)
class MAHDPO(Unweighted):
    """Multi-action-head DPO: several objectives at once, mixed by weights after training.

    loss_i   = -log sigmoid(beta * margin_i) * B * share(k) / n_k, where k = objective_ids[i]
    margin_i = log pi_k/ref(chosen_i) - log pi_k/ref(rejected_i), pi_k with the k-th head
    share(k) = alpha_k / sum of alpha over the objectives that the batch holds

    The plain mean over the batch is then sum_k share(k) * mean loss of the pairs of objective k.

    Units:  nats, summed over completion tokens; the reference has the one head it came with.
    Fields: beta > 0 ties each head to the reference; alpha, a weight above 0 per objective in the
            order of their numbers, empty for equal ones; head_noise >= 0, the standard deviation
            by which the heads differ from the model's own at the start.
    Edges:  an objective that the batch lacks has no share in it; one objective is DPO.
    Raises: UserError where a field leaves its range.
    Use:    for several data sets of preferences whose trade-off is chosen at inference: on three
            human values all three rise above DPO with one head (0.639/0.369/0.248 for
            0.604/0.306/0.201).
    Not:    to raise one verifiable goal: accuracy in mathematics stays where it was (0.730 to
            0.725); decoding guided by a step reward raises it.
    Source: Shen et al. 2025, arXiv 2510.01167. The authors' code takes the mean over objectives in
            each micro-batch; here it runs over the whole batch, however that is cut.
    """

    beta: float = 0.1
    alpha: tuple[float, ...] = ()
    head_noise: float = 1e-3
    name: ClassVar[str] = "mah-dpo"
    data: ClassVar[Data] = "routed"
    needs: ClassVar[Needs] = Needs(reference=True, whole_batch=True)
    arxiv: ClassVar[str] = "2510.01167"

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        check_positive(**{f"alpha[{place}]": value for place, value in enumerate(self.alpha)})
        check_at_least(0, head_noise=self.head_noise)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B], of the whole global batch."""
        return mah_dpo_loss(
            chosen_logps=batch["chosen_logps"],
            rejected_logps=batch["rejected_logps"],
            ref_chosen_logps=batch["ref_chosen_logps"],
            ref_rejected_logps=batch["ref_rejected_logps"],
            objective_ids=batch["objective_ids"],
            alpha=batch["chosen_logps"].new_tensor(self.alpha) if self.alpha else None,
            beta=self.beta,
        )


def mah_dpo_loss(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    objective_ids: Tensor,
    alpha: Tensor | None = None,
    beta: float = 0.1,
) -> Tensor:
    """MAH-DPO's formula on plain tensors, [B] in, [B] out, not reduced; symbols as in `MAHDPO`.

    Shapes: objective_ids [B] whole numbers from 0; alpha [H].
    """
    margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    counts = torch.bincount(objective_ids, minlength=0 if alpha is None else len(alpha))
    alpha = margin.new_ones(len(counts)) if alpha is None else alpha
    present = alpha * (counts > 0)
    shares = len(margin) * present / present.sum() / counts.clamp(min=1)
    return -logsigmoid(beta * margin) * shares[objective_ids]


def mix_heads(logits: Tensor, weights: Tensor) -> Tensor:
    """Probabilities of the heads' ensemble: the logits are mixed, never the probabilities.

    mixed = softmax(sum_k weights_k * logits_k), weights normalised to sum 1
    Shapes: logits [H, ..., V], weights [H] -> [..., V].
    """
    mixed: Tensor = torch.tensordot(weights / weights.sum(), logits, dims=1)
    return mixed.softmax(-1)


def hindsight_targets(step_rewards: Tensor, outcomes: Tensor, gamma: float) -> Tensor:
    """What the prefix that ends with each step is worth, from rollouts with known outcomes.

    target_t = mean over rollouts of reward_t + gamma^(n - t) * outcome, t = 1..n
    Shapes: step_rewards [M, n], NaN beyond the end of a shorter rollout; outcomes [M] -> [n].
    Edges:  gamma = 0 gives the outcome to the last step alone; each rollout has its own n, and a
            step is averaged over the rollouts that have it.
    Source: arXiv 2510.01167; outcome 0 or 1 is our reading; their data file was not seen.
    """
    exists = ~step_rewards.isnan()
    to_go = exists.sum(-1, keepdim=True) - exists.cumsum(-1)
    discounts = torch.full_like(step_rewards, gamma) ** to_go
    targets: Tensor = (step_rewards + discounts * outcomes[:, None]).nanmean(0)
    return targets


def value_labels(values: Tensor, threshold: float = LABEL_THRESHOLD) -> Tensor:
    """Which steps of one response count as good: above a share of its largest value; bool [n].

    Edges:  no value above 0: none does.
    """
    largest = values.max()
    return (largest > 0) & (values > threshold * largest)
