"""Log-probabilities from logits: sheet 00 (8a, 8f), padding, masks, precision."""

import math

import pytest
import torch
from torch import Tensor

from trueup.objectives.log1mexp import log1mexp
from trueup.objectives.logps import sequence_logps

LOGITS = (torch.arange(40, dtype=torch.float64).reshape(2, 5, 4) % 7) * 0.5 - 1
IDS = torch.tensor([[1, 2, 3, 0, 2], [3, 1, 1, 2, 0]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]], dtype=torch.bool)
ROWS = torch.tensor(
    [
        [-1.287338672, -3.705173162, -2.287338672, -3.552966718],
        [-3.236815542, -1.787338672, -1.287338672, -1.705173162],
    ],
    dtype=torch.float64,
)


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    return torch.allclose(found, expected.to(found.dtype), rtol=0, atol=tolerance)


def test_every_token_is_the_sheets() -> None:
    everything = torch.ones_like(MASK)
    found = sequence_logps(logits=LOGITS, ids=IDS, completion_mask=everything)
    assert near(found.token_logps, ROWS)


def test_sums_lengths_and_means_are_the_sheets() -> None:
    found = sequence_logps(logits=LOGITS, ids=IDS, completion_mask=MASK)
    assert near(found.logps, torch.tensor([-9.545478552, -5.024154214], dtype=torch.float64))
    assert near(found.mean_logps, torch.tensor([-3.181826184, -2.512077107], dtype=torch.float64))
    assert found.lengths.tolist() == [3, 2]
    assert near(found.token_logps, ROWS * MASK[:, 1:])


def test_the_unshifted_mistake_is_not_what_comes_back() -> None:
    wrong = LOGITS.log_softmax(-1).gather(-1, IDS[..., None])[..., 0]
    sums = (wrong * MASK).sum(-1)
    control = torch.tensor([-3.127644062, -3.574677343], dtype=torch.float64)
    assert near(sums, control)
    found = sequence_logps(logits=LOGITS, ids=IDS, completion_mask=MASK)
    assert not near(found.logps, control, tolerance=0.01)


@pytest.mark.parametrize("filler", [0, 3, -100])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str, filler: int) -> None:
    def padded(value: Tensor, fill: float) -> Tensor:
        extra = torch.full((2, 3, *value.shape[2:]), fill, dtype=value.dtype)
        return torch.cat([extra, value] if side == "left" else [value, extra], dim=1)

    plain = sequence_logps(logits=LOGITS, ids=IDS, completion_mask=MASK)
    wide = sequence_logps(
        logits=padded(LOGITS, 7.0), ids=padded(IDS, filler), completion_mask=padded(MASK, 0)
    )
    assert near(wide.logps, plain.logps, 1e-12)
    assert near(wide.lengths, plain.lengths)


def test_prompt_tokens_do_not_matter() -> None:
    ids = IDS.clone()
    ids[0, :2] = torch.tensor([0, 0])
    plain = sequence_logps(logits=LOGITS, ids=IDS, completion_mask=MASK)
    other = sequence_logps(logits=LOGITS, ids=ids, completion_mask=MASK)
    assert torch.equal(plain.logps, other.logps)


def test_forbidden_tokens_off_the_mask_do_no_harm() -> None:
    logits = LOGITS.clone().requires_grad_(True)
    with torch.no_grad():
        logits[0, 0, 2] = -math.inf  # the prompt's own token, impossible under the model
    found = sequence_logps(logits=logits, ids=IDS, completion_mask=MASK)
    (slope,) = torch.autograd.grad(found.logps.sum(), logits)
    assert torch.isfinite(found.logps).all()
    assert torch.isfinite(slope).all()


def test_an_empty_completion_is_nothing() -> None:
    found = sequence_logps(logits=LOGITS, ids=IDS, completion_mask=torch.zeros_like(MASK))
    assert found.logps.tolist() == [0, 0]
    assert found.mean_logps.tolist() == [0, 0]


def test_half_precision_is_worked_on_in_float32() -> None:
    found = sequence_logps(logits=LOGITS.bfloat16(), ids=IDS, completion_mask=MASK)
    assert found.logps.dtype == torch.float32
    exact = sequence_logps(logits=LOGITS, ids=IDS, completion_mask=MASK)
    assert near(found.logps, exact.logps, 1e-5)


def test_logps_have_right_gradients() -> None:
    logits = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: sequence_logps(logits=x, ids=IDS, completion_mask=MASK).logps, (logits,)
    )


def test_log1mexp_is_right_on_both_sides_of_its_seam() -> None:
    x = -torch.logspace(-5, 1.5, 200, dtype=torch.float64)
    exact = torch.tensor([math.log(-math.expm1(one)) for one in x.tolist()], dtype=torch.float64)
    assert torch.allclose(log1mexp(x), exact, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1mexp_is_finite_to_its_ends(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, -1e-9, -1e-6, -200.0, -1e4], dtype=dtype, requires_grad=True)
    value = log1mexp(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert torch.isfinite(value).all()
    assert torch.isfinite(slope).all()
    assert value[0] == value[2]
