"""ADPA: sheet 42's numbers, its optimum, and a planted advantage that a student finds."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.proofs.distillation_batch import (
    V,
    label_logps,
    logits,
    mean_length,
    padded,
    ragged,
    streamed_advantage,
    summed,
)
from tests.proofs.dpo_family import is_close, row
from trueup.models.token_divergence import (
    at_ids,
    sparse_teacher_advantage,
    to_sparse,
    to_sparse_pair,
)
from trueup.objectives.adpa import ADPA, adpa_loss, token_advantage
from trueup.objectives.protocol import Collecting
from trueup.objectives.token_means import position_kl
from trueup.worlds.enumerable import minimised

TEACHER = torch.stack([row(2, 0, -1, 0.5), row(0, 1, 0.3, -2)])
REFERENCE = torch.stack([row(1, 0.5, 0, 0.5), row(0.2, 0.1, 0, -0.5)])
STUDENT = torch.stack([row(0.5, 0.5, 0, 0), row(1, -1, 0, 0.5)])
ADVANTAGE = torch.stack(
    [
        row(0.605804386, -0.894195614, -1.394195614, -0.394195614),
        row(-0.479897827, 0.620102173, 0.020102173, -1.779897827),
    ]
)
TERM = 0.5616188598


def term(student: Tensor, advantage: Tensor) -> Tensor:
    """The advantage term alone, one position per example, [B]."""
    ones = torch.ones(len(student), 1, dtype=torch.bool)
    return adpa_loss(
        chosen_token_logps=torch.zeros(len(student), 1, dtype=torch.float64),
        chosen_mask=ones,
        sample_logits=student[:, None],
        sample_mask=ones,
        advantage=advantage[:, None],
    )


# 1) the sheet's numbers


def test_the_advantage_is_the_sheets() -> None:
    assert torch.allclose(token_advantage(TEACHER, REFERENCE), ADVANTAGE, atol=1e-9, rtol=0)


def test_the_term_is_the_sheets() -> None:
    found = term(STUDENT, token_advantage(TEACHER, REFERENCE))
    assert is_close(found, 0.4273511156, 0.6958866039)
    assert is_close(found.mean(), TERM)


def test_its_gradient_is_the_sheets() -> None:
    student = STUDENT.clone().requires_grad_()
    loss = term(student, token_advantage(TEACHER, REFERENCE)).mean()
    (slope,) = torch.autograd.grad(loss, student)
    assert is_close(slope[0], -0.1607743206, 0.0726479286, 0.0912557796, -0.0031293876)
    assert is_close(slope[1], -0.0511883516, -0.0422088171, -0.0624240141, 0.1558211828)
    assert slope.sum(-1).abs().max() < 1e-15


# 2) wrong variants


def test_clamped_log_ratios_are_another_number() -> None:
    clamped = token_advantage(TEACHER, REFERENCE).clamp(1e-8, 1 - 1e-8)
    assert is_close(term(STUDENT, clamped).mean(), -0.1159138380)


def cached_term(k: int, *, tail: bool = True) -> float:
    """The term from the aligned teacher's k likeliest tokens, with or without the rest."""
    head = torch.eye(4, dtype=torch.float64)
    teacher = to_sparse(TEACHER.log_softmax(-1), k)
    reference = at_ids(REFERENCE.log_softmax(-1), teacher.ids)
    if not tail:
        own = STUDENT.softmax(-1).gather(-1, teacher.ids)
        return -(own * (teacher.logps - reference.logps)).sum(-1).mean().item()
    return -sparse_teacher_advantage(STUDENT, head, teacher, reference).mean().item()


def test_likeliest_tokens_without_the_rest_turn_the_sign() -> None:
    assert cached_term(2, tail=False) == pytest.approx(-0.0787076118, abs=1e-9)


def test_likeliest_tokens_with_the_rest_come_near() -> None:
    assert cached_term(2) == pytest.approx(0.4729442125, abs=1e-9)


def test_the_whole_vocabulary_is_exact() -> None:
    assert cached_term(4) == pytest.approx(TERM, abs=1e-9)


def test_the_likeliest_tokens_of_both_teachers_are_shared() -> None:
    pair = to_sparse_pair(TEACHER.log_softmax(-1), REFERENCE.log_softmax(-1), 2)
    head = torch.eye(4, dtype=torch.float64)
    found = -sparse_teacher_advantage(STUDENT, head, *pair).mean()
    assert is_close(found, TERM)  # two of each are all four here


# 3, 4) identities


def test_the_term_is_a_difference_of_divergences() -> None:
    expected = position_kl(TEACHER, STUDENT) - position_kl(REFERENCE, STUDENT)
    found = term(STUDENT, token_advantage(TEACHER, REFERENCE))
    assert torch.allclose(found, expected, atol=1e-12, rtol=0)


def test_forward_divergences_would_not_do() -> None:
    wrong = position_kl(STUDENT, TEACHER) - position_kl(STUDENT, REFERENCE)
    found = term(STUDENT, token_advantage(TEACHER, REFERENCE))
    assert not torch.allclose(found, wrong, atol=0.05)


def test_students_that_are_a_teacher_have_the_sheets_values() -> None:
    advantage = token_advantage(TEACHER, REFERENCE)
    assert is_close(term(TEACHER, advantage), -0.2324997284, -0.1906354092)
    assert is_close(term(REFERENCE, advantage), 0.2667788077, 0.2441557582)


def test_a_teacher_that_learned_nothing_teaches_nothing() -> None:
    student = STUDENT.clone().requires_grad_()
    loss = term(student, token_advantage(TEACHER, TEACHER))
    (slope,) = torch.autograd.grad(loss.sum(), student)
    assert loss.abs().max() == slope.abs().max() == 0


# 5) the optimum of one state


@pytest.mark.parametrize(("gamma", "share"), [(0.25, 1), (0.5, 1), (1, 0.5), (2, 0.25)])
def test_training_reaches_the_closed_form(gamma: float, share: float) -> None:
    advantage = row(-0.4, 1.6, 0.3, -1)  # the label is token 0, the best other token 1

    def loss(own: Tensor) -> Tensor:
        one = torch.ones(1, 1, dtype=torch.bool)
        return adpa_loss(
            chosen_token_logps=own.log_softmax(-1)[:1, None],
            chosen_mask=one,
            sample_logits=own[None, None],
            sample_mask=one,
            advantage=advantage[None, None],
            gamma=gamma,
        ).mean()

    assert share == min(1, 1 / (gamma * 2.0))
    found = minimised(loss, row(0, 0, 0, 0), steps=500).softmax(-1)
    assert is_close(found, share, 1 - share, 0, 0, tolerance=1e-4 if gamma == 0.5 else 1e-6)


def test_without_the_likelihood_the_policy_collapses_on_the_best_token() -> None:
    advantage = row(-0.4, 1.6, 0.3, -1)
    found = minimised(lambda own: term(own[None], advantage[None]).mean(), row(0, 0, 0, 0))
    assert found.softmax(-1)[1] > 0.99999


# 8) masks, padding, and the class on the engine's sums


CHOSEN, SAMPLE = ragged(6, 2, 4, 1), ragged(3, 5, 1, 6)
LABELS = torch.randint(V, CHOSEN.shape, generator=torch.Generator().manual_seed(9))
RAGGED: dict[str, Any] = {
    "chosen_token_logps": label_logps(logits(0), LABELS),
    "chosen_mask": CHOSEN,
    "sample_logits": logits(1),
    "sample_mask": SAMPLE,
    "advantage": token_advantage(logits(2), logits(3)),
}


def sums(sample_logits: Tensor) -> dict[str, Tensor]:
    """The canonical batch that the engine makes of the same logits."""
    return {
        "chosen_logps": summed(RAGGED["chosen_token_logps"][CHOSEN], CHOSEN),
        "chosen_lengths": CHOSEN.sum(-1),
        "sample_advantage": streamed_advantage(sample_logits, logits(2), logits(3), SAMPLE),
        "mean_chosen_length": mean_length(CHOSEN),
        "mean_sample_length": mean_length(SAMPLE),
    }


@pytest.mark.parametrize(("left", "right"), [(0, 3), (3, 0), (2, 5)])
@pytest.mark.parametrize("fill", [7.0, torch.nan])
def test_padding_changes_nothing(left: int, right: int, fill: float) -> None:
    wider = {
        name: padded(value, left=left, right=right, fill=0 if "mask" in name else fill)
        for name, value in RAGGED.items()
    }
    assert torch.allclose(adpa_loss(**wider), adpa_loss(**RAGGED), atol=1e-12, rtol=0)


@pytest.mark.parametrize("weights", [{}, {"gamma": 0.7, "sft_weight": 0.3}])
def test_the_class_on_streamed_sums_is_the_dense_function(weights: dict[str, float]) -> None:
    own = RAGGED["sample_logits"].clone().requires_grad_()
    found = ADPA(**weights).loss(sums(own))
    expected = adpa_loss(**RAGGED | {"sample_logits": own}, **weights)
    assert torch.allclose(found, expected, atol=1e-12, rtol=0)
    slopes = [torch.autograd.grad(loss.mean(), own)[0] for loss in (found, expected)]
    assert torch.allclose(*slopes, atol=1e-12, rtol=0)


def test_a_sum_over_the_own_length_would_be_seen() -> None:
    batch = sums(RAGGED["sample_logits"])
    wrong = batch | {"mean_sample_length": SAMPLE.sum(-1).double()}
    assert not torch.allclose(ADPA().loss(wrong), adpa_loss(**RAGGED), atol=1e-3)


def test_gamma_zero_is_fine_tuning() -> None:
    expected = -RAGGED["chosen_token_logps"][CHOSEN].mean()
    assert torch.allclose(adpa_loss(**RAGGED, gamma=0.0).mean(), expected, atol=1e-12)
    assert torch.allclose(ADPA(gamma=0.0).loss(sums(logits(1))).mean(), expected, atol=1e-12)


def test_one_answer_is_sampled_for_each_row_of_completions() -> None:
    objective = ADPA()
    assert isinstance(objective, Collecting)
    assert (objective.source, objective.samples, objective.collected({})) == ("completions", 1, {})


# 9) gradients


def test_gradients_pass_gradcheck() -> None:
    inputs = tuple(
        RAGGED[name].clone().requires_grad_() for name in ("chosen_token_logps", "sample_logits")
    )

    def of(chosen: Tensor, sample: Tensor) -> Tensor:
        return adpa_loss(
            **RAGGED | {"chosen_token_logps": chosen, "sample_logits": sample}, gamma=0.7
        )

    assert torch.autograd.gradcheck(of, inputs)


def test_the_teachers_get_no_gradient() -> None:
    teachers = [logits(seed).requires_grad_() for seed in (2, 3)]
    advantage = token_advantage(*teachers)
    assert not advantage.requires_grad
    given = advantage.clone().requires_grad_()
    student = logits(1).requires_grad_()
    loss = adpa_loss(**RAGGED | {"advantage": given, "sample_logits": student}).sum()
    slopes = torch.autograd.grad(loss, [given, student], allow_unused=True)
    assert slopes[0] is None
    assert slopes[1].abs().max() > 0.01


# 6) a planted effect


STATES, WORDS = 40, 12


def planted(seed: int, *, gamma: float = 1.0, variant: str = "true") -> tuple[float, float]:
    """Mean true advantage and probability of the good token after 100 steps on 40 states.

    The aligned teacher raises one token by 2 nats and lowers one; the likelihood term has one label
    per state, drawn from the unaligned teacher.
    """
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(STATES, WORDS, dtype=torch.float64, generator=generator)
    moved = torch.stack([torch.randperm(WORDS, generator=generator)[:2] for _ in range(STATES)])
    teacher = reference.scatter_add(1, moved, row(2, -2).expand(STATES, 2))
    noise = torch.randn(reference.shape, dtype=torch.float64, generator=generator)
    labels = torch.multinomial(reference.softmax(-1), 1, generator=generator)
    truth = token_advantage(teacher, reference)
    used = {
        "true": truth,
        "swapped": token_advantage(reference, teacher),
        "permuted": truth[torch.randperm(STATES, generator=generator)],
        "clamped": truth.clamp(1e-8, 1 - 1e-8),
    }[variant]
    own = (reference + 0.7 * noise).requires_grad_()
    optimizer = torch.optim.Adam([own], lr=0.05)
    objective = ADPA(gamma=gamma)
    for _ in range(100):
        batch = {
            "chosen_logps": own.log_softmax(-1).gather(1, labels)[:, 0],
            "sample_advantage": (own.softmax(-1) * used).sum(-1),
            "mean_chosen_length": row(1)[0],
            "mean_sample_length": row(1)[0],
        }
        optimizer.zero_grad()
        objective.loss(batch).mean().backward()
        optimizer.step()
    policy = own.detach().softmax(-1)
    return (policy * truth).sum(-1).mean().item(), policy.gather(1, moved[:, :1]).mean().item()


SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])


@SEEDS
def test_the_student_finds_the_teachers_advantage(seed: int) -> None:
    advantage, good = planted(seed)
    assert advantage > 0.6
    assert good > 0.45


@SEEDS
def test_labels_alone_do_not_find_it(seed: int) -> None:
    advantage, good = planted(seed, gamma=0.0)
    assert -0.6 < advantage < 0
    assert good < 0.2


@SEEDS
@pytest.mark.parametrize(
    ("variant", "bound"), [("swapped", -1.2), ("permuted", 0.0), ("clamped", 0.0)]
)
def test_a_wrong_advantage_does_not_find_it(seed: int, variant: str, bound: float) -> None:
    advantage, _ = planted(seed, variant=variant)
    assert advantage < bound


@SEEDS
def test_the_authors_clamp_removes_the_effect(seed: int) -> None:
    without, whole = planted(seed, gamma=0.0)[0], planted(seed)[0]
    clamped = planted(seed, variant="clamped")[0]
    assert abs(clamped - without) < 0.05 * (whole - without)
