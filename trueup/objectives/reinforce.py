"""REINFORCE on whole completions, its baseline the prompt's other samples (RLOO)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trueup.errors import check_at_least, check_choice
from trueup.objectives.protocol import Data, Needs, Unweighted

Baseline = Literal["none", "mean", "leave-one-out"]


@dataclass(frozen=True, kw_only=True)
class Reinforce(Unweighted):
    """Policy gradient on whole completions: likelier where they beat the prompt's other samples.

    loss_i    = -mean over k of exp(sample_logps - proposal_logps)_ik * advantage_ik
    advantage = score_ik - baseline_ik
    score     = reward - beta * log proposal/ref(sample), no gradient

    baseline "leave-one-out"  the mean score of the prompt's other samples: RLOO, unbiased
             "mean"           the mean of all of them: the same gradient times (K - 1) / K
             "none"           0: unbiased, of a variance that grows with the mean score

    Its optimum is ref * exp(reward / beta) / Z, that of reward - beta * KL.

    Units:  rewards are the user's; beta turns nats, summed over completion tokens, into them.
    Fields: beta >= 0 ties the policy to the reference; samples K, 2 to 8, at least 2 unless the
            baseline is none.
    Edges:  equal scores move nothing with a baseline. The ratio is of whole completions and not
            bounded: with several updates per round watch it, or take `grpo`.
    Raises: UserError where a field leaves its range.
    Use:    a reward and a good start: in the paper RLOO beats PPO, DPO and RAFT on rewards and win
            rates, with fewer copies of the model than PPO.
    Not:    only preferences are at hand (DPO); many updates on one round's samples (`grpo`).
    Source: Ahmadian et al. 2024, arXiv 2402.14740, section 2. Ours: the importance ratio without
            PPO's clip, and beta 0.05, which is TRL's.
    """

    beta: float = 0.05
    samples: int = 4
    baseline: Baseline = "leave-one-out"
    name: ClassVar[str] = "reinforce"
    data: ClassVar[Data] = "samples"
    source: ClassVar[str] = "prompts"
    needs: ClassVar[Needs] = Needs(reference=True, rewards=True)
    arxiv: ClassVar[str] = "2402.14740"

    def __post_init__(self) -> None:
        check_at_least(0, beta=self.beta)
        check_choice(("none", "mean", "leave-one-out"), baseline=self.baseline)
        check_at_least(1 if self.baseline == "none" else 2, samples=self.samples)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per prompt, [B]."""
        return reinforce_loss(
            sample_logps=batch["sample_logps"],
            proposal_logps=batch["proposal_logps"],
            advantages=batch["advantages"],
        )

    def collected(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each sample is worth, advantages [B, K]."""
        drift = batch["sample_logps"] - batch["ref_sample_logps"]
        scores = batch["rewards"] - self.beta * drift
        return {"advantages": reinforce_advantages(scores, self.baseline)}


def reinforce_loss(*, sample_logps: Tensor, proposal_logps: Tensor, advantages: Tensor) -> Tensor:
    """REINFORCE's formula on plain tensors, [B, K] in, [B] out; symbols as in `Reinforce`."""
    return -(torch.exp(sample_logps - proposal_logps) * advantages).mean(dim=1)


def reinforce_advantages(scores: Tensor, baseline: Baseline) -> Tensor:
    """Scores less their baseline, [B, K] in and out."""
    if baseline == "none":
        return scores
    ahead = scores - scores.mean(dim=1, keepdim=True)
    if baseline == "mean":
        return ahead
    samples = scores.shape[1]
    return ahead * samples / (samples - 1)
