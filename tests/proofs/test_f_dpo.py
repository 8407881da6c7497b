"""f-DPO: each divergence by arithmetic, its limits, and its own optimum found by training."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import brentq

from tests.proofs.dpo_family import BATCH, BETA, SUMS, is_close, leaves, row, slopes, swapped
from tests.proofs.trl_peer import dpo_trainer_loss
from trueup.errors import UserError
from trueup.objectives.dpo import dpo_loss
from trueup.objectives.f_dpo import DIVERGENCES, FDPO, Divergence, f_dpo_loss
from trueup.worlds.enumerable import EnumerableWorld, minimised

UP = SUMS["chosen_logps"] - SUMS["ref_chosen_logps"]  # 0.5, -1.25, 0.5, 0.25
DOWN = SUMS["rejected_logps"] - SUMS["ref_rejected_logps"]  # -0.5, 1, -0.75, -5
ALPHA = 0.3

each_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)
other_divergence = pytest.mark.parametrize("divergence", DIVERGENCES[1:])

# each f' and its inverse, in u itself
SLOPE: dict[Divergence, Callable[[float], float]] = {
    "reverse-kl": lambda u: math.log(u) + 1,
    "forward-kl": lambda u: -1 / u,
    "js": lambda u: math.log(2 * u / (1 + u)),
    "alpha": lambda u: (1 - u**-ALPHA) / ALPHA,
}
INVERSE: dict[Divergence, Callable[[float], float]] = {
    "reverse-kl": lambda s: math.exp(s - 1),
    "forward-kl": lambda s: -1 / s,
    "js": lambda s: 1 / (2 * math.exp(-s) - 1),
    "alpha": lambda s: (1 - ALPHA * s) ** (-1 / ALPHA),
}
HIGHEST = {"reverse-kl": math.inf, "forward-kl": 0.0, "js": math.log(2), "alpha": 1 / ALPHA}
F: dict[Divergence, Callable[[torch.Tensor], torch.Tensor]] = {
    "reverse-kl": lambda u: u * u.log(),
    "forward-kl": lambda u: -u.log(),
    "js": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
    "alpha": lambda u: (u ** (1 - ALPHA) - (1 - ALPHA) * u - ALPHA) / (ALPHA * (ALPHA - 1)),
}


def of_ratios(
    up: torch.Tensor, down: torch.Tensor, divergence: Divergence, alpha: float = ALPHA
) -> torch.Tensor:
    return f_dpo_loss(
        chosen_logps=up,
        rejected_logps=down,
        ref_chosen_logps=torch.zeros_like(up),
        ref_rejected_logps=torch.zeros_like(down),
        beta=BETA,
        divergence=divergence,
        alpha=alpha,
    )


def margins(losses: torch.Tensor) -> torch.Tensor:
    """The margins that the losses came from."""
    return -losses.expm1().log() / BETA


# the formula


@each_divergence
def test_losses_are_arithmetic_on_sheet_00s_data(divergence: Divergence) -> None:
    slope = SLOPE[divergence]
    expected = [
        math.log1p(math.exp(-BETA * (slope(math.exp(up)) - slope(math.exp(down)))))
        for up, down in zip(UP.tolist(), DOWN.tolist(), strict=True)
    ]
    found = FDPO(beta=BETA, divergence=divergence, alpha=ALPHA).loss(BATCH)
    assert is_close(found, *expected, tolerance=1e-12)


def test_first_pairs_losses_are_these_numbers() -> None:
    # log u = 0.5 against -0.5; by hand: margins 1, 2 sinh 0.5, 0.5, sinh(0.15) / 0.15
    found = [float(of_ratios(UP, DOWN, divergence)[0]) for divergence in DIVERGENCES]
    assert found == pytest.approx(
        [
            math.log1p(math.exp(-0.1)),
            math.log1p(math.exp(-0.2 * math.sinh(0.5))),
            math.log1p(math.exp(-0.05)),
            math.log1p(math.exp(-0.2 * math.sinh(0.15) / 0.3)),
        ],
        abs=1e-12,
    )


@each_divergence
def test_the_reference_itself_costs_ln_2(divergence: Divergence) -> None:
    assert is_close(of_ratios(row(0, 0), row(0, 0), divergence), math.log(2), math.log(2))


@each_divergence
def test_swapping_the_pair_turns_the_margin(divergence: Divergence) -> None:
    objective = FDPO(divergence=divergence)
    there, back = objective.loss(BATCH), objective.loss(swapped(BATCH))
    assert torch.allclose(there - back, -BETA * margins(there), atol=1e-10)


@each_divergence
def test_chosen_up_and_rejected_down_is_always_wanted(divergence: Divergence) -> None:
    batch = leaves(SUMS)
    loss = f_dpo_loss(**batch, beta=BETA, divergence=divergence)
    up, down = slopes(loss, batch["chosen_logps"], batch["rejected_logps"])
    assert (up < 0).all()
    assert (down > 0).all()


@each_divergence
def test_gradients_pass_gradcheck(divergence: Divergence) -> None:
    batch = leaves(SUMS)

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        given = SUMS | {"chosen_logps": chosen, "rejected_logps": rejected}
        return f_dpo_loss(**given, beta=BETA, divergence=divergence, alpha=ALPHA)

    assert torch.autograd.gradcheck(of, (batch["chosen_logps"], batch["rejected_logps"]))


@pytest.mark.parametrize(
    ("field", "value"),
    [("beta", -1.0), ("beta", math.nan), ("alpha", 0.0), ("alpha", 1.0), ("alpha", math.nan)],
)
def test_a_field_out_of_its_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^{field} must be above 0"):
        FDPO(**{field: value})


def test_an_unknown_divergence_is_refused() -> None:
    with pytest.raises(UserError, match=r"^divergence must be one of reverse-kl, .*got 'tv'"):
        FDPO(divergence="tv")


# identities and limits


def test_reverse_kl_is_dpo() -> None:
    found = FDPO(beta=BETA, divergence="reverse-kl").loss(BATCH)
    assert torch.allclose(found, dpo_loss(**SUMS, beta=BETA), rtol=0, atol=1e-15)


@other_divergence
def test_no_other_divergence_is_dpo(divergence: Divergence) -> None:
    found = FDPO(beta=BETA, divergence=divergence).loss(BATCH)
    assert ((found - dpo_loss(**SUMS, beta=BETA)).abs() > 1e-4).all()


@pytest.mark.parametrize("alpha", [1e-3, 1e-6, 1e-9])
def test_a_small_alpha_tends_to_reverse_kl(alpha: float) -> None:
    found = margins(of_ratios(UP, DOWN, "alpha", alpha))
    assert torch.allclose(found, UP - DOWN, rtol=0, atol=13 * alpha + 1e-9)  # (u_l^2 - u_w^2) / 2


def test_alpha_one_is_forward_kl() -> None:
    assert torch.equal(of_ratios(UP, DOWN, "alpha", 1.0), of_ratios(UP, DOWN, "forward-kl"))


def test_js_near_the_reference_is_half_of_dpos_margin() -> None:
    found = margins(of_ratios(1e-3 * UP, 1e-3 * DOWN, "js"))
    assert torch.allclose(found, 0.5e-3 * (UP - DOWN), rtol=0, atol=4e-6)  # l^2 / 8


def test_js_far_below_the_reference_is_reverse_kl() -> None:
    found = margins(of_ratios(row(-41, -40), row(-40, -43), "js"))
    assert is_close(found, -1, 3, tolerance=1e-9)


def test_js_pays_no_more_than_ln_2_for_a_likely_chosen() -> None:
    found = margins(of_ratios(row(5, 50, 500), row(0, 0, 0), "js"))
    assert (found[0], found[1], found[2]) == pytest.approx(
        (0.686431832, math.log(2), math.log(2)), abs=1e-9
    )  # sheet 25, 7a


# numbers at the edge


@each_divergence
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_ratios_of_hundreds_give_finite_losses_and_the_right_pull(
    divergence: Divergence, dtype: torch.dtype
) -> None:
    up = torch.tensor([-800, -300, 300, -800], dtype=dtype, requires_grad=True)
    down = torch.tensor([-300, 300, -300, -800.5], dtype=dtype, requires_grad=True)
    losses = of_ratios(up, down, divergence)
    assert losses.isfinite().all()
    to_chosen, to_rejected = slopes(losses, up, down)
    assert to_chosen.isfinite().all()
    assert to_rejected.isfinite().all()
    assert to_chosen.norm().isfinite()
    assert (to_chosen[:2] < 0).all()  # lost pairs are pulled back however far they went


def test_past_an_exponent_of_40_the_loss_follows_the_tangent() -> None:
    inside = of_ratios(row(-39.9), row(0), "forward-kl")
    assert float(inside) == pytest.approx(BETA * math.expm1(39.9), rel=1e-12)
    beyond = of_ratios(row(-41), row(0), "forward-kl")
    assert float(beyond) == pytest.approx(BETA * (2 * math.exp(40) - 1), rel=1e-12)


# the optimum of many responses


WORLD = EnumerableWorld(rewards=row(0.9, 0.1, -0.4, 0.3), ref_logits=row(0.0, 0.5, 0.2, -0.7))
WORLD_BETA = 0.5


def solved(divergence: Divergence) -> torch.Tensor:
    """Probabilities ref * f'^-1((reward - shift) / beta), the shift found by root search."""
    ref, rewards = WORLD.ref_logps.exp().tolist(), WORLD.rewards.tolist()
    inverse = INVERSE[divergence]

    def masses(shift: float) -> list[float]:
        return [p * inverse((r - shift) / WORLD_BETA) for p, r in zip(ref, rewards, strict=True)]

    lowest = max(-20.0, max(rewards) - WORLD_BETA * HIGHEST[divergence] + 1e-9)
    shift = brentq(lambda x: sum(masses(x)) - 1, lowest, 100.0, xtol=1e-13)
    return row(*masses(shift))


def trained(divergence: Divergence) -> torch.Tensor:
    objective = FDPO(beta=WORLD_BETA, divergence=divergence, alpha=ALPHA)
    return WORLD.trained(objective.loss).exp()


def reward_gaps(probabilities: torch.Tensor, divergence: Divergence) -> torch.Tensor:
    """beta * (f'(u_i) - f'(u_j)) of every two responses, [Y, Y]."""
    ratios = (probabilities / WORLD.ref_logps.exp()).tolist()
    scores = row(*[WORLD_BETA * SLOPE[divergence](u) for u in ratios])
    return scores[:, None] - scores


@each_divergence
def test_training_reaches_the_divergences_own_optimum(divergence: Divergence) -> None:
    found = trained(divergence)
    assert torch.allclose(found, solved(divergence), rtol=0, atol=1e-6)
    truth = WORLD.rewards[:, None] - WORLD.rewards
    assert torch.allclose(reward_gaps(found, divergence), truth, rtol=0, atol=1e-5)


@each_divergence
def test_the_optimum_has_the_highest_reward_less_divergence(divergence: Divergence) -> None:
    def cost(logits: torch.Tensor) -> torch.Tensor:
        policy, ref = logits.softmax(-1), WORLD.ref_logps.exp()
        apart = (ref * F[divergence](policy / ref)).sum()
        return WORLD_BETA * apart - (policy * WORLD.rewards).sum()

    best = minimised(cost, WORLD.ref_logits).softmax(-1)
    assert torch.allclose(best, solved(divergence), rtol=0, atol=1e-6)


@other_divergence
def test_dpos_optimum_is_another(divergence: Divergence) -> None:
    dpo = trained("reverse-kl")
    assert torch.allclose(dpo, WORLD.optimum(WORLD_BETA).exp(), rtol=0, atol=1e-6)
    assert (trained(divergence) - dpo).abs().max() > 0.01
    truth = WORLD.rewards[:, None] - WORLD.rewards
    assert (reward_gaps(dpo, divergence) - truth).abs().max() > 0.1


def test_equal_rewards_leave_the_reference() -> None:
    world = EnumerableWorld(rewards=row(0.2, 0.2, 0.2), ref_logits=row(0.0, 0.5, 0.2))
    for divergence in DIVERGENCES:
        found = world.trained(FDPO(divergence=divergence).loss)
        assert torch.allclose(found, world.ref_logps, rtol=0, atol=1e-7)


# TRL


@pytest.mark.parametrize(
    ("divergence", "theirs"),
    [("reverse-kl", "reverse_kl"), ("forward-kl", "forward_kl"), ("js", "js_divergence")],
)
def test_trl_has_the_same_losses(divergence: Divergence, theirs: str) -> None:
    expected = dpo_trainer_loss(BATCH, ["sigmoid"], [1.0], beta=BETA, f_divergence_type=theirs)
    found = FDPO(beta=BETA, divergence=divergence).loss(BATCH).mean()
    assert torch.allclose(found, expected, atol=1e-12)


def trls_alpha(batch: dict[str, torch.Tensor], coefficient: float) -> torch.Tensor:
    """TRL's loss of the alpha divergence, which it has in float32 and below only."""
    single = {name: value.float() for name, value in batch.items()}
    return dpo_trainer_loss(
        single,
        ["sigmoid"],
        [1.0],
        beta=BETA,
        f_divergence_type="alpha_divergence",
        f_alpha_divergence_coef=coefficient,
    )


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.9])
def test_trls_alpha_counts_from_the_other_end(alpha: float) -> None:
    found = FDPO(beta=BETA, divergence="alpha", alpha=alpha).loss(BATCH).mean()
    assert float(found) == pytest.approx(float(trls_alpha(BATCH, 1 - alpha)), rel=1e-5)
    if alpha != 0.5:
        assert float(found) != pytest.approx(float(trls_alpha(BATCH, alpha)), rel=1e-3)


def test_trl_lets_go_of_a_pair_that_is_far_behind() -> None:
    far = {name: value.float() for name, value in BATCH.items()}
    far["chosen_logps"] = (far["ref_chosen_logps"] - 300).requires_grad_(True)
    (of_trl,) = slopes(trls_alpha(far, 0.5), far["chosen_logps"])
    (ours,) = slopes(FDPO(divergence="alpha", alpha=0.5).loss(far), far["chosen_logps"])
    assert (of_trl == 0).all()
    assert (ours < 0).all()
