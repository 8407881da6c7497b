"""SimPO: sheet 00's numbers, TRL's spelling, the optimum on two responses."""

from types import SimpleNamespace

import pytest
import torch

from tests.proofs.dpo_family import BATCH, POLICY, is_close, leaves, row, swapped
from tests.proofs.trl_peer import trl_class
from trueup.objectives.simpo import SimPO, simpo_loss
from trueup.worlds.enumerable import EnumerableWorld

VALUES = (1.437764394, 1.018221511, 1.013437282, 1.444125188)


def test_gamma_one_is_the_sheets() -> None:
    losses = SimPO().loss(BATCH)
    assert is_close(losses, *VALUES)
    assert is_close(losses.mean(), 1.228387094)


def test_gamma_half_is_the_sheets() -> None:
    losses = simpo_loss(**POLICY, beta=2, gamma=0.5)
    assert is_close(losses, 1.081036754, 0.728759556, 0.724885382, 1.086550833)
    assert is_close(losses.mean(), 0.905308131)


def test_a_wrong_sign_is_seen() -> None:
    assert not is_close(simpo_loss(**swapped(POLICY), beta=2, gamma=1), *VALUES, tolerance=0.01)
    assert not is_close(simpo_loss(**POLICY, beta=2, gamma=-1), *VALUES, tolerance=0.01)


def test_no_reference_enters() -> None:
    moved = {name: value + (3 if "ref" in name else 0) for name, value in BATCH.items()}
    assert torch.equal(SimPO().loss(moved), SimPO().loss(BATCH))


def test_gradients_pass_gradcheck() -> None:
    batch = leaves(POLICY)

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        given = POLICY | {"chosen_logps": chosen, "rejected_logps": rejected}
        return simpo_loss(**given, beta=2, gamma=1)

    assert torch.autograd.gradcheck(of, (batch["chosen_logps"], batch["rejected_logps"]))


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_two_responses_reach_the_stationary_margin(gamma: float) -> None:
    # p s(gamma - beta m) = (1 - p) s(gamma + beta m); gamma = 0: m = logit(p) / beta
    world = EnumerableWorld(rewards=torch.tensor([0.9, 0.0]), ref_logits=torch.tensor([2.0, 0.0]))
    p = torch.sigmoid(world.rewards[0].double())
    found = world.trained(lambda b: SimPO(beta=2, gamma=gamma).loss(b))
    m = found[0] - found[1]
    pulls = p * torch.sigmoid(gamma - 2 * m) - (1 - p) * torch.sigmoid(gamma + 2 * m)
    assert abs(float(pulls)) < 1e-6
    if gamma == 0:
        assert float(m) == pytest.approx(0.9 / 2, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_trl_has_the_same_loss(gamma: float) -> None:
    trainer = trl_class("experimental.cpo.cpo_trainer", "CPOTrainer")
    stand_in = SimpleNamespace(
        alpha=0.0,
        beta=2.0,
        simpo_gamma=gamma,
        loss_type="simpo",
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )
    chosen = BATCH["chosen_logps"] / BATCH["chosen_lengths"]
    rejected = BATCH["rejected_logps"] / BATCH["rejected_lengths"]
    theirs = trainer.cpo_loss(stand_in, chosen, rejected)[0]
    assert torch.allclose(SimPO(gamma=gamma).loss(BATCH), theirs, atol=1e-14)
    assert not torch.allclose(SimPO(gamma=gamma).loss(BATCH), theirs + row(0.1), atol=1e-3)
