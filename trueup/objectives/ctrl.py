"""InfAlign's CTRL: a reward calibrated and transformed for the way in which answers are served."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from scipy.optimize import brentq
from torch import Tensor

from trueup.errors import UserError, check_at_least, check_choice, check_positive
from trueup.objectives.protocol import Data, Needs, Unweighted
from trueup.objectives.reinforce import reinforce_advantages, reinforce_loss

Kind = Literal["exp", "identity", "log"]
Procedure = Literal["bon", "won"]
KINDS: tuple[Kind, ...] = ("exp", "identity", "log")
PROCEDURES: tuple[Procedure, ...] = ("bon", "won")
STEEPEST = 50.0  # exp(t u) in float32 ends at 88; the sheet trusts 50
FLATTEST = 0.01  # nearer to 0 the exponential is the identity, and its spread is lost in rounding
_BINS = 10_000  # of the grid for continuous rewards: integrals to about 1e-7
_TOLERANCE = 1e-12
_STEPS = 10_000


@dataclass(frozen=True, kw_only=True)
class CTRL(Unweighted):
    """InfAlign's calibrate-and-transform RL: reinforcement learning for best-of-N or worst-of-N.

    calibrated_ij = P[reference's reward < rewards_ij] + P[equal] / 2, under the row's own prompt
    reward_ij     = transform(calibrated_ij) - beta * log pi/ref(sample_ij)
    advantage_ij  = reward_ij - mean reward of the row's other samples
    loss_i        = -mean over j of pi/proposal(sample_ij) * advantage_ij
    optimum       : pi proportional to ref * exp(transform(calibrated) / beta)

    Units:  nats, sums over completion tokens; a calibrated reward is a share, 0 to 1.
    Fields: samples >= 2 per prompt and round; calibration_samples of the reference per prompt, 50
            and more: the calibrated reward moves in steps of 1/calibration_samples; kind is exp
            (sign(t) exp(t u)), identity (best for one plain sample) or log (the law of best-of-m
            at beta = 1/(m - 1) without `normalise`); t, with 0.01 <= |t| <= 50: +10 for best-of-4,
            -10 for worst-of-4; normalise divides the transform by its standard deviation under
            u ~ U[0, 1]; beta > 0: normalised, exp at t=10 ends 0.5 nats from the reference at beta
            1.6, 1 nat at 1.2, 5 nats at 0.1, and `beta_for_kl` knows the others.
    Edges:  ties count half; log takes a calibrated 0 as 1/(2 calibration_samples).
    Raises: UserError where a field leaves its range.
    Use:    answers are served as the best of N by the same reward, or an attacker has N attempts:
            3 to 8 points of win rate over the best standard method.
    Not:    one plain sample is served (identity, or plain RL); the sampler is not the reference's
            distribution (keep temperature 1, no top-p); rewards must not be clipped or whitened.
    Source: Balashankar et al. 2024, arXiv 2412.19792, whose code is not public. Recalled, not read:
            t = 10 for N = 4, 100 calibration samples. Ours: the optimiser, REINFORCE with a
            leave-one-out baseline and no clipping; `normalise`.
    """

    samples: int = 8
    calibration_samples: int = 100
    kind: Kind = "exp"
    t: float = 10.0
    beta: float = 1.6
    normalise: bool = True
    name: ClassVar[str] = "ctrl"
    data: ClassVar[Data] = "samples"
    source: ClassVar[str] = "prompts"
    needs: ClassVar[Needs] = Needs(reference=True, rewards=True)
    arxiv: ClassVar[str] = "2412.19792"

    def __post_init__(self) -> None:
        check_at_least(2, samples=self.samples)
        check_at_least(1, calibration_samples=self.calibration_samples)
        check_choice(KINDS, kind=self.kind)
        _check_slope(self.t)
        check_positive(beta=self.beta)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """One loss per prompt, [B]."""
        return reinforce_loss(
            sample_logps=batch["sample_logps"],
            proposal_logps=batch["proposal_logps"],
            advantages=batch["advantages"],
        )

    def collected(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`advantages` and `calibrated` rewards of a round, [B, K]; `ref_rewards` are [B, M]."""
        ref_rewards = batch["ref_rewards"]
        calibrated = calibrate(batch["rewards"], ref_rewards[:, None, :])
        least = 0.5 / ref_rewards.shape[-1] if self.kind == "log" else 0.0
        shares = calibrated.clamp(min=least)
        phi = transform(shares, kind=self.kind, t=self.t, normalise=self.normalise)
        penalty = self.beta * (batch["sample_logps"] - batch["ref_sample_logps"])
        advantages = reinforce_advantages(phi - penalty, "leave-one-out")
        return {"advantages": advantages, "calibrated": calibrated}


def calibrate(rewards: Tensor, ref_rewards: Tensor) -> Tensor:
    """The share of the reference's samples that each reward beats, ties half, in [0, 1].

    Shapes: rewards [...], ref_rewards [..., M], whose leading axes broadcast against rewards; they
            are the reference's under the same prompt, never the trained policy's, whose own shares
            would average 1/2 whatever it does.
    """
    own = rewards[..., None]
    dtype = rewards.dtype if rewards.is_floating_point() else torch.get_default_dtype()
    return (ref_rewards < own).to(dtype).mean(-1) + (ref_rewards == own).to(dtype).mean(-1) / 2


def transform(
    u: Tensor, kind: Kind = "identity", t: float = 10.0, normalise: bool = False
) -> Tensor:
    """An increasing function of calibrated rewards u: u, log u, or sign(t) exp(t u).

    normalise divides it by its standard deviation under u ~ U[0, 1].
    Edges: log 0 is -inf.
    Raises: UserError for another kind, or a t at which exp would be flat or overflow.
    """
    check_choice(KINDS, kind=kind)
    if kind == "identity":
        return u * math.sqrt(12) if normalise else u
    if kind == "log":
        return u.log()  # its standard deviation is 1
    _check_slope(t)
    if not normalise:
        return math.copysign(1, t) * (t * u).exp()
    steep = abs(t)
    mean, square = -math.expm1(-steep) / steep, -math.expm1(-2 * steep) / (2 * steep)
    spread = math.sqrt(square - mean**2)  # of exp(t u - max(t, 0))
    return math.copysign(1 / spread, t) * (t * u - max(t, 0.0)).exp()


def _check_slope(t: float) -> None:
    """Raise UserError where the exponential is flat, overflows or is no number."""
    if not FLATTEST <= abs(t) <= STEEPEST:
        raise UserError(
            f"t must lie between {FLATTEST} and {STEEPEST:g} or their negatives, got {t}"
        )


def tilt(ref_probs: Tensor, phi: Tensor, beta: float) -> Tensor:
    """The policy that maximises E[phi] - beta * KL to the reference, [..., Y] probabilities."""
    check_positive(beta=beta)
    return (ref_probs.log() + phi / beta).softmax(-1)


def win_rate(
    probs: Tensor,
    ref_probs: Tensor,
    rewards: Tensor,
    procedure: Procedure = "bon",
    n: int = 1,
) -> Tensor:
    """P[a policy's best (worst) of n beats the reference's best (worst) of n], ties half; scalar.

    Exact, from probabilities [Y] of the responses; differentiable in them.
    """
    check_choice(PROCEDURES, procedure=procedure)
    check_at_least(1, n=n)
    if procedure == "won":  # the worst is the best of the negated rewards, and should not be it
        return 1 - win_rate(probs, ref_probs, -rewards, "bon", n)
    levels, level = torch.unique(rewards, return_inverse=True)
    zeros = probs.new_zeros(len(levels) + 1)  # the first for what lies below all
    best = zeros.index_add(0, level + 1, probs).cumsum(0) ** n
    ref_best = zeros.index_add(0, level + 1, ref_probs).cumsum(0) ** n
    return (best.diff() * (ref_best[1:] + ref_best[:-1])).sum() / 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What a transform reaches for continuous rewards, whatever prompt and reward model.

    Shapes: cdf and phi [U], at U points from u = 0 to u = 1 in equal steps: the policy's cumulative
            distribution over the calibrated reward, and the transform.
    Fields: standard_win_rate is that of one sample against one of the reference; win_rate that of
            the procedure against the same procedure; kl in nats; steps taken to the fixed point.
    """

    cdf: Tensor
    phi: Tensor
    standard_win_rate: float
    win_rate: float
    kl: float
    steps: int = 0


def plan(procedure: Procedure, n: int, beta: float) -> Plan:
    """The best transform for best-of-n or worst-of-n at this beta, with phi = 0 at u = 0.

    phi' = n^2 * (cdf * u)^(n-1) for bon, n^2 * ((1 - cdf) * (1 - u))^(n-1) for won, where cdf is
    that of the density exp(phi / beta) / Z: a fixed point, found with damping 1/2.
    Raises: UserError where it does not settle: beta is too small for this n.
    """
    check_at_least(1, n=n)
    check_positive(beta=beta)
    cdf = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)
    for step in range(1, _STEPS + 1):
        there = _cdf(_density(worth(cdf, procedure, n), beta))
        change = float((there - cdf).abs().max())
        cdf = (cdf + there) / 2
        if change < _TOLERANCE:
            return _outlook(worth(cdf, procedure, n), beta, procedure, n, step)
    raise UserError(
        f"beta must be larger for the fixed point of {procedure} with n={n}, got {beta}; "
        f"after {_STEPS} steps it still moved by {change:.1e}"
    )


def worth(cdf: Tensor, procedure: Procedure, n: int) -> Tensor:
    """What a unit of probability at u adds to the procedure's win rate, [U], 0 at u = 0.

    The functional derivative of the win rate at a policy with this cumulative distribution.
    """
    check_choice(PROCEDURES, procedure=procedure)
    u = torch.linspace(0, 1, len(cdf), dtype=cdf.dtype)
    both = cdf * u if procedure == "bon" else (1 - cdf) * (1 - u)
    return _integral(n**2 * both ** (n - 1))


def outlook(phi: Tensor, *, beta: float, procedure: Procedure, n: int) -> Plan:
    """The win rates and the KL that a transform reaches at its optimum, for continuous rewards.

    Shapes: phi [U], at U points from u = 0 to u = 1 in equal steps.
    Edges:  phi may be flat in places, as a planned one is at an end, in rounding.
    Raises: UserError where phi falls somewhere or is constant: better answers would gain nothing.
    """
    check_positive(beta=beta)
    check_at_least(1, n=n)
    check_choice(PROCEDURES, procedure=procedure)
    if not ((phi.diff() >= 0).all() and phi[-1] > phi[0]):
        ends = f"{float(phi[0]):.6g} to {float(phi[-1]):.6g}"
        fall = float(phi.diff().min())
        raise UserError(
            f"phi must rise with the calibrated reward, got {ends} with steps down to {fall:.3g}"
        )
    return _outlook(phi.double(), beta, procedure, n, 0)


def beta_for_kl(phi: Tensor, kl: float) -> float:
    """The beta at which a transform's optimum lies `kl` nats from the reference.

    Shapes: phi [U], at U points from u = 0 to u = 1 in equal steps.
    Raises: UserError where no beta within 1e-3 and 1e3 of phi's range on [0.01, 0.99] does.
    """
    check_positive(kl=kl)
    inner = phi[len(phi) // 100 : -(len(phi) // 100)].double()
    reach = float(inner[-1] - inner[0])

    def excess(log_beta: float) -> float:
        return _kl(_density(phi.double(), math.exp(log_beta))) - kl

    low, high = math.log(reach * 1e-3), math.log(reach * 1e3)
    if not excess(low) > 0 > excess(high):
        least, most = excess(high) + kl, excess(low) + kl
        raise UserError(f"kl must lie between {least:.2g} and {most:.3g} here, got {kl}")
    return math.exp(float(brentq(excess, low, high, xtol=1e-13)))


def _outlook(phi: Tensor, beta: float, procedure: Procedure, n: int, steps: int) -> Plan:
    density = _density(phi, beta)
    cdf = _cdf(density)
    u = torch.linspace(0, 1, len(phi), dtype=torch.float64)
    step = 1 / (len(phi) - 1)
    if procedure == "bon":
        won = 1 - torch.trapezoid(cdf**n * n * u ** (n - 1), dx=step)
    else:
        won = torch.trapezoid((1 - cdf) ** n * n * (1 - u) ** (n - 1), dx=step)
    return Plan(
        cdf=cdf,
        phi=phi,
        standard_win_rate=float(1 - torch.trapezoid(cdf, dx=step)),
        win_rate=float(won),
        kl=_kl(density),
        steps=steps,
    )


def _density(phi: Tensor, beta: float) -> Tensor:
    """exp(phi / beta), normalised over [0, 1]."""
    heights = ((phi - phi.max()) / beta).exp()
    return heights / torch.trapezoid(heights, dx=1 / (len(phi) - 1))


def _kl(density: Tensor) -> float:
    terms = torch.special.xlogy(density, density)
    return float(torch.trapezoid(terms, dx=1 / (len(density) - 1)))


def _cdf(density: Tensor) -> Tensor:
    cdf = _integral(density)
    return cdf / cdf[-1]


def _integral(heights: Tensor) -> Tensor:
    """The integral from 0 to each point, [U]."""
    parts = torch.cumulative_trapezoid(heights, dx=1 / (len(heights) - 1))
    return torch.cat([parts.new_zeros(1), parts])
