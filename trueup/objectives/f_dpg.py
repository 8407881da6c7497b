"""f-DPG: follow a stated target distribution by policy gradient on any f-divergence."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import logsigmoid

from trueup.errors import UserError, check_at_least, check_choice, check_positive
from trueup.objectives.protocol import Data, Needs, Unweighted

Array = NDArray[np.float64]
Divergence = Literal["forward-kl", "reverse-kl", "tv", "js", "chi2-p-pi", "chi2-pi-p"]
F_PRIME: dict[Divergence, Callable[[Tensor], Tensor]] = {  # of log t, t = pi / p
    "forward-kl": lambda log_t: -torch.exp(-log_t),
    "reverse-kl": lambda log_t: log_t + 1,
    "tv": lambda log_t: torch.sign(log_t) / 2,
    "js": lambda log_t: math.log(2) + logsigmoid(log_t),
    "chi2-p-pi": lambda log_t: -torch.expm1(-2 * log_t),
    "chi2-pi-p": lambda log_t: 2 * torch.expm1(log_t),
}
NO_HARD_ZEROS = ("reverse-kl", "chi2-pi-p")  # their f' is infinite where the target is 0
REACHED = 1e-6  # how close fitted moments must come


@dataclass(frozen=True, kw_only=True)
class FDPG(Unweighted):
    """f-divergence policy gradient: own samples, pulled towards an explicit target distribution.

    loss_i   = mean over k of weight_ik * (f'(l_ik) + baseline_i) * sample_logps_ik
    l_ik     = sample_logps_ik - (target_logscores_ik - log_z_i), no gradient
    weight   = exp(sample_logps - proposal_logps), no gradient, 1 on the policy's own samples
    baseline = mean over k of -f'(l_ik): a constant, which changes no expectation

    The gradient of the loss is that of the divergence of policy and target; its value is not the
    divergence.

    target "reward"      log P = ref_sample_logps + rewards / beta, the optimum of reward - beta KL
    target "constraint"  log P = ref_sample_logps where the reward is 1, minus infinity where 0

    Several moments E[phi] = mu at once: fit lambdas (`fit_moments`), give the reward lambdas * phi
    and beta 1.

    Units:  nats, sums over completion tokens.
    Fields: divergence, default js: forward-kl covers all of the target, reverse-kl picks its
            highest mode; beta > 0 of the target, 0.05 to 1; samples K, 256 and more where they can
            be afforded; baseline, the row's plain mean, the sample itself included;
            clip_pull >= 0 bounds |f'| and biases the gradient, 0 never clips.
    State:  running_log_z_sum and running_count [B] per prompt: log_z is the log of the mean of
            P / proposal over all samples of all rounds.
    Edges:  where the target is 0, f' is its limit; a row whose samples all are has no gradient
            with a baseline.
    Raises: UserError where a field leaves its range, for a constraint with reverse-kl or chi2-pi-p,
            and for a constraint's reward that is neither 0 nor 1.
    Use:    the wanted distribution can be scored: half of the texts mention X, a predicate always
            holds, a given beta; js kept more diversity than reverse-kl at like alignment.
    Not:    only preferences are at hand (DPO); nor sampling with a temperature or top-p, which the
            proposal's log-probabilities do not know of.
    Source: Go et al. 2023, arXiv 2302.08215, theorem 1; js is twice the textbook's. Ours: the
            baseline is the row's mean, where the authors' code keeps a window of 1024 samples.
    """

    divergence: Divergence = "js"
    beta: float = 0.1
    samples: int = 16
    baseline: bool = True
    clip_pull: float = 0.0
    target: Literal["reward", "constraint"] = "reward"
    name: ClassVar[str] = "f-dpg"
    data: ClassVar[Data] = "samples"
    source: ClassVar[str] = "prompts"
    needs: ClassVar[Needs] = Needs(reference=True, rewards=True)
    arxiv: ClassVar[str] = "2302.08215"

    def __post_init__(self) -> None:
        check_choice(F_PRIME, divergence=self.divergence)
        check_choice(("reward", "constraint"), target=self.target)
        check_positive(beta=self.beta)
        check_at_least(1, samples=self.samples)
        check_at_least(0, clip_pull=self.clip_pull)
        if self.target == "constraint" and self.divergence in NO_HARD_ZEROS:
            allowed = ", ".join(name for name in F_PRIME if name not in NO_HARD_ZEROS)
            raise UserError(
                f"divergence must be one of {allowed} with target=constraint, got "
                f"{self.divergence!r}; it is infinite where the constraint fails"
            )

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per prompt, [B]."""
        return fdpg_loss(
            sample_logps=batch["sample_logps"],
            proposal_logps=batch["proposal_logps"],
            target_logscores=batch["target_logscores"],
            log_z=batch["log_z"],
            divergence=self.divergence,
            baseline=self.baseline,
            clip=self.clip_pull,
            sample_mask=batch["sample_mask"],
        )

    def collected(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """target_logscores [B, K], log_z [B], and the running quantities of each prompt."""
        scores = self._target_logscores(batch["ref_sample_logps"], batch["rewards"])
        proposal, mask = batch["sample_logps"], batch["sample_mask"].bool()
        count = mask.sum(dim=1).to(scores.dtype)
        log_sum = estimate_log_z(proposal, scores, mask) + count.log()
        if "running_count" in batch:
            seen = ~batch["running_count"].isnan()
            before = torch.where(seen, batch["running_log_z_sum"], -math.inf)
            log_sum = torch.logaddexp(log_sum, before.to(log_sum.dtype))
            count = count + torch.where(seen, batch["running_count"], 0)
        return {
            "target_logscores": scores,
            "log_z": log_sum - count.log(),
            "running_log_z_sum": log_sum,
            "running_count": count,
        }

    def _target_logscores(self, ref_sample_logps: Tensor, rewards: Tensor) -> Tensor:
        """The target's log P, [B, K]."""
        if self.target == "reward":
            return ref_sample_logps + rewards / self.beta
        wrong = rewards[(rewards != 0) & (rewards != 1)]
        if len(wrong):
            raise UserError(
                f"f-dpg: target=constraint needs rewards of 0 or 1, got {float(wrong[0]):g}"
            )
        return ref_sample_logps + rewards.log()


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """An enumerable target: probs [Y], log Z, and lambdas [F] where moments made it."""

    probs: Tensor
    log_z: float
    lambdas: Tensor | None = None


def fdpg_loss(
    *,
    sample_logps: Tensor,
    proposal_logps: Tensor,
    target_logscores: Tensor,
    log_z: Tensor,
    divergence: Divergence = "js",
    baseline: bool = True,
    clip: float = 0.0,
    sample_mask: Tensor | None = None,
) -> Tensor:
    """f-DPG's formula on plain tensors, [B, K] and log_z [B] in, [B] out; symbols as in `FDPG`.

    Only the last sample_logps carries a gradient; samples off the mask leave every mean.
    """
    with torch.no_grad():
        log_ratio = torch.where(
            target_logscores == -math.inf,
            math.inf,
            sample_logps - target_logscores + log_z[:, None],
        )
        pull = f_prime(log_ratio, divergence)
        if clip:
            pull = pull.clamp(-clip, clip)
        mask = torch.ones_like(pull) if sample_mask is None else sample_mask.to(pull.dtype)
        count = mask.sum(dim=1, keepdim=True).clamp(min=1)
        pull = pull.masked_fill(mask == 0, 0)
        if baseline:
            pull = (pull - pull.sum(dim=1, keepdim=True) / count) * mask
        weights = torch.exp(sample_logps - proposal_logps).masked_fill(mask == 0, 0)
    return (weights * pull * sample_logps / count).sum(dim=1)


def f_prime(log_ratio: Tensor, divergence: Divergence) -> Tensor:
    """f'(t) at t = exp(log_ratio) = pi / p, any shape; its negative is the pseudo-reward.

    f is -log t (forward-kl), t log t (reverse-kl), |t - 1| / 2 (tv), t log(2t / (t + 1)) +
    log(2 / (t + 1)) (js), (1 - t)^2 / t (chi2-p-pi), (t - 1)^2 (chi2-pi-p).
    Edges:  log_ratio infinite: the limit, which is infinite for reverse-kl and chi2-pi-p.
    Source: Go et al. 2023, arXiv 2302.08215, table 1.
    """
    return F_PRIME[divergence](log_ratio)


def f_divergence(policy_probs: Tensor, target_probs: Tensor, divergence: Divergence) -> Tensor:
    """D_f(policy, target) over the last axis, exactly; [..., Y] in, [...] out, differentiable.

    forward-kl KL(p to pi), reverse-kl KL(pi to p), tv half the summed distance, js the sum of both
    KLs to the mean, chi2-p-pi with pi and chi2-pi-p with p as denominator.
    Edges:  infinite where a denominator is 0 and the other is not.
    """
    pi, p = policy_probs, target_probs
    middle = (pi + p) / 2
    if divergence == "forward-kl":
        parts = _relative(p, pi)
    elif divergence == "reverse-kl":
        parts = _relative(pi, p)
    elif divergence == "tv":
        parts = (pi - p).abs() / 2
    elif divergence == "js":
        parts = _relative(pi, middle) + _relative(p, middle)
    else:
        below = pi if divergence == "chi2-p-pi" else p
        parts = (pi - p).square() / torch.where(middle > 0, below, 1)
    return parts.sum(dim=-1)


def estimate_log_z(
    proposal_logps: Tensor, target_logscores: Tensor, sample_mask: Tensor | None = None
) -> Tensor:
    """The log of the mean over K of exp(target_logscores - proposal_logps); [B, K] in, [B] out.

    The mean is an unbiased estimate of Z where the samples are the proposal's.
    """
    ratios = target_logscores - proposal_logps
    if sample_mask is None:
        return ratios.logsumexp(dim=1) - math.log(ratios.shape[1])
    counts = sample_mask.sum(dim=1).to(ratios.dtype)
    return ratios.masked_fill(~sample_mask.bool(), -math.inf).logsumexp(dim=1) - counts.log()


def reward_target(base_probs: Tensor, rewards: Tensor, beta: float) -> Target:
    """The target base * exp(rewards / beta) / Z over an enumerable space, [Y]."""
    return _normalised(base_probs.log() + rewards / beta)


def exponential_target(base_probs: Tensor, features: Tensor, moments: Tensor) -> Target:
    """The target base * exp(features @ lambdas) / Z with the given moments, [Y]; features [Y, F].

    Of all distributions with these moments it is the nearest to the base in KL.
    Raises: UserError where no such distribution exists.
    """
    lambdas = fit_moments(features=features, moments=moments, log_weights=base_probs.log())
    return _normalised(base_probs.log() + features @ lambdas, lambdas)


def fit_moments(*, features: Tensor, moments: Tensor, log_weights: Tensor) -> Tensor:
    """The lambdas [F] such that E[features] = moments under weights * exp(features @ lambdas).

    Exact with log_weights [Y] the base's log-probabilities of a whole space. From samples [N] of
    the base it is self-normalised importance sampling with log_weights 0 (log base - log proposal
    where another policy drew them).
    Shapes: features [N, F], moments [F] in, [F] out; float64.
    Raises: UserError where the fit stays away from a moment: no weights of these rows reach it.
    """
    phi, mu, logs = features.double(), moments.double(), log_weights.double()

    def dual(point: Array) -> tuple[float, Array]:
        lambdas = torch.as_tensor(point)
        scores = logs + phi @ lambdas
        gap = scores.softmax(dim=0) @ phi - mu
        return float(scores.logsumexp(dim=0) - mu @ lambdas), gap.numpy()

    with np.errstate(all="ignore"):  # without an optimum the lambdas grow until the search ends
        found = minimize(dual, np.zeros(len(mu)), jac=True, method="BFGS", options={"gtol": 1e-10})
    place = int(abs(found.jac).argmax())
    if not abs(found.jac[place]) < REACHED:
        raise UserError(
            f"moments[{place}] must be within reach of the features, got {float(mu[place]):g}; "
            f"the nearest found is {float(mu[place] + found.jac[place]):g}"
        )
    return torch.as_tensor(found.x)


def _relative(p: Tensor, q: Tensor) -> Tensor:
    """The terms p log(p / q), 0 where p is."""
    return torch.xlogy(p, p) - torch.xlogy(p, q)


def _normalised(logscores: Tensor, lambdas: Tensor | None = None) -> Target:
    """The target of unnormalised log-scores."""
    log_z = float(logscores.logsumexp(dim=-1))
    return Target(probs=logscores.softmax(dim=-1), log_z=log_z, lambdas=lambdas)
