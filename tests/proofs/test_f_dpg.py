"""f-DPG: sheet 25's numbers, the gradient theorem, and the targets that training reaches."""

import math

import pytest
import torch
from torch import Tensor

from tests.proofs.dpo_family import is_close, row
from trueup.errors import UserError
from trueup.objectives.f_dpg import (
    F_PRIME,
    FDPG,
    estimate_log_z,
    exponential_target,
    f_divergence,
    f_prime,
    fdpg_loss,
    fit_moments,
    reward_target,
)
from trueup.worlds.enumerable import minimised

ALL = tuple(F_PRIME)
SMOOTH = tuple(name for name in ALL if name != "tv")
BASE = row(0.4, 0.3, 0.15, 0.1, 0.05)
TARGET = row(0.1, 0.2, 0.4, 0.2, 0.1)
REWARDS = row(0, 1, 2, 0.5, -1)

every_divergence = pytest.mark.parametrize("divergence", ALL)

# a) f'


LOG_RATIOS = row(-5, -1, -0.1, 0, 0.1, 1, 5)
F_PRIMES = """
forward-kl  -148.413159103  -2.718281828 -1.105170918 -1 -0.904837418 -0.367879441 -0.006737947
reverse-kl  -4 0 0.9 1 1.1 2 6
tv          -0.5 -0.5 -0.5 0 0.5 0.5 0.5
js          -4.313568168 -0.620114507 -0.051249480 0 0.048750520 0.379885493 0.686431832
chi2-p-pi   -22025.465794807 -6.389056099 -0.221402758 0 0.181269247 0.864664717 0.999954600
chi2-pi-p   -1.986524106 -1.264241118 -0.190325164 0 0.210341836 3.436563657 294.826318205
"""


@pytest.mark.parametrize("line", F_PRIMES.strip().splitlines())
def test_f_prime_is_the_sheets(line: str) -> None:
    divergence, *expected = line.split()
    assert is_close(f_prime(LOG_RATIOS, divergence), *map(float, expected))


@pytest.mark.parametrize(
    ("divergence", "limit"),
    [("forward-kl", 0), ("tv", 0.5), ("js", math.log(2)), ("chi2-p-pi", 1)],
)
def test_f_prime_has_a_limit_where_the_target_is_zero(divergence: str, limit: float) -> None:
    assert is_close(f_prime(row(math.inf), divergence), limit, tolerance=1e-15)


# b) the gradient theorem


def expected_gradient(logits: Tensor, logscores: Tensor, log_z: float, **fields: object) -> Tensor:
    """The exact expectation over one own sample of the loss's gradient in the logits."""
    return proposed_gradient(logits, logits.softmax(-1), logscores, log_z, **fields)


def proposed_gradient(
    logits: Tensor, proposal: Tensor, logscores: Tensor, log_z: float, **fields: object
) -> Tensor:
    logits = logits.detach().clone().requires_grad_(True)
    losses = fdpg_loss(
        sample_logps=logits.log_softmax(-1)[:, None],
        proposal_logps=fields.pop("proposal_logps", proposal.log())[:, None].detach(),
        target_logscores=logscores[:, None],
        log_z=torch.full_like(logscores, log_z),
        baseline=False,
        **fields,
    )
    return torch.autograd.grad((proposal.detach() * losses).sum(), logits)[0]


@pytest.mark.parametrize(
    ("divergence", "value", "gradient"),
    [
        ("forward-kl", 0.380553398, (0.3, 0.1, -0.25, -0.1, -0.05)),
        (
            "reverse-kl",
            0.425060812,
            (0.384493420, -0.005878711, -0.210883510, -0.111820799, -0.055910400),
        ),
        ("tv", 0.4, (0.12, 0.09, -0.105, -0.07, -0.035)),
        (
            "js",
            0.190882000,
            (0.151618339, 0.027409132, -0.104564038, -0.049642289, -0.024821145),
        ),
        ("chi2-p-pi", 0.825, (0.705, 0.414166667, -0.792916667, -0.2175, -0.10875)),
        ("chi2-pi-p", 1.18125, (1.455, -0.40875, -0.541875, -0.33625, -0.168125)),
    ],
)
def test_divergence_and_gradient_are_the_sheets(
    divergence: str, value: float, gradient: tuple[float, ...]
) -> None:
    logits = BASE.log().requires_grad_(True)
    found = f_divergence(logits.softmax(-1), TARGET, divergence)
    assert is_close(found, value)
    (of_divergence,) = torch.autograd.grad(found, logits)
    assert is_close(of_divergence, *gradient)
    of_loss = expected_gradient(logits, TARGET.log() + 3, 3.0, divergence=divergence)
    assert torch.allclose(of_loss, of_divergence, rtol=0, atol=1e-14)


def test_exchanged_arguments_are_another_number() -> None:
    there, back = (
        torch.stack([f_divergence(*pair, name) for name in ALL])
        for pair in [(BASE, TARGET), (TARGET, BASE)]
    )
    kept = (there - back).abs() < 1e-3
    assert kept.tolist() == [name in ("tv", "js") for name in ALL]
    assert is_close(back[[1, 0, 5, 4]], *there[[0, 1, 4, 5]].tolist(), tolerance=1e-14)


@every_divergence
def test_a_state_that_neither_has_counts_nothing(divergence: str) -> None:
    with_it = f_divergence(torch.cat([BASE, row(0)]), torch.cat([TARGET, row(0)]), divergence)
    assert torch.allclose(with_it, f_divergence(BASE, TARGET, divergence), atol=1e-15)


# c) a batch with a hard zero

SAMPLES = {
    "sample_logps": row(-4, -6, -3, -5, -7, -4.5)[None],
    "proposal_logps": row(-4.2, -5.5, -3, -5, -6, -5)[None],
    "target_logscores": row(-3.5, -4, -math.inf, -6, -5.5, -4)[None],
}
SAMPLES["log_z"] = estimate_log_z(SAMPLES["proposal_logps"], SAMPLES["target_logscores"])


def test_z_of_the_batch_is_the_sheets() -> None:
    assert is_close(SAMPLES["log_z"].exp(), 1.871720720)


@pytest.mark.parametrize(
    ("divergence", "plain", "with_baseline"),
    [
        ("forward-kl", 5.392351803, -0.722105367),
        ("js", -0.124199934, -0.201603610),
        ("tv", -1.174209725, -0.437565370),
    ],
)
def test_losses_are_the_sheets(divergence: str, plain: float, with_baseline: float) -> None:
    assert is_close(fdpg_loss(**SAMPLES, divergence=divergence, baseline=False), plain)
    assert is_close(fdpg_loss(**SAMPLES, divergence=divergence), with_baseline)


@pytest.mark.parametrize("divergence", ["reverse-kl", "chi2-pi-p"])
def test_hard_zeros_are_refused_where_they_cost_infinity(divergence: str) -> None:
    assert not torch.isfinite(fdpg_loss(**SAMPLES, divergence=divergence)).any()
    with pytest.raises(UserError, match="divergence must be one of forward-kl, tv, js, chi2-p-pi"):
        FDPG(divergence=divergence, target="constraint")


def test_samples_off_the_mask_change_nothing() -> None:
    more = {
        name: torch.cat([value, row(-9)[None]], dim=1) if name != "log_z" else value
        for name, value in SAMPLES.items()
    }
    mask = torch.tensor([[True] * 6 + [False]])
    assert torch.allclose(fdpg_loss(**more, sample_mask=mask), fdpg_loss(**SAMPLES), atol=1e-15)
    log_z = estimate_log_z(more["proposal_logps"], more["target_logscores"], mask)
    assert torch.allclose(log_z, SAMPLES["log_z"], atol=1e-15)
    assert not torch.allclose(fdpg_loss(**more), fdpg_loss(**SAMPLES), atol=1e-3)


def test_clip_bounds_f_prime() -> None:
    plain = SAMPLES | {"sample_logps": SAMPLES["sample_logps"].clone().requires_grad_(True)}

    def strongest(clip: float) -> float:
        loss = fdpg_loss(**plain, divergence="chi2-p-pi", baseline=False, clip=clip)
        (slope,) = torch.autograd.grad(loss.sum(), plain["sample_logps"])
        weights = torch.exp(SAMPLES["sample_logps"] - SAMPLES["proposal_logps"])
        return float((6 * slope / weights).abs().max())

    assert strongest(0) == pytest.approx(
        float(torch.expm1(torch.tensor(2 * (2 - math.log(1.871720720)))))
    )
    assert strongest(2.5) == pytest.approx(2.5)


# d) targets


def test_the_rewards_target_is_the_sheets() -> None:
    found = reward_target(BASE, REWARDS, 0.5)
    assert math.exp(found.log_z) == pytest.approx(11.085034282, abs=1e-9)
    assert is_close(found.probs, 0.036084688, 0.199973836, 0.738808947, 0.024522088, 0.000610441)


FEATURE = row(1, 0, 0, 1, 0)[:, None]


def test_the_moments_target_is_the_sheets() -> None:
    found = exponential_target(BASE, FEATURE, row(0.2))
    assert found.lambdas is not None
    assert is_close(found.lambdas, -1.386294361)
    assert math.exp(found.log_z) == pytest.approx(0.625, abs=1e-9)
    assert is_close(found.probs, 0.16, 0.48, 0.24, 0.04, 0.08)


def test_two_moments_hold_at_once() -> None:
    features = torch.stack([FEATURE[:, 0], row(0, 1, 1, 1, 0)], dim=1)
    found = exponential_target(BASE, features, row(0.5, 0.7))
    assert is_close(found.probs @ features, 0.5, 0.7)


def test_moments_that_hold_already_leave_the_base() -> None:
    found = exponential_target(BASE, FEATURE, row(0.5))
    assert torch.allclose(found.probs, BASE, atol=1e-12)


def test_samples_give_the_lambda_of_the_whole_space() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(BASE, 100_000, replacement=True, generator=generator)
    found = fit_moments(
        features=FEATURE[drawn], moments=row(0.2), log_weights=torch.zeros(len(drawn))
    )
    # the feature's share q has a standard error of 0.0016, and lambda moves by 4 of it
    assert is_close(found, -1.386294361, tolerance=0.025)


def test_reweighted_samples_of_another_policy_give_the_same_lambda() -> None:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.multinomial(TARGET, 100_000, replacement=True, generator=generator)
    weights = (BASE.log() - TARGET.log())[drawn]
    found = fit_moments(features=FEATURE[drawn], moments=row(0.2), log_weights=weights)
    unweighted = fit_moments(features=FEATURE[drawn], moments=row(0.2), log_weights=0 * weights)
    assert is_close(found, -1.386294361, tolerance=0.04)
    assert not is_close(unweighted, -1.386294361, tolerance=0.5)


@pytest.mark.parametrize("moment", [1.2, -0.1])
def test_a_moment_out_of_reach_is_refused(moment: float) -> None:
    with pytest.raises(UserError, match=r"moments\[0\] must be within reach of the features, got"):
        exponential_target(BASE, FEATURE, row(moment))


def test_a_hard_filter_is_the_sheets() -> None:
    kept = row(0, 1, 1, 0, 0)
    found = reward_target(BASE, kept.log(), 1.0)
    assert math.exp(found.log_z) == pytest.approx(0.45, abs=1e-12)
    assert is_close(found.probs, 0, 2 / 3, 1 / 3, 0, 0)


# e) the RL objective


def test_reverse_kl_is_the_rl_objective() -> None:
    logits = row(0.2, -0.3, 0.5, 0.1, -0.7).requires_grad_(True)
    policy = logits.softmax(-1)
    value = (policy * (REWARDS - 0.5 * (policy / BASE).log())).sum()
    (of_value,) = torch.autograd.grad(value, logits)
    sheet = (-0.094998472, 0.099585601, 0.301787918, -0.116307539, -0.190067509)
    assert is_close(of_value, *sheet)
    logscores = BASE.log() + REWARDS / 0.5
    of_loss = expected_gradient(logits, logscores, 0.0, divergence="reverse-kl")  # Z is irrelevant
    assert torch.allclose(-0.5 * of_loss, of_value, atol=1e-14)


# f) every divergence reaches its target


def distance(found: Tensor, target: Tensor) -> float:
    return float((found - target).abs().sum() / 2)


@every_divergence
def test_exact_steps_reach_the_target(divergence: str) -> None:
    logits = BASE.log()
    for _ in range(1700):
        policy = logits.softmax(-1)
        pull = f_prime(policy.log() - TARGET.log(), divergence)
        logits = logits - 0.3 * policy * (pull - (policy * pull).sum())
    assert distance(logits.softmax(-1), TARGET) < (0.02 if divergence == "tv" else 1e-12)


@every_divergence
def test_a_wrong_z_turns_the_gradient_of_js_and_tv_alone(divergence: str) -> None:
    truth, found = (
        expected_gradient(BASE.log(), TARGET.log(), log_z, divergence=divergence)
        for log_z in (0.0, -1.0)
    )
    cosine = float(truth @ found / truth.norm() / found.norm())
    if divergence in ("js", "tv"):
        assert cosine < 0.998
    else:
        assert cosine == pytest.approx(1, abs=1e-14)


class Sampled:
    """A softmax policy trained with the objective's own parts, as the engine calls them."""

    def __init__(self, objective: FDPG, rewards: Tensor, seed: int = 0) -> None:
        self.objective, self.rewards = objective, rewards
        self.generator = torch.Generator().manual_seed(seed)
        self.logits = BASE.log().requires_grad_(True)
        self.running: dict[str, Tensor] = {}

    def steps(self, number: int, rate: float = 0.3) -> Tensor:
        """The policy after so many steps."""
        mask = torch.ones(1, self.objective.samples, dtype=torch.bool)
        for _ in range(number):
            logps = self.logits.log_softmax(-1)
            drawn = torch.multinomial(
                logps.detach().exp(), mask.shape[1], replacement=True, generator=self.generator
            )
            given = {
                "sample_logps": logps.detach()[drawn][None],
                "ref_sample_logps": BASE.log()[drawn][None],
                "rewards": self.rewards[drawn][None],
                "sample_mask": mask,
                **self.running,
            }
            made = self.objective.collected(given)
            self.running = {name: made[name] for name in made if name.startswith("running_")}
            batch = given | made | {"proposal_logps": given["sample_logps"]}
            loss = self.objective.loss(batch | {"sample_logps": logps[drawn][None]})
            (slope,) = torch.autograd.grad(loss.sum(), self.logits)
            self.logits = (self.logits - rate * slope).detach().requires_grad_(True)
        return self.logits.detach().softmax(-1)


@every_divergence
def test_own_samples_reach_the_target(divergence: str) -> None:
    objective = FDPG(divergence=divergence, beta=0.5, samples=512)
    found = Sampled(objective, 0.5 * (TARGET / BASE).log() + 1).steps(400)
    assert distance(BASE, TARGET) == pytest.approx(0.4)
    assert distance(found, TARGET) < (0.02 if divergence == "tv" else 0.001)


def test_few_samples_of_a_constraint_fill_only_what_it_allows() -> None:
    objective = FDPG(target="constraint", samples=16)
    found = Sampled(objective, row(0, 1, 1, 0, 0)).steps(1500, rate=1.0)
    assert found[[0, 3, 4]].sum() < 0.005
    assert distance(found, row(0, 2 / 3, 1 / 3, 0, 0)) < 0.01


def test_moments_are_reached_through_a_reward() -> None:
    lambdas = fit_moments(features=FEATURE, moments=row(0.2), log_weights=BASE.log())
    found = Sampled(FDPG(beta=1.0, samples=256), FEATURE @ lambdas).steps(400)
    assert float(BASE @ FEATURE[:, 0]) == pytest.approx(0.5)
    assert float(found @ FEATURE[:, 0]) == pytest.approx(0.2, abs=0.002)
    assert float(found[1] / found[2]) == pytest.approx(2.0, abs=0.02)  # the base's own odds stay


# g) a family that cannot reach the target

GRID = torch.linspace(-3, 3, 61, dtype=torch.float64)


def gaussian(mean: Tensor | float, sigma: Tensor | float) -> Tensor:
    return (-0.5 * ((GRID - mean) / sigma) ** 2).softmax(-1)


MODES = 0.7 * gaussian(-1.5, 0.3) + 0.3 * gaussian(1.5, 0.3)


@pytest.mark.parametrize(
    ("divergence", "mean", "sigma"),
    [
        ("forward-kl", -0.9709, 1.8320),
        ("reverse-kl", -1.5, 0.3),
        ("tv", -1.5, 0.4),
        ("js", -1.5, 0.3),
        ("chi2-p-pi", -0.9591, 1.8438),
        ("chi2-pi-p", -1.5, 0.3),
    ],
)
def test_the_nearest_gaussian_is_the_sheets(divergence: str, mean: float, sigma: float) -> None:
    means = torch.arange(-20, 21, dtype=torch.float64)[:, None, None] / 10
    sigmas = torch.arange(2, 31, dtype=torch.float64)[None, :, None] / 10
    values = f_divergence(gaussian(means, sigmas), MODES, divergence)
    best = divmod(int(values.argmin()), values.shape[1])
    found = row(float(means[best[0]]), float(sigmas[0, best[1]]))
    if divergence in ("forward-kl", "chi2-p-pi"):
        found = minimised(lambda x: f_divergence(gaussian(x[0], x[1]), MODES, divergence), found)
    assert is_close(found, mean, sigma, tolerance=5e-5)


# h) Z and off-policy samples


def test_z_is_unbiased() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(BASE, 100_000, replacement=True, generator=generator)
    ratios = (REWARDS / 0.5).exp()[drawn]
    error = float(ratios.std()) / math.sqrt(len(drawn))
    logscores = (BASE.log() + REWARDS / 0.5)[drawn]
    found = estimate_log_z(BASE.log()[drawn][None], logscores[None]).exp()
    assert abs(float(found) - 11.085034282) < 3 * error
    assert error < 0.1


@every_divergence
def test_weights_make_off_policy_samples_right(divergence: str) -> None:
    logits, proposal = BASE.log(), row(0.1, 0.2, 0.2, 0.2, 0.3)
    given = (logits, proposal, TARGET.log(), 0.0)
    truth = expected_gradient(logits, TARGET.log(), 0.0, divergence=divergence)
    weighted = proposed_gradient(*given, divergence=divergence)
    unweighted = proposed_gradient(*given, divergence=divergence, proposal_logps=BASE.log())
    assert torch.allclose(weighted, truth, atol=1e-14)
    assert not torch.allclose(unweighted, truth, atol=0.02)


@every_divergence
def test_the_rows_own_mean_shrinks_the_gradient_by_one_sample(divergence: str) -> None:
    logits = BASE.log().requires_grad_(True)
    first, second = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    logps = torch.stack([logits.log_softmax(-1)[first], logits.log_softmax(-1)[second]], dim=1)
    losses = fdpg_loss(
        sample_logps=logps,
        proposal_logps=logps.detach(),
        target_logscores=torch.stack([TARGET.log()[first], TARGET.log()[second]], dim=1),
        log_z=torch.zeros(25, dtype=torch.float64),
        divergence=divergence,
    )
    (found,) = torch.autograd.grad((BASE[first] * BASE[second] * losses).sum(), logits)
    truth = expected_gradient(logits, TARGET.log(), 0.0, divergence=divergence)
    assert torch.allclose(found, truth / 2, atol=1e-14)  # (K - 1) / K at K = 2


def given_round(seed: int, samples: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def some() -> Tensor:
        return torch.randn(2, samples, generator=generator, dtype=torch.float64)

    return {
        "sample_logps": some(),
        "ref_sample_logps": some(),
        "rewards": some(),
        "sample_mask": torch.ones(2, samples, dtype=torch.bool),
    }


def test_z_runs_over_all_rounds() -> None:
    objective = FDPG(samples=3)
    first = objective.collected(given_round(0))
    running = {name: first[name] for name in ("running_log_z_sum", "running_count")}
    second = objective.collected(given_round(1) | running)
    both = {
        name: torch.cat([given_round(0)[name], given_round(1)[name]], dim=1)
        for name in given_round(0)
    }
    at_once = objective.collected(both)
    assert torch.allclose(second["log_z"], at_once["log_z"], atol=1e-14)
    assert second["running_count"].tolist() == [6, 6]
    assert not torch.allclose(second["log_z"], first["log_z"], atol=1e-3)


def test_a_prompt_not_seen_yet_starts_afresh() -> None:
    objective, nan = FDPG(samples=3), row(math.nan, 0.5)
    found = objective.collected(
        given_round(0) | {"running_log_z_sum": nan, "running_count": row(math.nan, 3)}
    )
    alone = objective.collected(given_round(0))
    assert torch.equal(found["log_z"][0], alone["log_z"][0])
    assert not torch.allclose(found["log_z"][1], alone["log_z"][1])
    assert found["running_count"].tolist() == [3, 6]


def test_rewards_make_the_targets_scores() -> None:
    given = given_round(0)
    found = FDPG(beta=0.5).collected(given)["target_logscores"]
    assert torch.equal(found, given["ref_sample_logps"] + given["rewards"] / 0.5)


def test_a_constraints_reward_is_zero_or_one() -> None:
    objective, given = FDPG(target="constraint"), given_round(0)
    given["rewards"] = torch.tensor([[0.0, 1, 1], [1, 0, 0]], dtype=torch.float64)
    found = objective.collected(given)["target_logscores"]
    assert torch.equal(found == -math.inf, given["rewards"] == 0)
    assert torch.equal(found[found > -math.inf], given["ref_sample_logps"][given["rewards"] == 1])
    given["rewards"][1, 2] = 0.25
    with pytest.raises(UserError, match="needs rewards of 0 or 1, got 0.25"):
        objective.collected(given)


# i) negative controls


def test_only_the_last_log_probability_carries_a_gradient() -> None:
    given = {name: value.clone().requires_grad_(True) for name, value in SAMPLES.items()}
    given["target_logscores"] = given["target_logscores"].detach().clamp(min=-9)
    given["target_logscores"].requires_grad_(True)
    loss = fdpg_loss(**given, divergence="js").sum()
    slopes = torch.autograd.grad(loss, [*given.values()], allow_unused=True)
    assert [slope is not None for slope in slopes] == [True, False, False, False]
    plain = {name: value.detach() for name, value in given.items()}
    log_ratio = plain["sample_logps"] - plain["target_logscores"] + plain["log_z"]
    pull = f_prime(log_ratio, "js")
    weights = torch.exp(plain["sample_logps"] - plain["proposal_logps"])
    assert torch.allclose(slopes[0], weights * (pull - pull.mean()) / 6, atol=1e-15)


def test_a_lost_stop_gradient_is_seen() -> None:
    def value(sample_logps: Tensor) -> Tensor:
        return fdpg_loss(**SAMPLES | {"sample_logps": sample_logps}, divergence="js")

    start = SAMPLES["sample_logps"].clone().requires_grad_(True)
    # finite differences move weights and f', too: the gradient must not be theirs
    assert not torch.autograd.gradcheck(value, (start,), raise_exception=False)


@pytest.mark.parametrize("divergence", SMOOTH)
def test_no_constraint_moves_nothing(divergence: str) -> None:
    found = Sampled(FDPG(divergence=divergence, samples=32), torch.full_like(BASE, 0.7)).steps(30)
    assert distance(found, BASE) < 1e-12


def test_a_row_that_never_meets_the_constraint_has_no_gradient() -> None:
    found = Sampled(FDPG(target="constraint", samples=8), torch.zeros_like(BASE)).steps(5)
    assert torch.equal(found, BASE.log().softmax(-1))


def test_a_wrong_sign_leaves_the_target() -> None:
    logits = BASE.log()
    for _ in range(20):
        logits = logits + 0.3 * expected_gradient(logits, TARGET.log(), 0.0, divergence="js")
    assert distance(logits.softmax(-1), TARGET) > 0.41
