"""RPO: sheet 38's numbers, its optimum, and the displacement that it prevents."""

import math

import pytest
import torch

from tests.proofs import displacement_toy as toy
from tests.proofs.chain_world import ChainWorld
from tests.proofs.dpo_family import (
    BATCH,
    BETA,
    MARGIN,
    SUMS,
    is_close,
    leaves,
    row,
    slopes,
    swapped,
)
from tests.proofs.trl_peer import dpo_trainer_loss
from trueup.objectives.dpo import DPO, dpo_loss
from trueup.objectives.rpo import (
    RPO,
    RPOTRL,
    RPOBaseline,
    RPOMean,
    rpo_loss,
    rpo_two_response_optimum,
)
from trueup.worlds.enumerable import EnumerableWorld

# a) the sheet's numbers


def test_sum_form_is_the_sheets() -> None:
    losses = rpo_loss(**SUMS, beta=BETA, eta=0.5)
    assert is_close(losses, 1.269396660, 2.324462002, 1.032599035, 1.552211755)
    assert is_close(losses.mean(), 1.544667363)


def test_default_eta_is_the_sheets() -> None:
    losses = RPO().loss(BATCH)
    assert is_close(losses, 0.650646660, 0.827087002, 0.636599035, 0.475586755)
    assert is_close(losses.mean(), 0.647479863)


def test_mean_form_is_the_sheets() -> None:
    losses = RPOMean().loss(BATCH)
    assert is_close(losses, 0.894396660, 1.053962002, 0.832599035, 0.682211755)
    assert is_close(losses.mean(), 0.865792363)


TRL_BATCH = BATCH | {"mean_chosen_length": BATCH["chosen_lengths"].mean()}


def test_trls_recipe_is_the_sheets() -> None:
    assert is_close(RPOTRL(beta=0.1, eta=0.2).loss(TRL_BATCH).mean(), 0.868576093)
    assert is_close(RPOTRL(beta=0.1, eta=0.005).loss(TRL_BATCH).mean(), 0.644171331)


@pytest.mark.parametrize("beta", [0.1, 0.01])
def test_trl_has_the_same_recipe(beta: float) -> None:
    theirs = dpo_trainer_loss(BATCH, ["sigmoid", "sft"], [1.0, 0.005], beta=beta)
    ours = RPOTRL(beta=beta).loss(TRL_BATCH).mean()
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_trls_recipe_is_not_the_papers() -> None:
    ours, theirs = RPO(eta=0.005), RPOTRL(beta=0.1, eta=0.005)
    assert not torch.allclose(ours.loss(BATCH), theirs.loss(TRL_BATCH), atol=1e-3)


# b) identities and gradients


def test_eta_zero_is_dpo() -> None:
    assert torch.equal(rpo_loss(**SUMS, beta=BETA, eta=0), dpo_loss(**SUMS, beta=BETA))
    assert torch.equal(RPOMean(eta=0).loss(BATCH), dpo_loss(**SUMS, beta=BETA))


def paper_slopes(eta: float) -> tuple[torch.Tensor, torch.Tensor]:
    pull = BETA * torch.sigmoid(-BETA * MARGIN)
    return -pull - eta * BETA, pull


def test_gradients_are_the_papers() -> None:
    batch = leaves(SUMS)
    loss = rpo_loss(**batch, beta=BETA, eta=0.5)
    to_chosen, to_rejected = slopes(loss, batch["chosen_logps"], batch["rejected_logps"])
    expected = paper_slopes(0.5)
    assert torch.allclose(to_chosen, expected[0], atol=1e-15)
    assert torch.allclose(to_rejected, expected[1], atol=1e-15)


@pytest.mark.parametrize("mistake", ["rejected", "sign"])
def test_eta_in_the_wrong_place_or_sign_is_seen(mistake: str) -> None:
    batch = leaves(SUMS)
    if mistake == "rejected":
        loss = rpo_loss(**batch, beta=BETA, eta=0.5, baseline_logps=batch["rejected_logps"])
    else:
        loss = rpo_loss(**batch, beta=BETA, eta=-0.5)
    to_chosen, _ = slopes(loss, batch["chosen_logps"], batch["rejected_logps"])
    assert not torch.allclose(to_chosen, paper_slopes(0.5)[0], atol=1e-3)


def test_swapping_the_pair_is_no_mirror() -> None:
    there = rpo_loss(**SUMS, beta=BETA, eta=0.5)
    back = rpo_loss(**swapped(SUMS), beta=BETA, eta=0.5)
    assert not torch.allclose(there - back, -BETA * MARGIN, atol=0.1)


@pytest.mark.parametrize("average", [False, True])
def test_gradients_pass_gradcheck(average: bool) -> None:
    batch = leaves(SUMS)

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        given = SUMS | {"chosen_logps": chosen, "rejected_logps": rejected}
        lengths = BATCH["chosen_lengths"]
        return rpo_loss(**given, beta=BETA, eta=0.5, average=average, chosen_lengths=lengths)

    assert torch.autograd.gradcheck(of, (batch["chosen_logps"], batch["rejected_logps"]))


def test_the_mean_form_asks_for_lengths() -> None:
    with pytest.raises(TypeError, match="needs chosen_lengths"):
        rpo_loss(**SUMS, beta=BETA, eta=0.2, average=True)


# g) another baseline


def test_a_baselines_likelihood_leaves_the_chosen_tokens_to_dpo() -> None:
    batch = leaves(SUMS)
    baseline = row(-3, -4, -5, -6).requires_grad_(True)
    loss = RPOBaseline(eta=0.5).loss(batch | {"baseline_logps": baseline})
    to_chosen, to_baseline = slopes(loss, batch["chosen_logps"], baseline)
    assert torch.allclose(to_chosen, paper_slopes(0)[0], atol=1e-15)
    assert torch.allclose(to_baseline, row(-0.05).expand(4), atol=1e-15)


def test_weight_of_the_likelihood_is_told_per_token() -> None:
    lengths = row(200, 10)
    assert torch.allclose(RPO(beta=0.01).nll_weight(lengths), row(0.01, 0.0005))
    assert torch.allclose(RPOMean().nll_weight(lengths), row(0.2, 0.2))
    assert torch.allclose(RPOTRL().nll_weight(lengths), 0.005 * lengths / 105)


def test_told_weight_is_the_weight_that_acts() -> None:
    for objective in (RPO(eta=0.3), RPOMean(eta=0.3), RPOTRL(beta=0.1, eta=0.3)):
        without = type(objective)(beta=objective.beta, eta=0)
        added = objective.loss(TRL_BATCH) - without.loss(TRL_BATCH)
        mean_nll = -BATCH["chosen_logps"] / BATCH["chosen_lengths"]
        expected = objective.nll_weight(BATCH["chosen_lengths"]) * mean_nll
        assert torch.allclose(added, expected, atol=1e-13)


# c) the optimum on two responses


@pytest.mark.parametrize(
    ("eta", "margin", "share"),
    [
        (0, 8.4729786, 0.999791),
        (0.005, 8.40170491, None),
        (0.5, 2.98454137, 0.95187085),
        (5, 1.01965873, 0.73490612),
        (1e9, 0.84729786, 0.7),
    ],
)
def test_two_response_optimum_is_the_sheets(eta: float, margin: float, share: float | None) -> None:
    m = rpo_two_response_optimum(label_rate=0.7, ref_margin=0, beta=0.1, eta=eta)
    assert m == pytest.approx(margin, abs=1e-7)
    if share is not None:
        assert 1 / (1 + math.exp(-m)) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(("ref_margin", "eta"), [(0.0, 0.5), (1.0, 0.05), (-2.0, 5.0)])
def test_training_reaches_the_two_response_optimum(ref_margin: float, eta: float) -> None:
    reward = math.log(0.7 / 0.3)
    world = EnumerableWorld(
        rewards=torch.tensor([reward, 0.0], dtype=torch.float64),
        ref_logits=torch.tensor([ref_margin, 0.0]),
    )
    found = world.trained(lambda b: RPO(beta=0.1, eta=eta).loss(b))
    truth = rpo_two_response_optimum(label_rate=0.7, ref_margin=ref_margin, beta=0.1, eta=eta)
    assert float(found[0] - found[1]) == pytest.approx(truth, abs=1e-6)


def test_a_wrong_sign_misses_the_optimum() -> None:
    world = EnumerableWorld(rewards=torch.tensor([0.8473, 0.0]), ref_logits=torch.zeros(2))

    def wrong(b: dict[str, torch.Tensor]) -> torch.Tensor:
        sums = {name: value for name, value in b.items() if name.endswith("logps")}
        return rpo_loss(**sums, beta=0.1, eta=-0.05)

    found = world.trained(wrong)
    truth = rpo_two_response_optimum(label_rate=0.7, ref_margin=0, beta=0.1, eta=0.05)
    assert abs(float(found[0] - found[1]) - truth) > 0.5


def test_many_responses_lie_between_dpo_and_the_labels() -> None:
    world = EnumerableWorld(
        rewards=torch.tensor([0.9, 0.1, -0.4]), ref_logits=torch.tensor([0.0, 0.5, 0.2])
    )
    tops = [
        float(world.trained(lambda b, e=eta: RPO(beta=0.2, eta=e).loss(b))[0].exp())
        for eta in (0.0, 0.1, 1.0, 100.0)
    ]
    assert tops == sorted(tops, reverse=True)
    assert tops[0] == pytest.approx(float(world.optimum(0.2)[0].exp()), abs=1e-6)
    _, _, probability = world.pairs()
    shares = torch.zeros(3, dtype=torch.float64).index_add(0, world.pairs()[0], probability)
    assert tops[-1] == pytest.approx(float(shares[0] / shares.sum()), abs=0.01)


# d, e) displacement on the toy


def test_threshold_of_displacement_is_the_sheets() -> None:
    here = toy.start()
    to_chosen = toy.flat_gradient(toy.logps(here)[toy.NO], here)
    of_dpo = toy.flat_gradient(dpo_loss(**toy.batch(here), beta=BETA).sum(), here)
    overlap, length = float(to_chosen @ of_dpo), float(to_chosen @ to_chosen)
    assert (overlap, length) == pytest.approx((0.016255064, 1.370449021), abs=1e-9)
    assert overlap / (BETA * length) == pytest.approx(0.118611229, abs=1e-9)


@pytest.mark.parametrize(
    ("share_of_threshold", "change"), [(0, -1.6255e-6), (0.9, -1.6258e-7), (1.1, 1.6252e-7)]
)
def test_the_chosen_answer_turns_at_the_threshold(share_of_threshold: float, change: float) -> None:
    eta = share_of_threshold * 0.118611229
    path = toy.descended(lambda b: rpo_loss(**b, beta=BETA, eta=eta), rate=1e-4, steps=1)
    assert toy.first_change(path) == pytest.approx(change, rel=1e-4)


def test_the_wrong_sign_turns_the_wrong_way() -> None:
    eta = -1.1 * 0.118611229
    path = toy.descended(lambda b: rpo_loss(**b, beta=BETA, eta=eta), rate=1e-4, steps=1)
    assert toy.first_change(path) < -1.7e-6


@pytest.mark.parametrize(
    ("eta", "no", "yes", "tolerance"),
    [(0, 0.0446, 0.9554, 5e-5), (0.2, 0.9967, 0.0033, 5e-5), (1, 0.999995, 0.000005, 5e-7)],
)
def test_training_the_toy_ends_where_the_sheet_says(
    eta: float, no: float, yes: float, tolerance: float
) -> None:
    path = toy.descended(lambda b: rpo_loss(**b, beta=BETA, eta=eta), rate=0.2, steps=200)
    found = toy.probabilities(path[200])
    assert (found[toy.NO], found[toy.YES]) == pytest.approx((no, yes), abs=tolerance)
    if eta == 0.2:
        assert all(toy.probabilities(path[step])[toy.NO] > 0.347 for step in (10, 50, 100))


def test_a_small_eta_recovers_late() -> None:
    path = toy.descended(lambda b: rpo_loss(**b, beta=BETA, eta=0.05), rate=0.2, steps=200)
    found = [toy.probabilities(path[step])[toy.NO] for step in (100, 200)]
    assert found == pytest.approx([0.1725, 0.7841], abs=5e-5)


# f) a transformer


@pytest.mark.parametrize("seed", [0, 1])
def test_a_transformers_chosen_completions_keep_their_likelihood(seed: int) -> None:
    world = ChainWorld(seed)
    rpo_up, rpo_down, rpo_margin = world.trained(lambda b: RPO(beta=0.1, eta=1.0).loss(b))
    dpo_up, _, dpo_margin = world.trained(lambda b: DPO(beta=0.1).loss(b))
    assert rpo_up > 0 > dpo_up
    assert rpo_down < 0
    assert rpo_margin > 0.5 * dpo_margin
