"""PoFT: sheet 53's numbers, its gradient as a weighted one, and noise that the scores uncover."""

import math

import pytest
import torch
from torch import Tensor

from tests.proofs.dpo_family import is_close, row, slopes
from tests.proofs.trl_peer import dpo_trainer_loss
from trueup.errors import UserError
from trueup.objectives.poft import PoFT, poft_loss, poft_weights

LENGTHS = row(5, 10, 4)
MEANS = row(-1.2, -0.8, -2.5)
SCORES = torch.stack([row(-1, -1.4, -0.9), row(-1.1, -0.8, -1.3), row(-3, -4, -2.6)])
BATCH = {"logps": MEANS * LENGTHS, "lengths": LENGTHS, "mean_ref_logps": SCORES.mean(-1)}

# 1) the sheet's numbers


@pytest.mark.parametrize(
    ("fields", "losses", "weights"),
    [
        (
            {},
            (0.74439666, 0.56867652, 0.40318605),
            (0.52497919, 0.43372561, 0.33181223),
        ),
        (
            {"beta": 2.0},
            (0.79813887, 0.46162249, 0.22041741),
            (1.09966799, 0.73947955, 0.39563222),
        ),
        ({"gamma": 0.5}, (0.51301525, 0.38155419, 0.26328247), None),
    ],
)
def test_losses_and_weights_are_the_sheets(
    fields: dict[str, float], losses: tuple[float, ...], weights: tuple[float, ...] | None
) -> None:
    assert is_close(PoFT(**fields).loss(BATCH), *losses, tolerance=1e-8)
    if weights is not None:
        assert is_close(poft_weights(**BATCH, **fields), *weights, tolerance=1e-8)


def test_the_mean_is_the_sheets() -> None:
    assert is_close(PoFT().loss(BATCH).mean(), 0.5720864106, tolerance=1e-9)


def test_a_mean_of_probabilities_is_another_method() -> None:
    arithmetic = BATCH | {"mean_ref_logps": SCORES.exp().mean(-1).log()}
    found = poft_weights(**arithmetic)
    assert is_close(found, 0.53051587, 0.43897433, 0.36635313, tolerance=1e-8)
    assert not torch.allclose(found, poft_weights(**BATCH), atol=5e-3)


def test_weight_is_one_against_the_geometric_mean() -> None:
    geometric = SCORES.exp().prod(-1) ** (1 / 3)
    expected = geometric / (geometric + MEANS.exp())
    assert torch.allclose(poft_weights(**BATCH), expected, atol=1e-15)


def test_trl_has_the_same_form() -> None:
    ones, zeros = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    pairs = {
        "chosen_logps": MEANS,
        "ref_chosen_logps": BATCH["mean_ref_logps"],
        "rejected_logps": zeros,
        "ref_rejected_logps": zeros,
        "chosen_lengths": ones,
        "rejected_lengths": ones,
    }
    theirs = dpo_trainer_loss(pairs, ["sigmoid"], [1.0], beta=1.0)
    assert torch.allclose(PoFT().loss(BATCH).mean(), theirs, atol=1e-12)


# 2, 3, 10) gradients and limits


def slope(mean_ref_logps: Tensor, **fields: float) -> Tensor:
    logps = BATCH["logps"].clone().requires_grad_(True)
    losses = PoFT(**fields).loss(BATCH | {"logps": logps, "mean_ref_logps": mean_ref_logps})
    return slopes(losses, logps)[0]


TO_CROSS_ENTROPY = -1 / LENGTHS  # the slope of each sample's own mean


def test_scoring_oneself_halves_the_gradient() -> None:
    assert torch.equal(slope(MEANS), 0.5 * TO_CROSS_ENTROPY)
    losses = PoFT().loss(BATCH | {"mean_ref_logps": MEANS})
    assert is_close(losses, *[math.log(2)] * 3)


@pytest.mark.parametrize("fields", [{}, {"beta": 2.0}, {"beta": 0.5, "gamma": 0.3}])
def test_gradient_is_the_weighted_one(fields: dict[str, float]) -> None:
    expected = poft_weights(**BATCH, **fields) * TO_CROSS_ENTROPY
    assert torch.allclose(slope(BATCH["mean_ref_logps"], **fields), expected, atol=1e-15)


def test_far_better_scorers_give_plain_fine_tuning() -> None:
    ahead = torch.full_like(MEANS, 60)
    assert torch.allclose(slope(ahead) / TO_CROSS_ENTROPY, torch.ones_like(MEANS), atol=1e-12)
    losses = PoFT().loss(BATCH | {"mean_ref_logps": ahead})
    assert torch.allclose(losses, ahead - MEANS, atol=1e-12)


def test_far_worse_scorers_teach_nothing() -> None:
    assert slope(torch.full_like(MEANS, -60)).abs().max() < 1e-24


def test_a_far_likelier_scorer_costs_no_infinity_in_float32() -> None:
    given = {"logps": torch.tensor([-120.0]), "lengths": torch.tensor([1.0])}
    losses = poft_loss(**given, mean_ref_logps=torch.zeros(1))
    assert losses.tolist() == [120.0]
    assert torch.sigmoid(torch.tensor([-120.0])).log().isinf()  # the naive way, the control


def test_scores_are_constants() -> None:
    scores = BATCH["mean_ref_logps"].clone().requires_grad_(True)
    logps = BATCH["logps"].clone().requires_grad_(True)
    given = {"logps": logps, "lengths": LENGTHS, "mean_ref_logps": scores}
    poft_loss(**given).sum().backward()
    assert scores.grad is None
    assert not poft_weights(**given).requires_grad


def test_gradients_pass_gradcheck() -> None:
    logps = BATCH["logps"].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda x: PoFT(beta=2.0, gamma=0.5).loss(BATCH | {"logps": x}), (logps,)
    )


# 4) lengths and order


def test_twice_the_tokens_at_the_same_rate_change_nothing() -> None:
    doubled = BATCH | {"logps": 2 * BATCH["logps"], "lengths": 2 * LENGTHS}
    assert torch.equal(PoFT().loss(doubled), PoFT().loss(BATCH))
    longer = BATCH | {"lengths": 2 * LENGTHS}  # the control: the rate does matter
    assert not torch.allclose(PoFT().loss(longer), PoFT().loss(BATCH), atol=0.1)


def test_order_changes_nothing() -> None:
    turn = torch.tensor([2, 0, 1])
    turned = {name: value[turn] for name, value in BATCH.items()}
    assert torch.equal(PoFT().loss(turned), PoFT().loss(BATCH)[turn])


def test_an_empty_completion_is_refused() -> None:
    with pytest.raises(UserError, match="has no tokens"):
        PoFT().loss(BATCH | {"lengths": row(5, 0, 4)})


# 6, 7) planted noise: a table of bigrams, 140 clean sequences and 60 random ones

WORDS, LENGTH, CLEAN, NOISE = 20, 12, 140, 60
SEEDS = (0, 1, 2, 3, 4)


class NoisyWorld:
    """Sequences of a Markov chain among random ones, and their scores by a scorer of clean data."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        raw = torch.randn(WORDS, WORDS, generator=self.generator, dtype=torch.float64)
        self.transitions = (3 * raw).softmax(-1)
        noise = torch.randint(WORDS, (NOISE, LENGTH), generator=self.generator)
        self.train = torch.cat([self.chains(CLEAN), noise])
        self.test = self.chains(400)
        seen = self.chains(400)
        counts = torch.full((WORDS, WORDS), 0.1, dtype=torch.float64)
        here, there = seen[:, :-1].flatten(), seen[:, 1:].flatten()
        counts.index_put_((here, there), torch.ones(len(here)).double(), accumulate=True)
        self.scores = self.logps((counts / counts.sum(-1, keepdim=True)).log(), self.train)

    def chains(self, n: int) -> Tensor:
        """Sequences [n, LENGTH] of the chain, first word uniform."""
        words = [torch.randint(WORDS, (n,), generator=self.generator)]
        for _ in range(LENGTH - 1):
            after = self.transitions[words[-1]]
            words.append(torch.multinomial(after, 1, generator=self.generator)[:, 0])
        return torch.stack(words, dim=1)

    def logps(self, table: Tensor, sequences: Tensor) -> Tensor:
        """Mean log-probabilities per token of the sequences after their first words, [n]."""
        return table.log_softmax(-1)[sequences[:, :-1], sequences[:, 1:]].mean(-1)

    def batch(self, table: Tensor, scores: Tensor) -> dict[str, Tensor]:
        lengths = torch.full((len(self.train),), LENGTH - 1.0, dtype=torch.float64)
        logps = self.logps(table, self.train) * lengths
        return {"logps": logps, "lengths": lengths, "mean_ref_logps": scores}

    def trained(self, scores: Tensor | None) -> tuple[float, Tensor]:
        """The test's negative log-likelihood, and the weights, after 200 steps; None: plain."""
        table = torch.zeros(WORDS, WORDS, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([table], lr=0.3)
        given = torch.zeros(len(self.train)).double() if scores is None else scores
        for _ in range(200):
            batch = self.batch(table, given)
            losses = -batch["logps"] / batch["lengths"] if scores is None else PoFT().loss(batch)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
        with torch.no_grad():
            return -float(self.logps(table, self.test).mean()), poft_weights(
                **self.batch(table, given)
            )

    def shuffled_scores(self) -> Tensor:
        return self.scores[torch.randperm(len(self.scores), generator=self.generator)]


def test_scores_uncover_planted_noise() -> None:
    gains, losses_by_shuffle = [], []
    for seed in SEEDS:
        world = NoisyWorld(seed)
        plain, _ = world.trained(None)
        found, weights = world.trained(world.scores)
        shuffled, _ = world.trained(world.shuffled_scores())
        gains.append(plain - found)
        losses_by_shuffle.append(shuffled - plain)
        assert 0.4 < weights[:CLEAN].mean() < 0.6
        assert weights[CLEAN:].mean() < 0.2
    assert min(gains) >= 0.08
    assert sum(gains) / len(gains) >= 0.10
    assert min(losses_by_shuffle) > 0  # the control: the gain is the scores', not the sigmoid's
