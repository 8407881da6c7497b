"""SFT: three reductions that are three different numbers, and the optimum they share or do not."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.proofs.dpo_family import BATCH, is_close, row
from tests.proofs.trl_peer import dpo_trainer_loss
from trueup.objectives.logps import sequence_logps
from trueup.objectives.sft import SFT, sft_loss
from trueup.worlds.enumerable import minimised

COMPLETIONS = {"logps": BATCH["chosen_logps"], "lengths": BATCH["chosen_lengths"]}


def step_loss(objective: SFT, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the engine makes of losses and weights."""
    weights = objective.weights(batch)
    return (weights * objective.loss(batch)).sum() / weights.sum()


@pytest.mark.parametrize(
    ("reduction", "value"),
    [("token-mean", 72.5 / 63), ("sequence-mean", 1.136875), ("sum", 18.125)],
)
def test_reductions_are_the_sheets(reduction: str, value: float) -> None:
    assert is_close(step_loss(SFT(reduction=reduction), COMPLETIONS), value)


def test_token_mean_is_the_default_and_no_other_number() -> None:
    assert is_close(step_loss(SFT(), COMPLETIONS), 72.5 / 63)
    assert not is_close(step_loss(SFT(), COMPLETIONS), 1.136875, tolerance=0.01)


def test_a_wrong_sign_is_seen() -> None:
    assert (sft_loss(**COMPLETIONS) > 0).all()


def test_token_mean_is_torchs_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 11, generator=generator, dtype=torch.float64)
    ids = torch.randint(11, (3, 7), generator=generator)
    mask = torch.arange(7) >= torch.tensor([2, 4, 6])[:, None]
    found = sequence_logps(logits=logits, ids=ids, completion_mask=mask)
    batch = {"logps": found.logps, "lengths": found.lengths}
    labels = torch.where(mask, ids, -100)[:, 1:]
    peer = cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert torch.allclose(step_loss(SFT(), batch), peer, atol=1e-14)


def test_token_mean_does_not_depend_on_how_the_batch_is_cut() -> None:
    objective = SFT()
    parts = [{k: v[rows] for k, v in COMPLETIONS.items()} for rows in ([0, 1, 2], [3])]
    above = sum((objective.weights(part) * objective.loss(part)).sum() for part in parts)
    below = sum(objective.weights(part).sum() for part in parts)
    assert torch.allclose(above / below, step_loss(objective, COMPLETIONS), atol=1e-14)


def test_an_empty_completion_costs_nothing() -> None:
    losses = sft_loss(logps=row(0, -2), lengths=row(0, 4))
    assert losses.tolist() == [0, 0.5]


def test_gradients_pass_gradcheck() -> None:
    logps = COMPLETIONS["logps"].clone().requires_grad_(True)
    lengths = COMPLETIONS["lengths"]
    assert torch.autograd.gradcheck(lambda x: sft_loss(logps=x, lengths=lengths), (logps,))


def test_the_minimiser_is_the_datas_frequencies() -> None:
    counts = row(6, 3, 1)

    def cost(logits: torch.Tensor) -> torch.Tensor:
        losses = sft_loss(logps=logits.log_softmax(-1), lengths=torch.ones_like(counts))
        return (counts * losses).sum() / counts.sum()

    found = minimised(cost, row(0, 0, 0)).softmax(-1)
    assert torch.allclose(found, counts / counts.sum(), atol=1e-7)


def test_trl_has_the_same_token_mean() -> None:
    theirs = dpo_trainer_loss(BATCH, ["sft"], [1.0], beta=0.1)
    assert torch.allclose(step_loss(SFT(), COMPLETIONS), theirs, atol=1e-12)
