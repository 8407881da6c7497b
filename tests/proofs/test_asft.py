"""ASFT: sheet 28's numbers, its likelihood form, ORPO's bound, and likelihoods that do not fall."""

import pytest
import torch

from tests.proofs import displacement_toy as toy
from tests.proofs.chain_world import ChainWorld
from tests.proofs.dpo_family import BATCH, POLICY, is_close, leaves, row, slopes, swapped
from trueup.errors import UserError
from trueup.objectives.asft import ASFT, asft_loss
from trueup.objectives.dpo import DPO
from trueup.objectives.orpo import orpo_loss
from trueup.objectives.simpo import SimPO
from trueup.worlds.enumerable import EnumerableWorld

CHOSEN = BATCH["chosen_logps"] / BATCH["chosen_lengths"]
REJECTED = BATCH["rejected_logps"] / BATCH["rejected_lengths"]


def random_means(seed: int, n: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean log-probabilities of n pairs, uniform on (-8, -0.001)."""
    generator = torch.Generator().manual_seed(seed)
    means = -0.001 - 7.999 * torch.rand(2, n, generator=generator, dtype=torch.float64)
    return means[0], means[1]


def of_means(chosen: torch.Tensor, rejected: torch.Tensor, **fields: float) -> torch.Tensor:
    ones = torch.ones_like(chosen)
    return asft_loss(
        chosen_logps=chosen,
        rejected_logps=rejected,
        chosen_lengths=ones,
        rejected_lengths=ones,
        **fields,
    )


# a) the sheet's numbers


@pytest.mark.parametrize(
    ("beta", "losses"),
    [
        (1.0, (1.623099410, 1.485106100, 1.350408101, 1.546175145)),
        (0.1, (1.394064278, 1.374161850, 1.371251981, 1.393987811)),
        (0.5, (1.461352996, 1.376278667, 1.337049825, 1.443431750)),
        (2.0, (2.160405618, 1.973332231, 1.536553172, 1.874480450)),
    ],
)
def test_alignment_term_is_the_sheets(beta: float, losses: tuple[float, ...]) -> None:
    assert is_close(ASFT(beta=beta, sft=False).loss(BATCH), *losses)


def test_total_is_the_sheets() -> None:
    losses = ASFT().loss(BATCH)
    assert is_close(losses, 2.873099410, 2.695106100, 2.350408101, 2.633675145)
    assert is_close(losses.mean(), 2.638072189)
    assert is_close(ASFT(sft=False).loss(BATCH).mean(), 1.501197189)


def test_weight_scales_the_alignment_term_alone() -> None:
    aligned = ASFT(sft=False).loss(BATCH)
    assert torch.allclose(ASFT(weight=0.3).loss(BATCH), -CHOSEN + 0.3 * aligned, atol=1e-14)
    assert torch.allclose(ASFT(weight=0.3, sft=False).loss(BATCH), 0.3 * aligned, atol=1e-14)


def test_weight_zero_is_fine_tuning_on_the_chosen() -> None:
    assert torch.allclose(ASFT(weight=0).loss(BATCH), -CHOSEN, atol=1e-15)


@pytest.mark.parametrize(("field", "value"), [("weight", -1.0), ("beta", 0.0), ("beta", -1.0)])
def test_a_field_out_of_its_range_is_refused(field: str, value: float) -> None:
    for wrong in (value, float("nan")):
        with pytest.raises(UserError, match=f"^{field} must be"):
            ASFT(**{field: wrong})


# b) likelihood and unlikelihood


def test_odds_form_is_likelihood_and_unlikelihood() -> None:
    chosen, rejected = random_means(0)
    direct = -chosen - torch.log(-torch.expm1(rejected))
    assert torch.allclose(of_means(chosen, rejected, sft=False), direct, rtol=0, atol=1e-12)


def test_another_temperature_is_no_likelihood() -> None:
    chosen, rejected = random_means(0)
    direct = -chosen - torch.log(-torch.expm1(rejected))
    assert (of_means(chosen, rejected, sft=False, beta=0.5) - direct).abs().max() > 0.1


@pytest.mark.parametrize("mean", [0.0, -1e-9, -1e-6, -200.0, -4000.0])
@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_extreme_likelihoods_are_finite_in_float32(mean: float, beta: float) -> None:
    batch = leaves({name: value.float() for name, value in POLICY.items()})
    for side in ("chosen", "rejected"):
        batch[f"{side}_logps"] = (mean * batch[f"{side}_lengths"]).requires_grad_(True)
    losses = asft_loss(**batch, beta=beta)
    assert losses.isfinite().all()
    found = slopes(losses, batch["chosen_logps"], batch["rejected_logps"])
    assert all(slope.isfinite().all() for slope in found)


# c) gradients


def mean_slopes(objective: ASFT) -> list[torch.Tensor]:
    """The slopes of a loss in the mean log-probabilities of chosen and rejected."""
    batch = leaves(POLICY)
    found = slopes(objective.loss(batch), batch["chosen_logps"], batch["rejected_logps"])
    return [found[0] * batch["chosen_lengths"], found[1] * batch["rejected_lengths"]]


def test_gradients_are_the_sheets() -> None:
    to_chosen, to_rejected = mean_slopes(ASFT(sft=False))
    assert is_close(to_chosen, -1, -1, -1, -1)
    assert is_close(to_rejected, 0.452228699, 0.316670366, 0.419646789, 0.581976707)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_a_temperature_changes_the_gradients_as_the_sheet_says(beta: float) -> None:
    to_chosen, to_rejected = mean_slopes(ASFT(sft=False, beta=beta))
    p_chosen, p_rejected = CHOSEN.exp(), REJECTED.exp()
    pull = torch.sigmoid(-beta * (p_chosen / (1 - p_chosen)).log())
    push = torch.sigmoid(beta * (p_rejected / (1 - p_rejected)).log())
    assert torch.allclose(to_chosen, -beta * pull / (1 - p_chosen), atol=1e-13)
    assert torch.allclose(to_rejected, beta * push / (1 - p_rejected), atol=1e-13)


@pytest.mark.parametrize(("beta", "sft"), [(1.0, True), (1.0, False), (0.3, True), (2.0, False)])
def test_gradients_pass_gradcheck(beta: float, sft: bool) -> None:
    batch = leaves(POLICY)

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        given = POLICY | {"chosen_logps": chosen, "rejected_logps": rejected}
        return asft_loss(**given, weight=0.7, beta=beta, sft=sft)

    assert torch.autograd.gradcheck(of, (batch["chosen_logps"], batch["rejected_logps"]))


def test_a_pairs_pushes_do_not_cancel() -> None:
    to_chosen, to_rejected = mean_slopes(ASFT(sft=False))
    assert ((to_chosen + to_rejected).abs() > 0.4).all()  # unlike DPO's


def test_sums_in_place_of_means_would_be_fine_tuning() -> None:
    batch = leaves(POLICY)
    ones = {name: torch.ones_like(BATCH[name]) for name in ("chosen_lengths", "rejected_lengths")}
    loss = asft_loss(**(batch | ones), sft=False)
    (to_rejected,) = slopes(loss, batch["rejected_logps"])
    assert to_rejected.max() < 6e-5
    assert to_rejected[3] == pytest.approx(4.248e-18, rel=1e-3)


# d) ORPO


def orpo_gap(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """What ORPO adds to ASFT at weight 1."""
    p_chosen, p_rejected = chosen.exp(), rejected.exp()
    return (p_chosen * (1 - p_rejected) + p_rejected * (1 - p_chosen)).log()


def test_orpo_is_asft_and_the_chance_of_just_one_right() -> None:
    found = ASFT().loss(BATCH) + orpo_gap(CHOSEN, REJECTED)
    assert is_close(found, 2.004338491, 1.766914341, 1.542947034, 1.850480814)
    assert torch.allclose(found, orpo_loss(**POLICY, weight=1), atol=1e-13)


def test_orpo_never_exceeds_asft() -> None:
    chosen, rejected = random_means(1)
    ones = torch.ones_like(chosen)
    theirs = orpo_loss(
        chosen_logps=chosen,
        rejected_logps=rejected,
        chosen_lengths=ones,
        rejected_lengths=ones,
        weight=1,
    )
    assert (theirs <= of_means(chosen, rejected)).all()


# e, f) limits


def test_a_vanishing_temperature_leaves_a_constant() -> None:
    objective = ASFT(beta=1e-9, sft=False)
    assert is_close(objective.loss(BATCH), *[1.386294361] * 4)
    assert all(slope.abs().max() < 2e-9 for slope in mean_slopes(objective))


@pytest.mark.parametrize("weight", [0.2, 1.0, 3.0])
def test_an_unlikely_rejected_leaves_weighted_fine_tuning(weight: float) -> None:
    def gradient(rejected_mean: float) -> tuple[torch.Tensor, torch.Tensor]:
        logits = row(0.3, -0.2, 0.1, 1.0).requires_grad_(True)
        chosen = logits.log_softmax(-1)[[0]]
        rejected = logits.log_softmax(-1)[[1]]
        rejected = rejected + (rejected_mean - rejected.detach())
        (of_asft,) = slopes(of_means(chosen, rejected, weight=weight), logits)
        (of_sft,) = slopes(-logits.log_softmax(-1)[0], logits)
        return of_asft, of_sft

    of_asft, of_sft = gradient(-40)
    assert torch.allclose(of_asft, (1 + weight) * of_sft, rtol=0, atol=1e-6)
    of_asft, of_sft = gradient(-1)
    assert (of_asft - (1 + weight) * of_sft).abs().max() > 0.02


# the optimum on two responses


@pytest.mark.parametrize("weight", [0.0, 1.0, 4.0])
def test_two_responses_end_at_the_labels_frequency(weight: float) -> None:
    # one token each, so the rejected is the other: -(1 + 2 weight) ln pi(chosen), whose mean over
    # labels is least at the labels' own frequency, wherever the reference stands
    world = EnumerableWorld(rewards=row(0.9, 0.0), ref_logits=row(-2.0, 1.0))
    found = world.trained(lambda b: ASFT(weight=weight).loss(b))
    assert torch.allclose(found.exp()[0], torch.sigmoid(row(0.9))[0], atol=1e-6)


def test_a_wrong_sign_misses_the_labels_frequency() -> None:
    world = EnumerableWorld(rewards=row(0.9, 0.0), ref_logits=row(-2.0, 1.0))

    def wrong(b: dict[str, torch.Tensor]) -> torch.Tensor:
        policy = {name: value for name, value in b.items() if not name.startswith("ref_")}
        return asft_loss(**swapped(policy))

    found = world.trained(wrong)
    assert abs(float(found.exp()[0]) - 0.7109) > 0.3


# g) the chosen completion's own likelihood


@pytest.mark.parametrize("seed", [0, 1])
def test_a_transformers_chosen_completions_gain_where_dpos_lose(seed: int) -> None:
    world = ChainWorld(seed)
    asft_up, asft_down, _ = world.trained(lambda b: ASFT().loss(b))
    dpo_up, dpo_down, _ = world.trained(lambda b: DPO(beta=0.1).loss(b))
    simpo_up, simpo_down, _ = world.trained(lambda b: SimPO(beta=2.0, gamma=1.0).loss(b))
    assert asft_up > 5
    assert dpo_up < -1
    assert simpo_up < -1
    assert max(asft_down, dpo_down, simpo_down) < 0


def test_the_toys_chosen_answer_rises_as_the_sheet_says() -> None:
    def loss(b: dict[str, torch.Tensor]) -> torch.Tensor:
        return of_means(b["chosen_logps"], b["rejected_logps"])

    path = toy.descended(loss, rate=0.02, steps=100)
    assert toy.probabilities(path[0])[toy.YES] == pytest.approx(0.190599, abs=5e-7)
    assert toy.probabilities(path[50])[toy.NO] == pytest.approx(0.847157, abs=5e-7)
    end = toy.probabilities(path[100])
    assert (end[toy.NO], end[toy.YES]) == pytest.approx((0.963372, 0.009556), abs=5e-7)


def test_dpo_displaces_the_toys_chosen_answer() -> None:
    path = toy.descended(lambda b: DPO(beta=0.1).loss(b), rate=0.2, steps=200)
    end = toy.probabilities(path[200])
    assert end[toy.NO] < 0.1 < 0.9 < end[toy.YES]


# h) no reference, no mirror


def test_no_reference_is_read() -> None:
    other = BATCH | {"ref_chosen_logps": row(-1, -2, -3, -4), "ref_rejected_logps": row(0, 0, 0, 0)}
    assert not ASFT.needs.reference
    assert torch.equal(ASFT().loss(other), ASFT().loss(BATCH))
    assert torch.equal(ASFT().loss(POLICY), ASFT().loss(BATCH))


def test_swapping_a_pair_of_unequal_likelihoods_changes_the_loss() -> None:
    there, back = asft_loss(**POLICY), asft_loss(**swapped(POLICY))
    assert ((there - back).abs() > 0.05).all()
