"""GRPO: own samples weighed by their reward within the prompt's group, ratios clipped per token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from scipy.optimize import brentq
from torch import Tensor

from trueup.errors import check_at_least, check_choice, check_positive
from trueup.objectives.protocol import Data, Needs

LossType = Literal["sequence-mean", "token-mean"]
STEADY = 1e-4  # added to a group's standard deviation, as TRL does; the paper adds nothing


@dataclass(frozen=True, kw_only=True)
class GRPO:
    """Group relative policy optimization: PPO's clipped ratio, with the group as its critic.

    cost_kt   = -min(ratio_kt * advantage_k, clamp(ratio_kt, 1 - c, 1 + c) * advantage_k)
                + beta * (exp(d_kt) - d_kt - 1)
    ratio_kt  = pi / proposal of token t,  d_kt = log ref - log pi of token t
    advantage = (reward - mean) / std over the prompt's K samples
    loss_i    = mean over k of the mean over t of cost_kt (sequence-mean), or the mean over all
                tokens (token-mean)

    The KL's gradient on own samples is that of KL(ref to pi), not of KL(pi to ref): the optimum is
    `grpo_optimum` and not ref * exp(reward / beta).

    Units:  nats per token.
    Fields: beta >= 0 of the KL to the reference; clip_ratio > 0 is c; samples K, 4 to 64; scale
            divides by std, so that a prompt whose rewards hardly differ counts as much as one
            whose rewards differ widely. token-mean gives all tokens of a batch one weight,
            sequence-mean makes the tokens of a long sample cheap.
    Edges:  std is the sample's (K - 1), plus 1e-4; a group of equal rewards has advantages 0. Token
            tables of the proposal and the reference may be wider than the policy's.
    Raises: UserError where a field leaves its range.
    Use:    rewards that a program or a model gives, no critic in memory; several updates per round,
            where the clip holds the policy near its samples.
    Not:    a target distribution is known (f-dpg); nor K so small that all rewards of a group tend
            to be equal, where nothing is learned.
    Source: Shao et al. 2024, arXiv 2402.03300, eq. 3 and 4, outcome supervision. Ours: clip 0.2 and
            1e-4 are TRL's; token-mean runs over the batch, where Yu et al. 2025, arXiv 2503.14476
            (DAPO), run over the prompt's group.
    """

    beta: float = 0.04
    clip_ratio: float = 0.2
    samples: int = 8
    scale: bool = True
    loss_type: LossType = "sequence-mean"
    name: ClassVar[str] = "grpo"
    data: ClassVar[Data] = "samples"
    source: ClassVar[str] = "prompts"
    needs: ClassVar[Needs] = Needs(reference=True, rewards=True)
    arxiv: ClassVar[str] = "2402.03300"

    def __post_init__(self) -> None:
        check_at_least(0, beta=self.beta)
        check_positive(clip_ratio=self.clip_ratio)
        check_at_least(2, samples=self.samples)
        check_choice(("sequence-mean", "token-mean"), loss_type=self.loss_type)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per prompt, [B]."""
        logps = batch["sample_token_logps"]
        width = logps.shape[-1]
        return grpo_loss(
            sample_token_logps=logps,
            proposal_token_logps=batch["proposal_token_logps"][..., :width],
            ref_sample_token_logps=batch["ref_sample_token_logps"][..., :width],
            sample_token_mask=batch["sample_token_mask"],
            advantages=batch["advantages"],
            beta=self.beta,
            clip=self.clip_ratio,
            loss_type=self.loss_type,
        )

    def weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The tokens of a prompt's samples for token-mean, else 1, [B]."""
        tokens = batch["sample_lengths"].to(batch["sample_logps"].dtype).sum(dim=1)
        return tokens if self.loss_type == "token-mean" else torch.ones_like(tokens)

    def collected(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each sample is worth, advantages [B, K]."""
        return {"advantages": grpo_advantages(batch["rewards"], scale=self.scale)}


def grpo_loss(
    *,
    sample_token_logps: Tensor,
    proposal_token_logps: Tensor,
    ref_sample_token_logps: Tensor,
    sample_token_mask: Tensor,
    advantages: Tensor,
    beta: float = 0.04,
    clip: float = 0.2,
    loss_type: LossType = "sequence-mean",
) -> Tensor:
    """GRPO's formula on plain tensors, [B, K, T] and advantages [B, K] in, [B] out; as in `GRPO`.

    Edges: a sample without tokens costs 0; off the mask anything may stand.
    """
    mask = sample_token_mask.bool()
    logps = torch.where(mask, sample_token_logps, 0)
    ratio = torch.exp(logps - torch.where(mask, proposal_token_logps, 0))
    ahead = torch.where(mask, ref_sample_token_logps, 0) - logps
    gains = advantages[..., None]
    cost = -torch.minimum(ratio * gains, ratio.clamp(1 - clip, 1 + clip) * gains)
    cost = torch.where(mask, cost + beta * (torch.expm1(ahead) - ahead), 0)
    tokens = mask.sum(dim=-1)
    if loss_type == "token-mean":
        return cost.sum(dim=(-1, -2)) / tokens.sum(dim=-1).clamp(min=1)
    return (cost.sum(dim=-1) / tokens.clamp(min=1)).mean(dim=-1)


def grpo_advantages(rewards: Tensor, *, scale: bool = True, ddof: int = 1) -> Tensor:
    """Rewards less their group's mean, over their group's std + 1e-4 if `scale`; [B, K] in and out.

    std divides by K - ddof. Edges: equal rewards give 0.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    is_flat = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)
    centred = centred.masked_fill(is_flat, 0)
    if not scale:
        return centred
    return centred / (rewards.std(dim=1, keepdim=True, correction=ddof) + STEADY)


def grpo_optimum(ref_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """The policy that GRPO reaches on one prompt with responses of one token, [Y].

    pi(y) = beta * ref(y) / (level - reward(y)), with the level at which they add up to 1: the best
    of E_pi[reward] - beta * KL(ref to pi).
    Without scale and clip; beta times K / (K - 1) for groups of K, whose mean holds the sample
    itself.
    """
    top = int(rewards.argmax())
    best, share = float(rewards[top]), float(ref_probs[top])

    def excess(level: float) -> float:
        return float((beta * ref_probs / (level - rewards)).sum()) - 1

    level = brentq(excess, best + beta * share, best + beta, xtol=1e-14)
    return beta * ref_probs / (level - rewards)
