"""MAH-DPO: sheet 39's numbers, the exact optimum of every mix of heads, and the routing."""

import math

import pytest
import torch
from torch import Tensor

from tests.proofs.dpo_family import BATCH, BETA, SUMS, is_close, leaves, row, slopes
from tests.proofs.trl_peer import dpo_trainer_loss
from trueup.errors import UserError
from trueup.models.multi_head import MultiHead
from trueup.objectives.dpo import dpo_loss
from trueup.objectives.mah_dpo import (
    MAHDPO,
    hindsight_targets,
    mah_dpo_loss,
    mix_heads,
    value_labels,
)
from trueup.worlds.enumerable import EnumerableWorld, tilted

PAIRS = {
    "chosen_logps": row(-12, -8.5, -20, -7.25),
    "rejected_logps": row(-13, -8, -18.5, -9.75),
    "ref_chosen_logps": row(-12.5, -8, -20.5, -8),
    "ref_rejected_logps": row(-12, -8.25, -19.5, -9),
}
IDS = torch.tensor([0, 0, 0, 1])

# 1, 2, 5) the sheet's numbers


def test_losses_are_the_sheets() -> None:
    losses = MAHDPO().loss(PAIRS | {"objective_ids": IDS})
    assert is_close(losses, 0.4139713652, 0.4875667606, 0.4789730987, 1.2419140956)
    assert is_close(losses.mean(), 0.6556063300)


def test_unequal_objectives_are_the_sheets() -> None:
    assert is_close(
        MAHDPO(alpha=(0.7, 0.3)).loss(PAIRS | {"objective_ids": IDS}).mean(), 0.6694660429
    )


def test_the_flat_mean_is_another_loss() -> None:
    flat = dpo_loss(**PAIRS, beta=BETA)
    assert is_close(flat.mean(), 0.6729309711)
    assert not is_close(
        mah_dpo_loss(**PAIRS, objective_ids=IDS).mean(), float(flat.mean()), tolerance=1e-2
    )


def test_alpha_is_a_share_among_the_objectives_present() -> None:
    losses = mah_dpo_loss(**PAIRS, objective_ids=2 * IDS, alpha=row(1.4, 99, 0.6))
    expected = mah_dpo_loss(**PAIRS, objective_ids=IDS, alpha=row(0.7, 0.3))
    assert torch.allclose(losses, expected, atol=1e-15)


def test_one_objective_is_dpo() -> None:
    one = torch.zeros(4, dtype=torch.long)
    assert torch.equal(mah_dpo_loss(**SUMS, objective_ids=one), dpo_loss(**SUMS, beta=BETA))
    theirs = dpo_trainer_loss(BATCH, ["sigmoid"], [1.0], beta=BETA)
    assert torch.allclose(mah_dpo_loss(**SUMS, objective_ids=one).mean(), theirs, atol=1e-12)


def test_at_the_reference_every_objective_costs_ln_2() -> None:
    same = PAIRS | {name: PAIRS[f"ref_{name}"] for name in ("chosen_logps", "rejected_logps")}
    losses = mah_dpo_loss(**same, objective_ids=IDS)
    assert is_close(losses[:3].mean() * 2 * 3 / 4, math.log(2))
    assert is_close(losses[3] * 2 / 4, math.log(2))


def test_order_changes_nothing() -> None:
    turn = torch.tensor([3, 1, 0, 2])
    losses = mah_dpo_loss(
        **{name: value[turn] for name, value in PAIRS.items()}, objective_ids=IDS[turn]
    )
    assert torch.allclose(losses, mah_dpo_loss(**PAIRS, objective_ids=IDS)[turn], atol=1e-15)


def test_gradients_pass_gradcheck_and_cancel_within_a_pair() -> None:
    batch = leaves(PAIRS)

    def of(chosen: Tensor, rejected: Tensor) -> Tensor:
        given = PAIRS | {"chosen_logps": chosen, "rejected_logps": rejected}
        return mah_dpo_loss(**given, objective_ids=IDS, alpha=row(0.7, 0.3))

    inputs = (batch["chosen_logps"], batch["rejected_logps"])
    assert torch.autograd.gradcheck(of, inputs)
    to_chosen, to_rejected = slopes(of(*inputs), *inputs)
    assert torch.equal(to_chosen, -to_rejected)
    assert (to_chosen < 0).all()


@pytest.mark.parametrize("fields", [{"beta": 0.0}, {"alpha": (0.5, 0.0)}, {"head_noise": -1.0}])
def test_fields_out_of_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(fields))}.* must be"):
        MAHDPO(**fields)


# 3) mixing

LOGITS = torch.stack([row(2, 0.5, -1, 0), row(-0.5, 1.5, 0.25, 0)])


def test_mixing_is_the_sheets_and_a_geometric_mean() -> None:
    mixed = mix_heads(LOGITS, row(0.7, 0.3))
    assert is_close(mixed, 0.4813505737, 0.3069226766, 0.0738175013, 0.1379092484)
    assert torch.allclose(mix_heads(LOGITS, row(7, 3)), mixed, atol=1e-15)
    geometric = LOGITS[0].softmax(-1) ** 0.7 * LOGITS[1].softmax(-1) ** 0.3
    assert torch.allclose(geometric / geometric.sum(), mixed, atol=1e-15)


def test_mixing_probabilities_is_something_else() -> None:
    arithmetic = row(0.7, 0.3) @ LOGITS.softmax(-1)
    assert is_close(arithmetic, 0.5217515992, 0.2932854167, 0.0769987156, 0.1079642685)
    assert not torch.allclose(arithmetic, mix_heads(LOGITS, row(0.7, 0.3)), atol=0.01)


def test_mixing_takes_whole_sequences() -> None:
    logits = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    mixed = mix_heads(logits, torch.tensor([0.2, 0.8]))
    assert torch.allclose(mixed[1, 2], mix_heads(logits[:, 1, 2], torch.tensor([0.2, 0.8])))


# 7) the exact optimum of heads and of their mixes

REF = row(0.4, 0.3, 0.2, 0.1).log()
REWARDS = torch.stack([row(1, 0, -0.5, 0.25), row(-0.5, 0.2, 1, 0)])
WORLD = EnumerableWorld(rewards=REWARDS, ref_logits=REF.expand(2, 4))


def trained_heads() -> Tensor:
    """Log-probabilities [2, 4] of both heads, each trained on pairs that its reward labels."""
    ids = torch.tensor([0, 1]).repeat_interleave(12)
    return WORLD.trained(lambda batch: MAHDPO(beta=0.5).loss({**batch, "objective_ids": ids}))


def test_heads_and_mixes_reach_their_closed_forms() -> None:
    heads = trained_heads()
    first = 0.8458966348, 0.0858597455, 0.0210573568, 0.0471862629
    second = 0.0677335198, 0.2060047253, 0.6802320560, 0.0460296990
    near = 1e-7  # where training ends hangs on the machine's rounding
    assert is_close(heads[0].exp(), *first, tolerance=near)
    assert is_close(heads[1].exp(), *second, tolerance=near)
    half = mix_heads(heads, row(0.5, 0.5))
    mixed = 0.4443824558, 0.2469049652, 0.2221912279, 0.0865213511
    assert is_close(half, *mixed, tolerance=near)
    assert torch.allclose(half.log(), tilted(REF, REWARDS.mean(0), 0.5), atol=1e-6)
    arithmetic = heads.exp().mean(0)  # the control: a mixture of probabilities is no optimum
    assert not torch.allclose(arithmetic, half, atol=0.01)


def test_the_first_reward_rises_with_its_weight() -> None:
    heads = trained_heads()
    found = [float(mix_heads(heads, row(w, 1 - w)) @ REWARDS[0]) for w in (0.25, 0.5, 0.75)]
    assert found == pytest.approx([-0.006012, 0.354917, 0.667652], abs=1e-6)


# 8) hindsight


def test_hindsight_is_the_sheets() -> None:
    rewards, good, bad = row(1, 1, 0, 1)[None], row(1), row(0)
    assert is_close(hindsight_targets(rewards, good, 0.9), 1.729, 1.81, 0.9, 2.0)
    assert is_close(hindsight_targets(rewards, bad, 0.9), 1, 1, 0, 1)
    assert is_close(hindsight_targets(rewards, good, 0), 1, 1, 0, 2)
    both = torch.stack([rewards[0], row(1, 0, 0, 0)])
    mean = hindsight_targets(both, row(1, 0), 0.9)
    assert is_close(mean, 1.3645, 0.905, 0.45, 1.0)
    assert is_close(mean / mean.max(), 1, 0.663247, 0.329791, 0.732869, tolerance=1e-6)
    assert value_labels(mean).tolist() == [True, False, False, False]


@pytest.mark.parametrize("gamma", [0.0, 0.9])
def test_a_short_rollout_counts_from_its_own_end(gamma: float) -> None:
    short = row(1, 0, math.nan, math.nan)
    mean = hindsight_targets(torch.stack([short, row(1, 1, 0, 1)]), row(1, 0), gamma)
    assert is_close(mean, (1 + gamma + 1) / 2, (1 + 1) / 2, 0, 1)


def test_no_value_above_0_makes_no_good_step() -> None:
    assert not value_labels(row(-1, -0.5, -2)).any()
    assert not value_labels(row(0, 0)).any()


def test_the_threshold_is_strict() -> None:
    assert value_labels(row(2, 1, 1.5), threshold=0.5).tolist() == [True, False, True]


# 6, 10) routing

WORDS, STATES, SIZE, PAIRS_PER_OBJECTIVE = 6, 8, 8, 4


def curves(
    swap: tuple[int, ...] = (), *, train: tuple[int, ...] = (0, 1)
) -> tuple[Tensor, MultiHead]:
    """The margin of every pair of both objectives along 30 steps of two heads on fixed states.

    swap turns the pairs of those objectives round; train leaves the pairs of the others out.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(WORDS, SIZE, generator=generator, dtype=torch.float64)
    hidden = torch.randn(STATES, SIZE, generator=generator, dtype=torch.float64)
    words = torch.stack([torch.randperm(WORDS, generator=generator)[:2] for _ in range(STATES)])
    ids = torch.arange(2).repeat_interleave(PAIRS_PER_OBJECTIVE)
    heads = MultiHead(("first", "second"), [start, start])
    optimizer = torch.optim.SGD(heads.parameters(), lr=0.5)
    source = torch.arange(STATES)
    with torch.no_grad():
        ref = [heads.head_logps(hidden, ids, source, words[:, side]) for side in (0, 1)]
    turned = torch.isin(ids, torch.tensor(swap, dtype=torch.long))
    kept = torch.isin(ids, torch.tensor(train))
    path = []
    for _ in range(30):
        now = [heads.head_logps(hidden, ids, source, words[:, side]) for side in (0, 1)]
        path.append(((now[0] - ref[0]) - (now[1] - ref[1])).detach())
        sides = [torch.where(turned, now[1 - k], now[k]) for k in (0, 1)]
        known = [torch.where(turned, ref[1 - k], ref[k]) for k in (0, 1)]
        losses = mah_dpo_loss(
            chosen_logps=sides[0][kept],
            rejected_logps=sides[1][kept],
            ref_chosen_logps=known[0][kept],
            ref_rejected_logps=known[1][kept],
            objective_ids=ids[kept],
        )
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    return torch.stack(path), heads


def test_turning_one_objectives_pairs_leaves_the_other_head_its_curve() -> None:
    plain, turned = curves()[0], curves(swap=(1,))[0]
    first, second = slice(0, PAIRS_PER_OBJECTIVE), slice(PAIRS_PER_OBJECTIVE, None)
    assert torch.equal(plain[:, first], turned[:, first])
    assert plain[-1, second].mean() > 0.5 > -0.5 > turned[-1, second].mean()


def test_a_head_without_pairs_has_no_gradient() -> None:
    _, heads = curves(train=(0,))
    assert heads.weights[0].grad.abs().sum() > 0
    assert heads.weights[1].grad.abs().sum() == 0
