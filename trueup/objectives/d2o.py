"""Distributional dispreference optimisation: learn from bad answers alone, held by own samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from trueup.errors import UserError, check_at_least, check_positive
from trueup.objectives.protocol import Data, Needs


@dataclass(frozen=True, kw_only=True)
class D2O:
    """Distributional dispreference optimization: the model's own answers over one bad answer.

    loss_i = -log sigmoid(beta * self_i - alpha * log pi/ref(rejected_i))
    self_i = mean over k of log pi/ref(sample_ik), over the samples that count

    The mean of self_i is -KL(ref || pi) while the samples are the reference's: an anchor. At
    alpha = beta the anchor has no restoring force, and long training sharpens the policy towards
    the reference's most likely answer: stop when the samples' log pi/ref falls.

    Units:  nats, sums over completion tokens; never means per token.
    Fields: alpha > 0 of the bad answer, beta > 0 of the samples: their ratio is the real control,
            and one prompt has a finite optimum only where alpha < beta * ref(rejected); samples K,
            4 to 16; refresh_every steps the samples are drawn anew from the policy, 0 never, and
            not before warmup_steps; the reference stays.
    Edges:  an empty sample (sample_mask False) leaves the mean; a row without samples weighs 0.
    Raises: UserError where a field leaves its range.
    Use:    prompts with harmful answers only; good halves of pairs that are bad themselves: less
            harm than DPO with all pairs, no loss of knowledge, where gradient ascent collapses.
    Not:    trusted pairs (DPO); helpfulness is the aim: it falls a little.
    Source: Duan et al. 2024, arXiv 2403.03419, eq. 3, with one reference in both terms as in their
            experiments. Ours: samples are drawn under the plain prompt, without an instruction to
            be harmless; the schedule of refreshing.
    """

    alpha: float = 0.1
    beta: float = 0.1
    samples: int = 11
    refresh_every: int = 0
    warmup_steps: int = 200
    name: ClassVar[str] = "d2o"
    data: ClassVar[Data] = "dispreferred"
    source: ClassVar[str] = "dispreferred"
    needs: ClassVar[Needs] = Needs(reference=True)
    arxiv: ClassVar[str] = "2403.03419"

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha, beta=self.beta)
        check_at_least(1, samples=self.samples)
        check_at_least(0, refresh_every=self.refresh_every, warmup_steps=self.warmup_steps)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per prompt with its bad answer, [B]."""
        return d2o_loss(
            sample_logps=batch["sample_logps"],
            ref_sample_logps=batch["ref_sample_logps"],
            sample_mask=batch["sample_mask"],
            rejected_logps=batch["rejected_logps"],
            ref_rejected_logps=batch["ref_rejected_logps"],
            alpha=self.alpha,
            beta=self.beta,
        )

    def weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        """1 for a row with samples; 0 without, where nothing would hold the policy."""
        return batch["sample_mask"].bool().any(dim=1).to(batch["rejected_lengths"].dtype)

    def collected(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing beside the samples themselves."""
        return {}


def d2o_loss(
    *,
    sample_logps: Tensor,
    ref_sample_logps: Tensor,
    rejected_logps: Tensor,
    ref_rejected_logps: Tensor,
    alpha: float,
    beta: float,
    sample_mask: Tensor | None = None,
) -> Tensor:
    """D2O's formula on plain tensors, not reduced: samples [B, K], rejected [B] in, [B] out.

    sample_mask [B, K] bool leaves samples out; the mean is over those that stay.
    """
    ratios = sample_logps - ref_sample_logps
    if sample_mask is None:
        own = ratios.mean(dim=1)
    else:
        counts = sample_mask.bool()
        own = ratios.masked_fill(~counts, 0).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
    return -logsigmoid(beta * own - alpha * (rejected_logps - ref_rejected_logps))


def d2o_optimum(ref_probs: Tensor, rejected_index: int, alpha: float, beta: float) -> Tensor:
    """The policy that D2O reaches on one prompt with every sample of the reference, [Y].

    pi(rejected) = (beta * ref(rejected) - alpha) / (beta - alpha)
    pi(other)    =  beta * ref(other)             / (beta - alpha)
    Raises: UserError unless alpha < beta * ref(rejected): the loss then falls without end.
    """
    bound = beta * float(ref_probs[rejected_index])
    if not alpha < bound:
        raise UserError(f"alpha must be below beta * ref(rejected) = {bound:.6g}, got {alpha}")
    weights = beta * ref_probs
    weights[rejected_index] -= alpha
    return weights / (beta - alpha)
