"""log(1 - exp(x)) without cancellation: the odds of a completion's mean probability need it."""

import math

import torch
from torch import Tensor

LARGEST = -1e-6  # a mean log-probability of 0 has infinite odds; sheets 00 (trap 5) and 28


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0, with x clamped to at most -1e-6.

    Edges:  finite, with a finite gradient, from -1e-6 down to where exp(x) is 0.
    Source: Maechler 2012, "Accurately computing log(1 - exp(-|a|))".
    """
    clamped = x.clamp(max=LARGEST)
    near_zero = torch.log(-torch.expm1(clamped))
    far_below = torch.log1p(-torch.exp(clamped))
    return torch.where(clamped > -math.log(2), near_zero, far_below)
