"""BiAlign: sheet 68's numbers, why the range is detached, and preferences that outputs hide."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor
from torch.nn.functional import kl_div, logsigmoid

from tests.proofs.distillation_batch import (
    logits,
    mean_length,
    padded,
    ragged,
    streamed_kl,
)
from tests.proofs.dpo_family import is_close, row
from trueup.objectives.bialign import BiAlign, bialign_loss, subset_ranking_loss
from trueup.objectives.token_means import position_kl, token_kl
from trueup.synthesis.demonstrations import demonstration_subsets

TEACHER = row(-1, -3, -2, -5)


def ranked(*student: float, teacher: Tensor = TEACHER, **options: Any) -> tuple[Tensor, Tensor]:
    """The loss of one sample, and its gradient."""
    scores = row(*student)[None].requires_grad_()
    loss = subset_ranking_loss(sample_logps=scores, teacher_sample_logps=teacher[None], **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), scores)[0][0]


def random_scores(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores of four subsets by a student and by a teacher, [n, 4] each."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, n, 4, dtype=torch.float64, generator=generator)
    return student, teacher


# 1) the sheet's numbers


@pytest.mark.parametrize(
    ("student", "loss", "slope"),
    [
        ((-2, -2.5, -4, -3), 3.25, (-1, 0.5, -1, 1.5)),
        ((-1, -3, -2, -4), 0.0, None),  # evenly spaced in the teacher's order
        ((-1, -3, -2, -5), 1 / 3, None),  # the teacher's own scores
        ((-5, -2, -3, -1), 6.5833333333, (-0.75, 0.25, -0.25, 0.75)),
        ((-4, -2, -3, -1), 6.6666666667, None),  # evenly spaced, reversed
    ],
)
def test_the_ranking_is_the_sheets(
    student: tuple[float, ...], loss: float, slope: tuple[float, ...] | None
) -> None:
    found, gradient = ranked(*student)
    assert is_close(found, loss)
    if slope is not None:
        assert is_close(gradient, *slope, tolerance=1e-12)


def test_the_largest_value_is_the_sheets() -> None:
    assert is_close(ranked(-1, 0, -1, 0)[0], 7.3333333333)  # two best lowest, two worst highest
    student, teacher = random_scores(2000)
    found = subset_ranking_loss(sample_logps=student, teacher_sample_logps=teacher)
    assert found.max() < 7.3333333333


def test_ranks_the_wrong_way_round_would_be_lenient() -> None:
    scores = row(-2, -2.5, -4, -3)  # the sum with margins of the other sign, by hand
    order = TEACHER.argsort(descending=True)
    lenient = sum(
        max(0.0, float(scores[order[j]] - scores[order[i]]) / 2 - (j - i) / 3)
        for i in range(4)
        for j in range(i + 1, 4)
    )
    assert lenient < 1 < ranked(*scores.tolist())[0].item()


# 2) two subsets, and the range


def test_two_subsets_in_the_wrong_order_have_a_gradient() -> None:
    loss, slope = ranked(-3, -1, teacher=row(-1, -2))
    assert is_close(loss, 2)
    assert is_close(slope, -0.5, 0.5)  # over the range of 2


def test_a_live_range_freezes_them() -> None:
    loss, slope = ranked(-3, -1, teacher=row(-1, -2), detach_range=False)
    assert is_close(loss, 2)
    assert slope.abs().max() < 1e-15


def test_two_subsets_in_the_right_order_cost_nothing() -> None:
    loss, slope = ranked(-1, -3, teacher=row(-1, -2))
    assert loss.abs().max() == slope.abs().max() == 0


# 3) invariances


def test_scale_shift_and_monotone_maps_change_nothing() -> None:
    student, teacher = random_scores(50)
    loss = subset_ranking_loss(sample_logps=student, teacher_sample_logps=teacher)
    moved = subset_ranking_loss(sample_logps=0.2 * student - 7, teacher_sample_logps=teacher)
    mapped = subset_ranking_loss(sample_logps=student, teacher_sample_logps=teacher.exp() ** 3)
    assert torch.allclose(moved, loss, atol=1e-12, rtol=0)
    assert torch.equal(mapped, loss)


def test_the_order_of_the_subsets_changes_nothing() -> None:
    student, teacher = random_scores(5)
    loss = subset_ranking_loss(sample_logps=student, teacher_sample_logps=teacher)
    for order in permutations(range(4)):
        turned = subset_ranking_loss(
            sample_logps=student[:, order], teacher_sample_logps=teacher[:, order]
        )
        assert torch.allclose(turned, loss, atol=1e-12, rtol=0)


def test_a_falling_map_of_either_side_is_seen() -> None:
    student, teacher = random_scores(50)
    loss = subset_ranking_loss(sample_logps=student, teacher_sample_logps=teacher)
    for wrong in ((-student, teacher), (student, -teacher)):
        found = subset_ranking_loss(sample_logps=wrong[0], teacher_sample_logps=wrong[1])
        assert (found - loss).abs().mean() > 1


# edges


def test_teacher_ties_are_left_out() -> None:
    loss, slope = ranked(-3, -1, -2, -4, teacher=row(-1, -1, -1, -1))
    assert loss.abs().max() == slope.abs().max() == 0
    pair, _ = ranked(-3, -1, -2, teacher=row(-1, -1, -2))
    assert is_close(
        pair, (1 / 2 + 1) + (-1 / 2 + 1)
    )  # gap over range plus margin, first and second


@pytest.mark.parametrize("spread", [0.0, 5e-5])
def test_scores_that_are_almost_equal_are_left_out(spread: float) -> None:
    student = (-1.0, -1.0 + spread, -1.0, -1.0)
    loss, slope = ranked(*student)
    assert loss.abs().max() == slope.abs().max() == 0
    if spread:
        assert ranked(*student, min_range=1e-6)[0] > 0


def test_one_subset_has_no_pair() -> None:
    loss, slope = ranked(-1.0, teacher=row(-2))
    assert loss.abs().max() == slope.abs().max() == 0


# 4) gradients and random scores


@pytest.mark.parametrize("detach_range", [True, False])
def test_gradients_sum_to_zero(detach_range: bool) -> None:
    student, teacher = random_scores(200)
    student.requires_grad_()
    loss = subset_ranking_loss(
        sample_logps=student, teacher_sample_logps=teacher, detach_range=detach_range
    )
    (slope,) = torch.autograd.grad(loss.sum(), student)
    assert slope.sum(-1).abs().max() < 1e-12
    assert slope.abs().max() > 0.1


def test_random_scores_cost_what_the_sheet_says() -> None:
    student, teacher = random_scores(100_000)
    found = subset_ranking_loss(sample_logps=student, teacher_sample_logps=teacher)
    assert found.mean() == pytest.approx(3.82, abs=0.02)  # 3.5 standard errors
    assert found.std() == pytest.approx(1.77, abs=0.02)


def test_gradients_pass_gradcheck() -> None:
    student, teacher = random_scores(6)
    given = (logits(0).requires_grad_(), student[:4].requires_grad_())

    def of(own: Tensor, scores: Tensor) -> Tensor:
        return bialign_loss(
            logits=own,
            teacher_logits=logits(1),
            mask=ragged(6, 2, 4, 1),
            sample_logps=scores,
            teacher_sample_logps=teacher[:4],
            detach_range=False,
        )

    assert torch.autograd.gradcheck(of, given)


# 5) optimising the scores themselves


def optimised(detach_range: bool) -> tuple[list[float], Tensor, Tensor]:
    """Mean losses on the way, the student's 200 sets of scores at the end, and the teacher's."""
    student, teacher = random_scores(200)
    own = student.clone().requires_grad_()
    optimizer = torch.optim.Adam([own], lr=0.02)
    losses = []
    for _ in range(300):
        loss = subset_ranking_loss(
            sample_logps=own, teacher_sample_logps=teacher, detach_range=detach_range
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, own.detach(), teacher


def tau(student: Tensor, teacher: Tensor) -> float:
    pairs = zip(student.tolist(), teacher.tolist(), strict=True)
    return float(np.mean([kendalltau(*pair).statistic for pair in pairs]))


def test_optimisation_finds_the_teachers_order() -> None:
    losses, found, teacher = optimised(detach_range=True)
    start, _ = random_scores(200)
    assert 3.4 < losses[0] < 4.2
    assert abs(tau(start, teacher)) < 0.15
    assert losses[-1] < 0.02
    assert tau(found, teacher) == pytest.approx(1, abs=1e-12)
    assert (found.argmax(1) == teacher.argmax(1)).all()


def test_with_a_live_range_some_orders_stay_wrong() -> None:
    losses, found, teacher = optimised(detach_range=False)
    assert losses[-1] > 0.1
    assert 0.8 < tau(found, teacher) < 0.97


# 6) the divergence


MASK = ragged(6, 2, 4, 1)


def test_the_divergence_is_torchs_over_unpadded_positions() -> None:
    own, teacher = (logits(seed)[MASK].log_softmax(-1) for seed in (0, 1))
    expected = kl_div(own, teacher, log_target=True, reduction="batchmean")
    found = token_kl(logits(0), logits(1), MASK).mean()
    assert torch.allclose(found, expected, atol=1e-12, rtol=0)


def test_a_student_that_is_the_teacher_pays_nothing_and_stays() -> None:
    own = logits(0).requires_grad_()
    loss = token_kl(own, logits(0), MASK)
    assert loss.abs().max() < 1e-14
    assert torch.autograd.grad(loss.sum(), own)[0].abs().max() < 1e-14


@pytest.mark.parametrize("fill", [7.0, torch.nan])
def test_padding_changes_nothing(fill: float) -> None:
    wide = [padded(value, left=2, right=3, fill=fill) for value in (logits(0), logits(1))]
    found = token_kl(*wide, padded(MASK, left=2, right=3, fill=0))
    assert torch.allclose(found, token_kl(logits(0), logits(1), MASK), atol=1e-12, rtol=0)


def test_the_reverse_divergence_is_another_number() -> None:
    there, back = token_kl(logits(0), logits(1), MASK), token_kl(logits(1), logits(0), MASK)
    assert (there - back).abs().max() > 0.05


# 9) the class, the teacher, and weight 0


def both_forms(weight: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The class on streamed sums, the dense function, and the leaves: own and the teacher's."""
    student, teacher = random_scores(4)
    own, theirs = logits(0).requires_grad_(), logits(1).requires_grad_()
    student.requires_grad_()
    teacher.requires_grad_()
    batch = {
        "sequence_teacher_kl": streamed_kl(own, theirs, MASK),
        "mean_sequence_length": mean_length(MASK),
        "sequence_lengths": MASK.sum(-1),
        "sample_logps": student,
        "teacher_sample_logps": teacher,
    }
    dense = bialign_loss(
        logits=own,
        teacher_logits=theirs,
        mask=MASK,
        sample_logps=student,
        teacher_sample_logps=teacher,
        weight=weight,
    )
    return BiAlign(weight=weight).loss(batch), dense, [own, student, theirs, teacher]


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3])
def test_the_class_on_streamed_sums_is_the_dense_function(weight: float) -> None:
    ours, dense, (own, student, _, _) = both_forms(weight)
    assert torch.allclose(ours, dense, atol=1e-12, rtol=0)
    for left, right in zip(
        torch.autograd.grad(ours.mean(), [own, student]),
        torch.autograd.grad(dense.mean(), [own, student]),
        strict=True,
    ):
        assert torch.allclose(left, right, atol=1e-12, rtol=0)


def test_the_teacher_gets_no_gradient() -> None:
    for loss, leaves in ((form, both_forms(1.0)) for form in (0, 1)):
        found = torch.autograd.grad(leaves[loss].sum(), leaves[2], allow_unused=True)
        assert found[2] is found[3] is None
        assert found[0].abs().max() > 0.01
        assert found[1].abs().max() > 0.01


def test_weight_zero_is_distillation_bit_for_bit() -> None:
    _, dense, _ = both_forms(0.0)
    assert torch.equal(dense, token_kl(logits(0), logits(1), MASK))
    _, ranked_too, _ = both_forms(1.0)
    assert not torch.allclose(ranked_too, dense, atol=0.1)


# 8) a planted effect: preferences that no output over all demonstrations shows


KINDS, STEPS = 6, 300


def learned(seed: int, *, weight: float, permuted: bool = False) -> tuple[float, float]:
    """Divergence over all demonstrations, and agreement with the teacher on subsets never seen.

    A sample holds one demonstration of each of six kinds, and the logit of the right answer is
    the sum of what its kinds are worth; the teacher's worths are planted. With all demonstrations
    in the context only their sum shows. Agreement is the share of held-out sets of four subsets
    whose best, or worst, is the teacher's: 1/4 by chance.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    theirs, own = torch.randn(2, KINDS, dtype=torch.float64, generator=generator)
    own.requires_grad_()
    every = demonstration_subsets(KINDS, 2**KINDS - 1, rng)
    members = torch.tensor([[kind in subset for kind in range(KINDS)] for subset in every]).double()
    seen, unseen = members[:32], members[32:]
    optimizer = torch.optim.Adam([own], lr=0.02)
    for _ in range(STEPS):
        drawn = seen[torch.rand(8, 32, generator=generator).argsort(1)[:, :4]]  # [B, N, KINDS]
        scores = logsigmoid(drawn @ theirs)
        if permuted:
            scores = scores.gather(1, torch.rand(8, 4, generator=generator).argsort(1))
        optimizer.zero_grad()
        bialign_loss(
            logits=answer(own.sum()).expand(8, 1, 2),
            teacher_logits=answer(theirs.sum()).expand(8, 1, 2),
            mask=torch.ones(8, 1),
            sample_logps=logsigmoid(drawn @ own),
            teacher_sample_logps=scores,
            weight=weight,
        ).mean().backward()
        optimizer.step()
    worths = own.detach()
    sets = unseen[torch.rand(500, len(unseen), generator=generator).argsort(1)[:, :4]]
    ours, true = sets @ worths, sets @ theirs
    agreement = [(ours.argmax(1) == true.argmax(1)), (ours.argmin(1) == true.argmin(1))]
    gap = position_kl(answer(worths.sum()), answer(theirs.sum()))
    return gap.item(), torch.stack(agreement).double().mean().item()


def answer(worth: Tensor) -> Tensor:
    """Logits of the right answer and of the wrong one."""
    return torch.stack([worth, torch.zeros_like(worth)])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_student_learns_which_demonstrations_help(seed: int) -> None:
    gap, agreement = learned(seed, weight=1.0)
    gap_without, without = learned(seed, weight=0.0)
    _, permuted = learned(seed, weight=1.0, permuted=True)
    assert gap_without < 1e-6  # the output is matched, and says nothing of the parts
    assert gap < 0.1
    assert agreement > 0.8
    assert agreement > without + 0.1
    assert agreement > permuted + 0.1
