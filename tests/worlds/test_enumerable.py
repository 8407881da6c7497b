"""Enumerable worlds: closed forms, labels, and a minimiser that gets there."""

import pytest
import torch

from trueup.errors import UserError
from trueup.worlds.enumerable import EnumerableWorld, minimised, tilted

WORLD = EnumerableWorld(
    rewards=torch.tensor([1.0, 0.2, -0.7, 0.4]), ref_logits=torch.tensor([0.3, -0.5, 0.9, 0.0])
)


def test_tilted_is_normalised_and_proportional() -> None:
    beta = 0.5
    found = tilted(WORLD.ref_logps, WORLD.rewards.double(), beta).exp()
    weights = WORLD.ref_logps.exp() * (WORLD.rewards.double() / beta).exp()
    assert torch.allclose(found, weights / weights.sum(), atol=1e-14)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_no_policy_beats_the_optimum(beta: float) -> None:
    def objective(logps: torch.Tensor) -> torch.Tensor:
        kl = (logps.exp() * (logps - WORLD.ref_logps)).sum()
        return (logps.exp() * WORLD.rewards).sum() - beta * kl

    best = objective(WORLD.optimum(beta))
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        other = torch.randn(4, generator=generator, dtype=torch.float64).log_softmax(-1)
        assert objective(other) <= best + 1e-12
    found = minimised(lambda x: -objective(x.log_softmax(-1)), WORLD.ref_logits)
    assert torch.allclose(found.softmax(-1), WORLD.optimum(beta).exp(), atol=1e-7)


def test_large_beta_is_the_reference() -> None:
    assert torch.allclose(WORLD.optimum(1e9), WORLD.ref_logps, atol=1e-8)


def test_labels_of_a_pair_sum_to_one() -> None:
    chosen, rejected, probability = WORLD.pairs()
    table = torch.full((4, 4), 0.5, dtype=torch.float64)
    table[chosen, rejected] = probability
    assert torch.allclose(table + table.T, torch.ones(4, 4, dtype=torch.float64), atol=1e-14)
    assert len(chosen) == 12


def test_several_prompts_are_worlds_of_their_own() -> None:
    both = EnumerableWorld(
        rewards=torch.stack([WORLD.rewards, -WORLD.rewards]),
        ref_logits=torch.stack([WORLD.ref_logits, WORLD.ref_logits]),
    )
    assert torch.allclose(both.optimum(0.3)[0], WORLD.optimum(0.3))
    assert both.batch(both.ref_logps)["chosen_logps"].shape == (24,)


def test_sampled_pairs_follow_the_label_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = WORLD.sampled_pairs(40_000, generator)
    assert (chosen != rejected).all()
    first, second, probability = WORLD.pairs()
    for i, j, p in zip(first.tolist(), second.tolist(), probability.tolist(), strict=True):
        wins = ((chosen == i) & (rejected == j)).sum()
        losses = ((chosen == j) & (rejected == i)).sum()
        assert abs(wins / (wins + losses) - p) < 0.03


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(UserError, match=r"one shape, got \(3,\) and \(2,\)"):
        EnumerableWorld(rewards=torch.zeros(3), ref_logits=torch.zeros(2))


def test_a_world_of_one_response_is_refused() -> None:
    with pytest.raises(UserError, match="two responses, got 1"):
        EnumerableWorld(rewards=torch.zeros(1), ref_logits=torch.zeros(1))
