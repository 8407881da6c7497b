"""IPO, sum and average: sheet 00's numbers, identities and the margin it stops at."""

import pytest
import torch

from tests.proofs.dpo_family import BATCH, MARGIN, SUMS, is_close, leaves, slopes, swapped
from tests.proofs.trl_peer import dpo_trainer_loss
from trueup.objectives.ipo import IPO, IPOSum, ipo_loss
from trueup.worlds.enumerable import EnumerableWorld

TAU = 0.1


def test_sum_form_is_the_sheets() -> None:
    losses = ipo_loss(**SUMS, tau=TAU, average=False)
    assert is_close(losses, 16, 52.5625, 14.0625, 0.0625)
    assert is_close(losses.mean(), 20.671875)
    assert torch.equal(IPOSum(tau=TAU).loss(BATCH), losses)


def test_average_form_is_the_sheets() -> None:
    losses = IPO(tau=TAU).loss(BATCH)
    assert is_close(losses, 24.091736111, 26.01, 23.461914062, 23.643906250)
    assert is_close(losses.mean(), 24.301889106)


def test_tau_form_is_the_sum_form_times_tau_squared() -> None:
    losses = TAU**2 * IPO(tau=TAU, average=False).loss(BATCH)
    assert is_close(losses, 0.16, 0.525625, 0.140625, 0.000625)
    assert torch.allclose(losses, (TAU * MARGIN - 0.5) ** 2, atol=1e-15)


def test_a_wrong_sign_is_seen() -> None:
    losses = ipo_loss(**swapped(SUMS), tau=TAU, average=False)
    assert not is_close(losses, 16, 52.5625, 14.0625, 0.0625, tolerance=0.1)


def test_the_reference_itself_costs_the_target_squared() -> None:
    same = {name: SUMS[name.replace("ref_", "")] for name in SUMS}
    losses = ipo_loss(**same, tau=TAU, average=False)
    assert is_close(losses, *[1 / (4 * TAU**2)] * 4)


def test_a_constant_on_both_policy_sums_changes_nothing() -> None:
    moved = {name: value if "ref" in name else value - 7 for name, value in SUMS.items()}
    there, back = (ipo_loss(**given, tau=TAU, average=False) for given in (SUMS, moved))
    assert torch.allclose(there, back, atol=1e-12)


def test_lengths_are_asked_for_where_they_are_needed() -> None:
    with pytest.raises(TypeError, match="needs chosen_lengths"):
        ipo_loss(**SUMS, tau=TAU, average=True)


def test_gradients_are_the_papers_and_opposite() -> None:
    batch = leaves(SUMS)
    loss = ipo_loss(**batch, tau=TAU, average=False)
    to_chosen, to_rejected = slopes(loss, batch["chosen_logps"], batch["rejected_logps"])
    assert torch.allclose(to_chosen, 2 * (MARGIN - 1 / (2 * TAU)), atol=1e-13)
    assert torch.equal(to_chosen, -to_rejected)


@pytest.mark.parametrize("average", [True, False])
def test_gradients_pass_gradcheck(average: bool) -> None:
    batch = leaves(BATCH)

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        given = BATCH | {"chosen_logps": chosen, "rejected_logps": rejected}
        return ipo_loss(**given, tau=TAU, average=average)

    assert torch.autograd.gradcheck(of, (batch["chosen_logps"], batch["rejected_logps"]))


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_two_responses_stop_at_the_closed_form_margin(tau: float) -> None:
    world = EnumerableWorld(rewards=torch.tensor([0.8, -0.1]), ref_logits=torch.tensor([0.4, 0.0]))
    rate = torch.sigmoid(world.rewards[0].double() - world.rewards[1].double())
    gain = world.trained(lambda b: IPOSum(tau=tau).loss(b)) - world.ref_logps
    assert gain[0] - gain[1] == pytest.approx(float((2 * rate - 1) / (2 * tau)), abs=1e-6)


def test_a_wrong_sign_stops_on_the_wrong_side() -> None:
    world = EnumerableWorld(rewards=torch.tensor([0.8, -0.1]), ref_logits=torch.zeros(2))
    gain = world.trained(lambda b: IPOSum(tau=0.1).loss(swapped(b))) - world.ref_logps
    assert gain[0] - gain[1] < -1


def test_certain_labels_stop_at_half_over_tau_where_dpo_runs_away() -> None:
    world = EnumerableWorld(rewards=torch.tensor([40.0, 0.0]), ref_logits=torch.zeros(2))
    gain = world.trained(lambda b: IPOSum(tau=0.1).loss(b)) - world.ref_logps
    assert gain[0] - gain[1] == pytest.approx(5.0, abs=1e-6)
    assert world.optimum(0.1)[0] - world.optimum(0.1)[1] > 100


def test_trl_has_the_same_loss() -> None:
    theirs = dpo_trainer_loss(BATCH, ["ipo"], [1.0], beta=TAU)
    assert torch.allclose(IPO(tau=TAU).loss(BATCH).mean(), theirs, atol=1e-12)
