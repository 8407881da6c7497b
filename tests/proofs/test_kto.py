"""KTO: sheet 00's numbers, the drift's role, and what single labels teach."""

import pytest
import torch

from tests.proofs.dpo_family import BATCH, is_close, row
from tests.proofs.trl_peer import kto_trainer_loss
from trueup.objectives.kto import KTO, kto_loss

BETA, KL = 0.1, 0.3
CHOSEN = (BATCH["chosen_logps"], BATCH["ref_chosen_logps"])
REJECTED = (BATCH["rejected_logps"], BATCH["ref_rejected_logps"])
GOOD = torch.ones(4, dtype=torch.bool)
DESIRABLE = (0.495000167, 0.538672605, 0.495000167, 0.501249997)
UNDESIRABLE = (0.480010660, 0.517492858, 0.473774091, 0.370516888)


def test_desirable_completions_are_the_sheets() -> None:
    losses = kto_loss(logps=CHOSEN[0], ref_logps=CHOSEN[1], labels=GOOD, kl=KL, beta=BETA)
    assert is_close(losses, *DESIRABLE)
    assert is_close(losses.mean(), 0.507480734)


def test_undesirable_completions_are_the_sheets() -> None:
    losses = kto_loss(logps=REJECTED[0], ref_logps=REJECTED[1], labels=~GOOD, kl=KL, beta=BETA)
    assert is_close(losses, *UNDESIRABLE)
    assert is_close(losses.mean(), 0.460448624)


def test_a_wrong_label_is_seen() -> None:
    losses = kto_loss(logps=CHOSEN[0], ref_logps=CHOSEN[1], labels=~GOOD, kl=KL, beta=BETA)
    assert not is_close(losses, *DESIRABLE, tolerance=1e-3)
    assert is_close(losses, *(1 - value for value in DESIRABLE))  # the two kinds add up to 1


def test_the_reference_itself_costs_half() -> None:
    losses = kto_loss(logps=CHOSEN[0], ref_logps=CHOSEN[0], labels=GOOD, kl=0.0, beta=BETA)
    assert is_close(losses, 0.5, 0.5, 0.5, 0.5)


def mixed(**fields: float) -> tuple[KTO, dict[str, torch.Tensor]]:
    batch = {
        "logps": torch.cat([CHOSEN[0], REJECTED[0]]),
        "ref_logps": torch.cat([CHOSEN[1], REJECTED[1]]),
        "labels": torch.cat([GOOD, ~GOOD]),
        "kl": row(KL)[0],
    }
    return KTO(**fields), batch


def test_weights_scale_their_own_label() -> None:
    plain, batch = mixed()
    heavy, _ = mixed(desirable_weight=1.5, undesirable_weight=0.5)
    factors = torch.cat([row(1.5).expand(4), row(0.5).expand(4)])
    assert torch.allclose(heavy.loss(batch), factors * plain.loss(batch), atol=1e-15)


def test_drift_makes_good_completions_dearer_and_bad_ones_cheaper() -> None:
    objective, batch = mixed()
    change = objective.loss(batch | {"kl": row(5.0)[0]}) - objective.loss(batch)
    assert (change[:4] > 0).all()
    assert (change[4:] < 0).all()


def test_a_batch_of_one_label_has_a_loss() -> None:
    objective, batch = mixed()
    one = {name: value if value.ndim == 0 else value[:4] for name, value in batch.items()}
    assert torch.isfinite(objective.loss(one)).all()


def test_gradients_pass_gradcheck_and_do_not_cancel() -> None:
    objective, batch = mixed()
    logps = batch["logps"].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: objective.loss(batch | {"logps": x}), (logps,))
    (slope,) = torch.autograd.grad(objective.loss(batch | {"logps": logps}).sum(), logps)
    assert (slope[:4] < 0).all()
    assert (slope[4:] > 0).all()
    assert slope.sum().abs() > 1e-6  # unlike a loss on pairs


@pytest.mark.parametrize("good_rate", [0.8, 0.5, 0.2])
def test_a_response_rises_where_most_of_its_labels_are_good(good_rate: float) -> None:
    # three responses, equally often shown; the first is labelled good at `good_rate`, others at 1/2
    rates = row(good_rate, 0.5, 0.5)
    ref_logps = row(0.2, 0.5, 0.3).log()
    logits = ref_logps.clone().requires_grad_(True)
    optimizer = torch.optim.SGD([logits], lr=2.0)
    everything = torch.ones(3, dtype=torch.bool)
    for _ in range(50):
        given = {"logps": logits.log_softmax(-1), "ref_logps": ref_logps, "kl": 0.0, "beta": 0.5}
        good = kto_loss(labels=everything, **given)
        bad = kto_loss(labels=~everything, **given)
        optimizer.zero_grad()
        (rates * good + (1 - rates) * bad).mean().backward()
        optimizer.step()
    change = (logits.softmax(-1) - ref_logps.exp())[0].item()
    if good_rate == 0.5:
        assert abs(change) < 1e-12  # nothing to find, nothing changed
    else:
        assert change * (good_rate - 0.5) > 0.001


def test_trl_has_the_same_loss() -> None:
    objective, batch = mixed(desirable_weight=1.2)
    theirs = kto_trainer_loss(
        batch["logps"],
        batch["ref_logps"],
        batch["labels"],
        row(0.1, 0.5),  # mean 0.3
        beta=BETA,
        desirable_weight=1.2,
        undesirable_weight=1.0,
    )
    assert torch.allclose(objective.loss(batch).mean(), theirs, atol=1e-12)
