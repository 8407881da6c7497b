"""Log-probabilities of chosen tokens with one logits buffer, forward and backward.

The plain way, `log_softmax(logits)[target]`, keeps two or three buffers of rows times vocabulary;
at 50,000 words those are most of a small model's memory. Here the logits are kept once and turned
into their own gradient in place.
"""

from typing import Any

import torch
from torch import Tensor


def selected_logps(hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities of targets: log softmax(hidden @ weight.T)[rows, targets], in float32.

    Shapes: hidden [S, D], weight [V, D], rows and targets [N] -> [N]; a row may be named twice.
    Units:  nats.
    """
    result: Tensor = _SelectedLogps.apply(hidden, weight, rows, targets)  # type: ignore[no-untyped-call]
    return result


class _SelectedLogps(torch.autograd.Function):
    """Saves one [S, V] buffer, which the backward pass turns into the gradient in place."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        product = torch.nn.functional.linear(hidden, weight)
        logits = product if product.dtype == torch.float64 else product.float()
        normalizers = torch.logsumexp(logits, dim=-1)
        picked = logits[rows, targets] - normalizers[rows]
        ctx.save_for_backward(hidden, weight, rows, targets, normalizers)
        ctx.logits = logits
        ctx.product_dtype = product.dtype
        return picked

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, rows, targets, normalizers = ctx.saved_tensors
        slope, ctx.logits = ctx.logits, None
        if slope is None:  # a second backward pass over a retained graph
            slope = torch.nn.functional.linear(hidden, weight).to(normalizers.dtype)
        per_row = torch.zeros_like(normalizers).index_add_(0, rows, gradient)
        slope.sub_(normalizers[:, None]).exp_().mul_(-per_row[:, None])
        slope.index_put_((rows, targets), gradient, accumulate=True)
        slope = slope.to(ctx.product_dtype)
        to_hidden = to_weight = None
        if ctx.needs_input_grad[0]:
            to_hidden = (slope @ weight.to(slope.dtype)).to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = (slope.T @ hidden.to(slope.dtype)).to(weight.dtype)
        return to_hidden, to_weight, None, None
