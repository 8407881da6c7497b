"""The one-buffer log-probability is the plain one, with its gradients."""

import torch

from trueup.models.selected_logps import selected_logps

ROWS = torch.tensor([0, 0, 1, 2, 2, 2])
TARGETS = torch.tensor([1, 3, 0, 4, 4, 2])


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(5, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    return hidden, weight


def test_equals_log_softmax():
    hidden, weight = inputs()
    expected = torch.log_softmax(hidden @ weight.T, dim=-1)[ROWS, TARGETS]
    torch.testing.assert_close(
        selected_logps(hidden, weight, ROWS, TARGETS), expected, atol=1e-12, rtol=0
    )


def test_gradcheck():
    hidden, weight = inputs()
    assert torch.autograd.gradcheck(lambda h, w: selected_logps(h, w, ROWS, TARGETS), inputs())
    assert hidden.grad is None
    assert weight.grad is None


def test_bfloat16_is_summed_in_float32():
    hidden, weight = (tensor.detach().bfloat16() for tensor in inputs())
    result = selected_logps(hidden, weight, ROWS, TARGETS)
    assert result.dtype == torch.float32
    logits = torch.nn.functional.linear(hidden, weight).float()
    expected = torch.log_softmax(logits, dim=-1)[ROWS, TARGETS]
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_autocast_gives_gradients_in_the_weights_type():
    hidden, weight = (tensor.detach().float().requires_grad_() for tensor in inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        selected_logps(hidden, weight, ROWS, TARGETS).sum().backward()
    exact = torch.log_softmax(hidden @ weight.T, dim=-1)[ROWS, TARGETS].sum()
    expected = torch.autograd.grad(exact, weight)[0]
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(weight.grad, expected, atol=0.05, rtol=0.05)


def test_a_second_backward_pass_gives_the_same_gradients():
    hidden, weight = inputs()
    result = selected_logps(hidden, weight, ROWS, TARGETS).sum()
    first = torch.autograd.grad(result, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(result, (hidden, weight))
    for left, right in zip(first, second, strict=True):
        torch.testing.assert_close(left, right, atol=1e-12, rtol=0)
