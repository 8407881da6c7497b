"""Regularized preference optimisation: DPO that pays for making its own answers unlikely."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from scipy.optimize import brentq
from scipy.special import expit, logit
from torch import Tensor
from torch.nn.functional import logsigmoid

from trueup.errors import check_at_least, check_positive
from trueup.objectives.protocol import Data, Needs, PairObjective


@dataclass(frozen=True, kw_only=True)
class RPO(PairObjective):
    """Regularized preference optimization: DPO plus a cost on unlikely chosen completions.

    loss_i   = -log sigmoid(beta * margin_i) - eta * beta * log pi(chosen_i)
    margin_i = log pi/ref(chosen_i) - log pi/ref(rejected_i)

    Units:  nats, summed over completion tokens: a long completion feels eta more.
    Fields: beta > 0 ties the policy to the reference; eta >= 0, where 0 is DPO: 0.001 to 0.05 for
            long completions, up to 1 for short ones.
    Raises: UserError where a field leaves its range.
    Source: Liu et al. 2024, arXiv 2405.16436, eq. 4.8. The coefficient is eta times beta, as in the
            authors' `rpo_trainer.py`; `rpo-mean` is their OpenRLHF form, `rpo-trl` TRL's recipe.
    """

    beta: float = 0.1
    eta: float = 0.005
    name: ClassVar[str] = "rpo"
    needs: ClassVar[Needs] = Needs(reference=True)
    arxiv: ClassVar[str] = "2405.16436"

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        check_at_least(0, eta=self.eta)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]."""
        return rpo_loss(
            chosen_logps=batch["chosen_logps"],
            rejected_logps=batch["rejected_logps"],
            ref_chosen_logps=batch["ref_chosen_logps"],
            ref_rejected_logps=batch["ref_rejected_logps"],
            beta=self.beta,
            eta=self.eta,
        )

    def nll_weight(self, chosen_lengths: Tensor) -> Tensor:
        """What a completion's mean negative log-likelihood per token weighs in the loss, [B]."""
        return self.eta * self.beta * chosen_lengths


@dataclass(frozen=True, kw_only=True)
class RPOBaseline(PairObjective):
    """RPO held by samples of another baseline policy than the one that wrote the chosen answers.

    loss_i = -log sigmoid(beta * margin_i) - eta * beta * log pi(baseline_i)

    The maximin objective's baseline policy is where the adversary may not lower the value: samples
    of the initial model keep the policy near them, where the chosen answers are few or odd.

    Units:  nats, summed over completion tokens.
    Fields: beta > 0 and eta >= 0 as in `RPO`; eta 0 is DPO.
    Source: Liu et al. 2024, arXiv 2405.16436, eq. 4.8 with pi_base other than the chosen answers.
    """

    beta: float = 0.1
    eta: float = 0.005
    name: ClassVar[str] = "rpo-baseline"
    data: ClassVar[Data] = "anchored"
    needs: ClassVar[Needs] = Needs(reference=True)
    arxiv: ClassVar[str] = "2405.16436"

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        check_at_least(0, eta=self.eta)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]."""
        return rpo_loss(
            chosen_logps=batch["chosen_logps"],
            rejected_logps=batch["rejected_logps"],
            ref_chosen_logps=batch["ref_chosen_logps"],
            ref_rejected_logps=batch["ref_rejected_logps"],
            beta=self.beta,
            eta=self.eta,
            baseline_logps=batch["baseline_logps"],
        )


@dataclass(frozen=True, kw_only=True)
class RPOMean(PairObjective):
    """RPO whose likelihood term is a mean over the completion's tokens, and has no factor beta.

    loss_i = -log sigmoid(beta * margin_i) - eta * log pi(chosen_i) / length_i

    Fields: eta >= 0: 0.05 to 1, whatever the length.
    Source: Liu et al. 2024, arXiv 2405.16436, appendix F, and their fork of OpenRLHF; said there to
            suit reasoning, where the sum suits chat.
    """

    beta: float = 0.1
    eta: float = 0.2
    name: ClassVar[str] = "rpo-mean"
    needs: ClassVar[Needs] = Needs(reference=True)
    arxiv: ClassVar[str] = "2405.16436"

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        check_at_least(0, eta=self.eta)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]."""
        return rpo_loss(
            chosen_logps=batch["chosen_logps"],
            rejected_logps=batch["rejected_logps"],
            ref_chosen_logps=batch["ref_chosen_logps"],
            ref_rejected_logps=batch["ref_rejected_logps"],
            chosen_lengths=batch["chosen_lengths"],
            beta=self.beta,
            eta=self.eta,
            average=True,
        )

    def nll_weight(self, chosen_lengths: Tensor) -> Tensor:
        """What a completion's mean negative log-likelihood per token weighs in the loss, [B]."""
        return self.eta * chosen_lengths.new_ones(len(chosen_lengths))


@dataclass(frozen=True, kw_only=True)
class RPOTRL(PairObjective):
    """TRL's recipe for RPO, which is not the paper's: DPO plus a batch's mean per token.

    loss_i = -log sigmoid(beta * margin_i) - eta * log pi(chosen_i) / mean_chosen_length

    Its mean over the batch is DPO's mean plus eta times the mean over all chosen tokens, so long
    completions weigh more, and one completion's weight depends on the others of its batch.

    Fields: beta, eta >= 0 as TRL documents them: loss_weights=[1, 0.005].
    Source: TRL 1.16, loss_type=["sigmoid", "sft"]; the paper is Liu et al. 2024, arXiv 2405.16436.
    """

    beta: float = 0.01
    eta: float = 0.005
    name: ClassVar[str] = "rpo-trl"
    needs: ClassVar[Needs] = Needs(reference=True, mean_length=True)
    arxiv: ClassVar[str] = "2405.16436"

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)
        check_at_least(0, eta=self.eta)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per pair, [B]; `mean_chosen_length` is the global batch's."""
        chosen_logps = batch["chosen_logps"]
        per_token = chosen_logps / batch["mean_chosen_length"]
        return rpo_loss(
            chosen_logps=chosen_logps,
            rejected_logps=batch["rejected_logps"],
            ref_chosen_logps=batch["ref_chosen_logps"],
            ref_rejected_logps=batch["ref_rejected_logps"],
            beta=self.beta,
            eta=self.eta / self.beta,
            baseline_logps=per_token,
        )

    def nll_weight(self, chosen_lengths: Tensor) -> Tensor:
        """What a completion's mean negative log-likelihood per token weighs in the loss, [B]."""
        return self.eta * chosen_lengths / chosen_lengths.mean()


def rpo_loss(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float,
    eta: float,
    average: bool = False,
    chosen_lengths: Tensor | None = None,
    baseline_logps: Tensor | None = None,
) -> Tensor:
    """RPO's formula on plain tensors, [B] in, [B] out, not reduced; symbols as in `RPO`.

    average divides the last term by chosen_lengths and drops its factor beta; baseline_logps takes
    the place of chosen_logps in the last term only.
    """
    margin = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    likelihood = chosen_logps if baseline_logps is None else baseline_logps
    if average:
        if chosen_lengths is None:
            raise TypeError("rpo_loss: average=True needs chosen_lengths")
        return -logsigmoid(beta * margin) - eta * likelihood / chosen_lengths.clamp(min=1)
    return -logsigmoid(beta * margin) - eta * beta * likelihood


def rpo_two_response_optimum(
    label_rate: float, ref_margin: float, beta: float, eta: float
) -> float:
    """The logit difference that RPO reaches on two responses; the truth its training is held to.

    solves sigmoid(beta * (m - ref_margin)) + eta * sigmoid(m) = (1 + eta) * label_rate for m
    Edges: eta = 0 is DPO's optimum, ref_margin + logit(label_rate) / beta; as eta grows m tends to
           logit(label_rate), the labels' own frequency.
    """
    dpo, labels = ref_margin + logit(label_rate) / beta, logit(label_rate)
    low, high = min(dpo, labels) - 1, max(dpo, labels) + 1

    def excess(m: float) -> float:
        pull = expit(beta * (m - ref_margin)) + eta * expit(m)
        return float(pull - (1 + eta) * label_rate)

    return float(brentq(excess, low, high, xtol=1e-12, rtol=4 * math.ulp(1.0)))
