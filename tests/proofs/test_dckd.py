"""DCKD: sheet 42's numbers, its optimum, and what following a teacher after bad beginnings buys."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from tests.proofs.distillation_batch import (
    V,
    label_logps,
    logits,
    mean_length,
    padded,
    ragged,
    streamed_kl,
    summed,
)
from tests.proofs.dpo_family import is_close, row
from trueup.objectives.dckd import DCKD, dckd_loss
from trueup.worlds.enumerable import minimised


def table(*rows: list[float]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float64)


ONES = torch.ones(1, 2, dtype=torch.bool)
SHEET: dict[str, Any] = {
    "chosen_logits": table([1, 0, -1], [0.2, 0.1, 0]),
    "chosen_labels": torch.tensor([[1, 0]]),
    "chosen_mask": ONES,
    "rejected_logits": table([0.3, -0.3, 0], [0, 2, 1]),
    "rejected_mask": ONES,
    "teacher_chosen_logits": table([0, 1, 0], [1, 0.5, -0.5]),
    "teacher_rejected_logits": table([0, 0, 0], [1, 1, -1]),
}
NLL, CHOSEN_KD, REJECTED_KD = 1.2047744063, 0.2694768230, 0.2760011467


# 7) the sheet's numbers


def test_the_loss_is_the_sheets() -> None:
    assert is_close(dckd_loss(**SHEET), 1.7502523760)


@pytest.mark.parametrize(
    ("weights", "part"),
    [
        ({"distil_weight": 0.0}, NLL),
        ({"sft_weight": 0.0, "rejected_weight": 0.0}, CHOSEN_KD),
        ({"sft_weight": 0.0, "chosen_weight": 0.0}, REJECTED_KD),
    ],
)
def test_each_part_is_the_sheets(weights: dict[str, float], part: float) -> None:
    assert is_close(dckd_loss(**SHEET, **weights), part)


def test_weights_multiply_their_parts() -> None:
    found = dckd_loss(
        **SHEET, sft_weight=0.5, distil_weight=2.0, chosen_weight=0.3, rejected_weight=0.7
    )
    assert is_close(found, 0.5 * NLL + 2 * (0.3 * CHOSEN_KD + 0.7 * REJECTED_KD))


def test_the_reverse_divergence_is_another_number() -> None:
    turned = SHEET | {
        f"{whose}{role}_logits": SHEET[f"{other}{role}_logits"]
        for role in ("chosen", "rejected")
        for whose, other in (("", "teacher_"), ("teacher_", ""))
    }
    chosen = dckd_loss(**turned, sft_weight=0.0, rejected_weight=0.0)
    rejected = dckd_loss(**turned, sft_weight=0.0, chosen_weight=0.0)
    assert is_close(chosen, 0.3000954513)
    assert is_close(rejected, 0.2225121780)


# 8) masks and padding


CHOSEN, REJECTED = ragged(6, 2, 4, 1), ragged(3, 5, 1, 6)
LABELS = torch.randint(V, CHOSEN.shape, generator=torch.Generator().manual_seed(9))
RAGGED: dict[str, Any] = {
    "chosen_logits": logits(0),
    "chosen_labels": torch.where(CHOSEN, LABELS, -100),
    "chosen_mask": CHOSEN,
    "rejected_logits": logits(1),
    "rejected_mask": REJECTED,
    "teacher_chosen_logits": logits(2),
    "teacher_rejected_logits": logits(3),
}


def test_the_divergence_is_torchs_over_masked_rows() -> None:
    found = dckd_loss(**RAGGED, sft_weight=0.0, rejected_weight=0.0).mean()
    own, teacher = (logits(seed)[CHOSEN].log_softmax(-1) for seed in (0, 2))
    expected = kl_div(own, teacher, log_target=True, reduction="batchmean")
    assert torch.allclose(found, expected, atol=1e-12, rtol=0)


def test_the_mean_runs_over_tokens_not_over_answers() -> None:
    found = dckd_loss(**RAGGED, sft_weight=0.0, rejected_weight=0.0).mean()
    by_row = streamed_kl(logits(0), logits(2), CHOSEN) / CHOSEN.sum(-1)
    assert abs(found - by_row.mean()) > 0.01


@pytest.mark.parametrize(("left", "right"), [(0, 3), (3, 0), (2, 5)])
def test_padding_changes_nothing(left: int, right: int) -> None:
    fills = {"mask": 0, "labels": -100, "logits": 7}
    wider = {
        name: padded(value, left=left, right=right, fill=fills[name.rsplit("_", 1)[-1]])
        for name, value in RAGGED.items()
    }
    assert torch.allclose(dckd_loss(**wider), dckd_loss(**RAGGED), atol=1e-12, rtol=0)


def test_moving_the_mask_by_one_position_is_seen() -> None:
    shifted = RAGGED | {"rejected_mask": REJECTED.roll(1, dims=1)}
    assert not torch.allclose(dckd_loss(**shifted), dckd_loss(**RAGGED), atol=1e-3)


# the class and the engine's sums


def sums(given: dict[str, Any]) -> dict[str, Tensor]:
    """The canonical batch that the engine makes of the same logits."""
    chosen, rejected = given["chosen_mask"], given["rejected_mask"]
    labels = torch.where(chosen, given["chosen_labels"], 0)
    return {
        "chosen_logps": summed(label_logps(given["chosen_logits"], labels)[chosen], chosen),
        "chosen_lengths": chosen.sum(-1),
        "chosen_teacher_kl": streamed_kl(
            given["chosen_logits"], given["teacher_chosen_logits"], chosen
        ),
        "rejected_teacher_kl": streamed_kl(
            given["rejected_logits"], given["teacher_rejected_logits"], rejected
        ),
        "mean_chosen_length": mean_length(chosen),
        "mean_rejected_length": mean_length(rejected),
    }


WEIGHTS = {
    "sft_weight": 0.5,
    "distil_weight": 2.0,
    "chosen_weight": 0.3,
    "rejected_weight": 0.7,
}


@pytest.mark.parametrize("weights", [{}, WEIGHTS])
def test_the_class_on_streamed_sums_is_the_dense_function(weights: dict[str, float]) -> None:
    found, expected = DCKD(**weights).loss(sums(RAGGED)), dckd_loss(**RAGGED, **weights)
    assert torch.allclose(found, expected, atol=1e-12, rtol=0)


def test_their_gradients_agree_and_the_teacher_has_none() -> None:
    names = [name for name in RAGGED if name.endswith("logits")]
    given = RAGGED | {name: RAGGED[name].clone().requires_grad_() for name in names}
    own = [given["chosen_logits"], given["rejected_logits"]]
    ours = torch.autograd.grad(DCKD(**WEIGHTS).loss(sums(given)).mean(), own)
    dense = dckd_loss(**given, **WEIGHTS).mean()
    for found, expected in zip(
        ours, torch.autograd.grad(dense, own, retain_graph=True), strict=True
    ):
        assert torch.allclose(found, expected, atol=1e-12, rtol=0)
    teachers = [given["teacher_chosen_logits"], given["teacher_rejected_logits"]]
    assert torch.autograd.grad(dense, teachers, allow_unused=True) == (None, None)


def test_a_sum_over_the_own_length_would_be_seen() -> None:
    batch = sums(RAGGED)
    wrong = batch | {"mean_rejected_length": REJECTED.sum(-1).double()}
    assert not torch.allclose(DCKD().loss(wrong), dckd_loss(**RAGGED), atol=1e-3)


# 9) gradients


def test_gradients_pass_gradcheck() -> None:
    inputs = tuple(
        RAGGED[f"{role}_logits"].clone().requires_grad_() for role in ("chosen", "rejected")
    )

    def of(chosen: Tensor, rejected: Tensor) -> Tensor:
        return dckd_loss(**RAGGED | {"chosen_logits": chosen, "rejected_logits": rejected})

    assert torch.autograd.gradcheck(of, inputs)


def test_the_likelihood_leaves_the_rejected_answer_alone() -> None:
    rejected = RAGGED["rejected_logits"].clone().requires_grad_()
    given = RAGGED | {"rejected_logits": rejected}
    (plain,) = torch.autograd.grad(dckd_loss(**given, distil_weight=0.0).sum(), rejected)
    (distilled,) = torch.autograd.grad(dckd_loss(**given).sum(), rejected)
    assert plain.abs().max() == 0
    assert distilled.abs().max() > 0.01


def test_gradients_off_the_mask_are_zero() -> None:
    rejected = RAGGED["rejected_logits"].clone().requires_grad_()
    loss = dckd_loss(**RAGGED | {"rejected_logits": rejected}).sum()
    (slope,) = torch.autograd.grad(loss, rejected)
    assert slope[~REJECTED].abs().max() == 0
    assert (slope[REJECTED].abs().amax(-1) > 0).all()


def test_a_student_that_is_the_teacher_stays() -> None:
    teacher = RAGGED["teacher_chosen_logits"]
    own = teacher.clone().requires_grad_()
    loss = dckd_loss(**RAGGED | {"chosen_logits": own}, sft_weight=0.0, rejected_weight=0.0).mean()
    assert abs(loss) < 1e-12
    assert torch.autograd.grad(loss, own)[0].abs().max() < 1e-12


# the optimum of one state


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (0.5, 2.0, 0.3, 0.7)])
def test_training_reaches_the_mixture_of_label_and_teachers(weights: tuple[float, ...]) -> None:
    # at one state every part is linear in log pi: the optimum is the weighed mean of the targets
    sft, distil, chosen, rejected = weights
    good, bad = row(1, 0, -1).softmax(-1), row(-1, 0.5, 2).softmax(-1)
    target = (sft * row(0, 1, 0) + distil * (chosen * good + rejected * bad)) / (
        sft + distil * (chosen + rejected)
    )

    def loss(own: Tensor) -> Tensor:
        one = torch.ones(1, 1, dtype=torch.bool)
        return dckd_loss(
            chosen_logits=own[None, None],
            chosen_labels=torch.tensor([[1]]),
            chosen_mask=one,
            rejected_logits=own[None, None],
            rejected_mask=one,
            teacher_chosen_logits=good.log()[None, None],
            teacher_rejected_logits=bad.log()[None, None],
            sft_weight=sft,
            distil_weight=distil,
            chosen_weight=chosen,
            rejected_weight=rejected,
        ).mean()

    found = minimised(loss, row(0, 0, 0)).softmax(-1)
    assert torch.allclose(found, target, atol=1e-6, rtol=0)
    assert not torch.allclose(found, good, atol=0.05)  # nor is it one of the targets


# a planted effect: a teacher that avoids a bad token, and one label per state

STATES, WORDS = 40, 12


def recovery(seed: int, *, teacher: str = "true", **weights: float) -> tuple[float, float]:
    """Divergence from the true teacher, at states of good answers and after bad beginnings.

    A student has one row of logits for each of 40 states; chosen answers visit the first half and
    rejected ones the second. The teacher shifts one good and one bad token by 2 nats.
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(STATES, WORDS, dtype=torch.float64, generator=generator)
    good = torch.stack([torch.randperm(WORDS, generator=generator)[:2] for _ in range(STATES)])
    truth = start.scatter_add(1, good, row(2, -2).expand(STATES, 2))
    labels = torch.multinomial(truth.softmax(-1), 1, generator=generator)[: STATES // 2].T
    given = truth if teacher == "true" else truth[torch.randperm(STATES, generator=generator)]
    noise = torch.randn(start.shape, dtype=torch.float64, generator=generator)
    own = (start + 0.7 * noise).requires_grad_()
    optimizer = torch.optim.Adam([own], lr=0.05)
    half = STATES // 2
    all_of_them = torch.ones(1, half, dtype=torch.bool)
    for _ in range(100):
        optimizer.zero_grad()
        dckd_loss(
            chosen_logits=own[None, :half],
            chosen_labels=labels,
            chosen_mask=all_of_them,
            rejected_logits=own[None, half:],
            rejected_mask=all_of_them,
            teacher_chosen_logits=given[None, :half],
            teacher_rejected_logits=given[None, half:],
            **weights,
        ).mean().backward()
        optimizer.step()
    own_logps, teacher_logps = own.detach().log_softmax(-1), truth.log_softmax(-1)
    gap = (teacher_logps.exp() * (teacher_logps - own_logps)).sum(-1)
    return gap[:half].mean().item(), gap[half:].mean().item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_rejected_answer_teaches_to_recover_from_bad_beginnings(seed: int) -> None:
    _, both = recovery(seed)
    _, chosen_only = recovery(seed, rejected_weight=0.0)
    _, shuffled = recovery(seed, teacher="shuffled")
    assert both < 0.02
    assert chosen_only > 0.4  # nothing was learned there
    assert shuffled > 0.4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distributions_teach_more_than_one_label(seed: int) -> None:
    distilled, _ = recovery(seed)
    labels_only, _ = recovery(seed, distil_weight=0.0)
    shuffled, _ = recovery(seed, teacher="shuffled")
    assert distilled < 0.5 * labels_only
    assert shuffled > distilled + 0.4
