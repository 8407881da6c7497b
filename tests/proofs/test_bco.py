"""BCO: sheet 19's numbers, the running shift, the known optimum and a planted preference."""

import copy
import math

import pytest
import torch
from torch import Tensor

from tests.proofs.chain_world import COMPLETION, PROMPT, ChainWorld
from tests.proofs.dpo_family import BATCH, BETA, SUMS, is_close, row
from tests.proofs.trl_peer import dpo_trainer_loss
from trueup.errors import UserError
from trueup.objectives.bco import (
    BCO,
    bco_loss,
    bco_optimum,
    bco_pair_loss,
    density_ratio,
)
from trueup.objectives.dpo import dpo_loss
from trueup.objectives.logps import sequence_logps
from trueup.objectives.protocol import Stateful
from trueup.worlds.enumerable import minimised

LABELS = torch.tensor([True] * 4 + [False] * 4)
MIXED = {
    "logps": torch.cat([BATCH["chosen_logps"], BATCH["rejected_logps"]]),
    "ref_logps": torch.cat([BATCH["ref_chosen_logps"], BATCH["ref_rejected_logps"]]),
    "lengths": torch.cat([BATCH["chosen_lengths"], BATCH["rejected_lengths"]]),
    "labels": LABELS,
}
SECOND = {  # one good row, three bad ones whose log-probabilities under the policy are 1.1 times
    "logps": torch.cat([BATCH["chosen_logps"][:1], 1.1 * BATCH["rejected_logps"][:3]]),
    "ref_logps": torch.cat([BATCH["ref_chosen_logps"][:1], BATCH["ref_rejected_logps"][:3]]),
    "lengths": torch.ones(4, dtype=torch.float64),
    "labels": torch.tensor([True, False, False, False]),
}
ZERO = row(0.0)[0]


def after(objective: BCO, *batches: dict[str, Tensor]) -> tuple[dict[str, float], float]:
    """The state and delta after some batches."""
    state, scalars = objective.start(), {}
    for batch in batches:
        state, scalars = objective.advance(state, batch)
    return state, float(scalars["delta"])


def losses(objective: BCO, batch: dict[str, Tensor]) -> Tensor:
    """The losses of a first step."""
    return objective.loss(batch | objective.advance(objective.start(), batch)[1])


# a) the sheet's numbers


@pytest.mark.parametrize("balanced", [True, False])
def test_first_delta_is_the_sheets(balanced: bool) -> None:
    assert after(BCO(balanced=balanced), MIXED)[1] == pytest.approx(-0.065625, abs=1e-15)


def test_losses_are_the_sheets() -> None:
    found = losses(BCO(), MIXED)
    assert is_close(found[:4], 0.637004893, 0.723275290, 0.637004893, 0.648860941)
    assert is_close(found[4:], 0.700990198, 0.779384724, 0.688470667, 0.499361764)
    assert is_close(found.mean(), 0.664294171)


def test_losses_without_shift_are_the_sheets() -> None:
    found = BCO().loss(MIXED | {"delta": ZERO})
    assert is_close(found[:4], 0.668459648, 0.757599035, 0.668459648, 0.680725304)
    assert is_close(found[4:], 0.668459648, 0.744396660, 0.656350141, 0.474076984)


def test_pair_sum_without_shift_is_the_sheets_and_trls() -> None:
    found = bco_pair_loss(**SUMS, delta=ZERO, beta=BETA).mean()
    assert is_close(found, 1.329631767)
    theirs = dpo_trainer_loss(BATCH, ["bco_pair"], [1.0], beta=BETA)
    assert torch.allclose(found, theirs, atol=1e-12)


def test_trls_pair_loss_knows_no_shift() -> None:
    theirs = dpo_trainer_loss(BATCH, ["bco_pair"], [1.0], beta=BETA)
    shifted = bco_pair_loss(**SUMS, delta=row(-0.065625)[0], beta=BETA).mean()
    assert abs(shifted - theirs) > 1e-4


def test_deltas_of_an_unbalanced_batch_are_the_sheets() -> None:
    assert after(BCO(balanced=False), SECOND)[1] == pytest.approx(-0.124375, abs=1e-12)
    assert after(BCO(), SECOND)[1] == pytest.approx(-0.06625, abs=1e-12)


def test_cumulative_delta_is_trls() -> None:
    # the number of TRL's RunningMoments after these batches, from the sheet
    assert after(BCO(balanced=False), MIXED, SECOND)[1] == pytest.approx(-0.085208333, abs=1e-9)


# the running shift


def test_the_engine_holds_the_state() -> None:
    assert isinstance(BCO(), Stateful)
    assert BCO.needs.whole_batch


def test_running_means_decay_and_are_corrected_for_their_start() -> None:
    means = [
        [
            0.1 * float((batch["logps"] - batch["ref_logps"])[batch["labels"] == kind].mean())
            for batch in (MIXED, SECOND)
        ]
        for kind in (True, False)
    ]
    expected = sum((0.9 * first + second) / 1.9 for first, second in means) / 2
    assert after(BCO(momentum=0.9), MIXED, SECOND)[1] == pytest.approx(expected, abs=1e-12)


def test_constant_rewards_give_a_constant_delta() -> None:
    deltas = [after(BCO(), *[MIXED] * steps)[1] for steps in (1, 5, 50)]
    assert deltas == pytest.approx([-0.065625] * 3, abs=1e-12)


@pytest.mark.parametrize("balanced", [True, False])
def test_a_batch_without_a_label_leaves_that_labels_mean(balanced: bool) -> None:
    objective = BCO(balanced=balanced)
    first, _ = after(objective, MIXED)
    good = {name: value[:4] for name, value in MIXED.items()}
    second, _ = objective.advance(first, good)
    assert second["mean_false"] == first["mean_false"]
    assert second["count_false"] == first["count_false"]
    assert second["count_true"] > first["count_true"]


def test_a_label_not_yet_seen_counts_as_zero() -> None:
    good = {name: value[:4] for name, value in MIXED.items()}
    assert after(BCO(), good)[1] == pytest.approx(0.0, abs=1e-15)  # these four average 0
    bad = {name: value[4:] for name, value in MIXED.items()}
    assert after(BCO(), bad)[1] == pytest.approx(-0.065625, abs=1e-15)


def test_order_within_a_batch_changes_nothing() -> None:
    order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    turned = {name: value[order] for name, value in MIXED.items()}
    for balanced in (True, False):
        objective = BCO(balanced=balanced)
        assert after(objective, turned) == after(objective, MIXED)
        assert torch.equal(losses(objective, turned), losses(objective, MIXED)[order])


def test_asking_for_delta_changes_no_state() -> None:
    objective = BCO()
    state, _ = after(objective, MIXED)
    kept = dict(state)
    objective.advance(state, SECOND)  # an evaluation, whose state the engine drops
    assert state == kept


def test_labels_may_be_numbers() -> None:
    objective = BCO()
    numbered = MIXED | {"labels": LABELS.double()}
    assert torch.equal(losses(objective, numbered), losses(objective, MIXED))


# b, c) identities


@pytest.mark.parametrize(
    ("good", "bad", "dpo", "unshifted", "best"),
    [
        (2, 1, 0.313261688, 1.440189699, 0.948153968),
        (-3, -5, 0.126928011, 3.055302700, 0.626523375),
        (1, 2, 1.313261688, 2.440189699, 1.948153968),
        (0.05, -0.05, 0.644396660, 1.336919296, 1.336919296),
    ],
)
def test_bound_on_dpo_is_the_sheets(
    good: float, bad: float, dpo: float, unshifted: float, best: float
) -> None:
    zeros = row(0)
    pair = {
        "chosen_logps": row(good),
        "rejected_logps": row(bad),
        "ref_chosen_logps": zeros,
        "ref_rejected_logps": zeros,
        "beta": 1.0,
    }
    middle = row((good + bad) / 2)[0]
    margin = row(good - bad)
    assert is_close(dpo_loss(**pair), dpo)
    assert is_close(bco_pair_loss(**pair, delta=ZERO), unshifted)
    found = bco_pair_loss(**pair, delta=middle)
    assert is_close(found, best)
    assert torch.allclose(found, 2 * torch.nn.functional.softplus(-margin / 2), atol=1e-12)
    for shift in (-1.0, 0.0, 0.7):
        gap = bco_pair_loss(**pair, delta=row(shift)[0]) - dpo_loss(**pair)
        error = (row(shift - good).exp() + row(bad - shift).exp()) / (1 + (-margin).exp())
        assert torch.allclose(gap, error.log1p(), atol=1e-12)
        assert bco_pair_loss(**pair, delta=row(shift)[0]) >= found - 1e-15


def moved(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with 7 nats added to every log-ratio."""
    return batch | {"logps": batch["logps"] + 7}


def test_a_constant_added_to_all_rewards_changes_nothing() -> None:
    assert torch.allclose(losses(BCO(), moved(MIXED)), losses(BCO(), MIXED), atol=1e-12)


def test_without_shift_the_constant_is_seen() -> None:
    change = BCO().loss(moved(MIXED) | {"delta": ZERO}) - BCO().loss(MIXED | {"delta": ZERO})
    assert (change.abs() > 0.1).all()


def test_the_reference_itself_costs_ln_two() -> None:
    found = losses(BCO(), MIXED | {"logps": MIXED["ref_logps"]})
    assert torch.allclose(found, row(math.log(2)).expand(8), atol=1e-15)


# weights and gradients


def test_density_weights_act_on_bad_answers_only() -> None:
    weighted = MIXED | {"density_weights": torch.arange(1, 9).double()}
    factors = row(1, 1, 1, 1, 5, 6, 7, 8)
    assert torch.allclose(losses(BCO(), weighted), factors * losses(BCO(), MIXED), atol=1e-14)


def test_class_weights_scale_their_own_label() -> None:
    found = losses(BCO(desirable_weight=1.5, undesirable_weight=0.5), MIXED)
    factors = row(*[1.5] * 4, *[0.5] * 4)
    assert torch.allclose(found, factors * losses(BCO(), MIXED), atol=1e-15)


def test_weights_do_not_enter_the_shift() -> None:
    weighted = MIXED | {"density_weights": torch.arange(1, 9).double()}
    assert after(BCO(undesirable_weight=3.0), weighted) == after(BCO(), MIXED)


def test_every_example_weighs_the_same_in_the_mean() -> None:
    assert torch.equal(BCO().weights(MIXED), torch.ones(8, dtype=torch.float64))


def test_gradients_pass_gradcheck() -> None:
    batch = MIXED | {"delta": row(-0.065625)[0], "density_weights": torch.arange(1, 9).double()}
    logps = MIXED["logps"].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: BCO().loss(batch | {"logps": x}), (logps,))


def test_no_gradient_flows_through_the_shift_or_the_density() -> None:
    logps = MIXED["logps"].clone().requires_grad_(True)
    batch = MIXED | {"logps": logps}
    assert not BCO().advance(BCO().start(), batch)[1]["delta"].requires_grad
    attached = BETA * (logps - MIXED["ref_logps"]).mean()
    found = bco_loss(
        logps=logps,
        ref_logps=MIXED["ref_logps"],
        labels=LABELS,
        delta=attached,
        weights=logps / logps.detach(),
        beta=BETA,
    )
    (slope,) = torch.autograd.grad(found.sum(), logps)
    (expected,) = torch.autograd.grad(losses(BCO(), batch).sum(), logps)
    assert torch.allclose(slope, expected, atol=1e-15)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, math.nan])
def test_momentum_stays_below_one(momentum: float) -> None:
    with pytest.raises(UserError, match="momentum must be at least 0 and below 1"):
        BCO(momentum=momentum)


# d) the optimum on one prompt

WORLDS = [
    (1.0, (0.5, 0.5), (0.8, 0.2), (0.94117647, 0.05882353), -0.75377180),
    (
        0.5,
        (0.2, 0.3, 0.5),
        (0.9, 0.5, 0.1),
        (0.98145101, 0.01817502, 0.00037397),
        -1.40186721,
    ),
]
UNSHIFTED = [(0.89004284, 0.10995716), (0.80228501, 0.19177605, 0.00593894)]


def ten_labels(rates: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Ten labels for every response, as its rate of good ones has it."""
    counts = [round(10 * rate) for rate in rates]
    labels = [torch.arange(10) < count for count in counts]
    return torch.arange(len(rates)).repeat_interleave(10), torch.cat(labels)


@pytest.mark.parametrize(("beta", "ref", "rates", "policy", "delta"), WORLDS)
def test_optimum_is_the_sheets(
    beta: float,
    ref: tuple[float, ...],
    rates: tuple[float, ...],
    policy: tuple[float, ...],
    delta: float,
) -> None:
    found = bco_optimum(row(*ref), row(*rates), beta)
    assert is_close(found, *policy, tolerance=1e-8)
    shift = beta * (found / row(*ref)).log() - row(*rates).logit()
    assert is_close(shift, *[delta] * len(ref), tolerance=1e-8)


@pytest.mark.parametrize(("beta", "ref", "rates", "policy", "delta"), WORLDS)
def test_training_with_the_running_shift_reaches_the_optimum(
    beta: float,
    ref: tuple[float, ...],
    rates: tuple[float, ...],
    policy: tuple[float, ...],
    delta: float,
) -> None:
    responses, labels = ten_labels(rates)
    ref_logps = row(*ref).log()
    objective, logits = BCO(beta=beta, momentum=0.9), ref_logps.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    state = objective.start()
    for _ in range(1500):
        batch = {
            "logps": logits.log_softmax(-1)[responses],
            "ref_logps": ref_logps[responses],
            "labels": labels,
        }
        state, scalars = objective.advance(state, batch)
        optimizer.zero_grad()
        objective.loss(batch | scalars).mean().backward()
        optimizer.step()
    assert is_close(logits.detach().softmax(-1), *policy, tolerance=1e-8)
    assert float(scalars["delta"]) == pytest.approx(delta, abs=1e-8)


@pytest.mark.parametrize("number", [0, 1])
def test_without_shift_another_policy_is_reached(number: int) -> None:
    beta, ref, rates, policy, _ = WORLDS[number]
    responses, labels = ten_labels(rates)
    ref_logps = row(*ref).log()

    def loss(logits: Tensor) -> Tensor:
        return bco_loss(
            logps=logits.log_softmax(-1)[responses],
            ref_logps=ref_logps[responses],
            labels=labels,
            delta=ZERO,
            beta=beta,
        ).mean()

    found = minimised(loss, ref_logps).softmax(-1)
    assert is_close(found, *UNSHIFTED[number], tolerance=1e-8)
    assert not is_close(found, *policy, tolerance=0.02)


# e) the density ratio


def test_ratios_are_clipped_as_the_sheets() -> None:
    probs = row(0.05, 0.3, 0.5, 0.8, 0.99)
    assert is_close(density_ratio(probs), 0.5, 0.5, 1.0, 4.0, 10.0, tolerance=1e-12)


def test_certain_prompts_have_finite_ratios() -> None:
    assert is_close(density_ratio(row(0, 1)), 0.5, 10)


# g) a planted preference

WANTED = (3, 7)


def share(ids: Tensor) -> float:
    """How many completions contain a wanted token."""
    return float(has_wanted(ids).float().mean())


def has_wanted(ids: Tensor) -> Tensor:
    return torch.isin(ids[:, PROMPT:], torch.tensor(WANTED)).any(dim=1)


def trained_share(world: ChainWorld, labels: Tensor) -> float:
    """The share in 500 fresh samples of a model trained on the world's own, labelled so."""
    ids, ref_logps = world.ids[: len(labels)], world.known[0]
    mask = (torch.arange(PROMPT + COMPLETION) >= PROMPT).expand(ids.shape)
    model = copy.deepcopy(world.reference).requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    objective = BCO(momentum=0.9)
    state = objective.start()
    for _ in range(80):
        logits = model(ids).logits
        logps = sequence_logps(logits=logits, ids=ids, completion_mask=mask).logps
        batch = {"logps": logps, "ref_logps": ref_logps, "labels": labels}
        state, scalars = objective.advance(state, batch)
        optimizer.zero_grad()
        objective.loss(batch | scalars).mean().backward()
        optimizer.step()
    sampling = copy.copy(world)  # `continued` samples from the world's own model
    sampling.reference = model
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return share(sampling.continued(sampling.chains(500, PROMPT), COMPLETION))


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_preference_is_learned_and_follows_its_labels(seed: int) -> None:
    world = ChainWorld(seed, n_pairs=128)
    labels = has_wanted(world.ids[:128])
    order = torch.randperm(128, generator=torch.Generator().manual_seed(seed))
    found = trained_share(world, labels)
    assert share(world.ids[:128]) < 0.6
    assert found > 0.85
    assert trained_share(world, ~labels) < 0.2
    assert found - trained_share(world, labels[order]) > 0.2
