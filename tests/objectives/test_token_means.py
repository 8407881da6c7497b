"""Token means told per example: whatever the padding, the plain mean is the mean over tokens."""

import torch

from trueup.objectives.token_means import per_mean_length, position_kl, token_kl, token_mean

VALUES = torch.tensor([[1.0, 2.0, 3.0], [10.0, torch.nan, torch.inf]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


def test_the_plain_mean_is_the_mean_over_tokens() -> None:
    assert token_mean(VALUES, MASK).tolist() == [2 * 6 / 4, 2 * 10 / 4]
    assert token_mean(VALUES, MASK).mean() == 16 / 4
    assert token_mean(VALUES, MASK).mean() != (2 + 10) / 2  # the mean of means is another number


def test_sums_over_the_mean_length_say_the_same() -> None:
    sums = torch.tensor([6.0, 10.0], dtype=torch.float64)
    assert torch.equal(per_mean_length(sums, MASK.sum(1).double().mean()), token_mean(VALUES, MASK))


def test_a_batch_without_tokens_costs_nothing() -> None:
    assert token_mean(VALUES, torch.zeros_like(MASK)).tolist() == [0, 0]
    assert per_mean_length(torch.zeros(2), torch.zeros(())).tolist() == [0, 0]


def test_what_the_teacher_rules_out_adds_nothing() -> None:
    logits = torch.tensor([0.5, -1.0, 3.0]).requires_grad_()
    kl = position_kl(logits, torch.tensor([0.0, 0.0, -torch.inf]))
    expected = torch.tensor(0.5).log() - logits.log_softmax(-1)[:2].mean()
    torch.testing.assert_close(kl, expected)
    assert torch.isfinite(torch.autograd.grad(kl, logits)[0]).all()


def test_broken_logits_off_the_mask_leave_value_and_gradient_alone() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    broken = torch.where(MASK.bool()[..., None], logits, -torch.inf).requires_grad_()
    found = token_kl(broken, logits.flip(-1), MASK)
    assert torch.equal(found, token_kl(logits, logits.flip(-1), MASK))
    assert torch.isfinite(torch.autograd.grad(found.sum(), broken)[0]).all()


def test_half_precision_is_worked_on_in_float32() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = position_kl(logits, logits.flip(-1))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, position_kl(logits.float(), logits.float().flip(-1)))
