import copy
from typing import Any

import pytest
import torch

from trueup.models import LanguageModel
from trueup.models.selected_logps import selected_logps


def test_selected_logps_under_autocast_equals_the_plain_way(rng: Any) -> None:
    """bfloat16 products on both sides, backward passes outside and inside the block."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 16, generator=generator)
    weight = torch.randn(40, 16, generator=generator)
    rows, targets = torch.tensor([0, 0, 3, 6]), torch.tensor([5, 5, 39, 1])

    def plain(states: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        logits = torch.nn.functional.linear(states, head).float()
        return torch.log_softmax(logits, dim=-1)[rows, targets]

    def ours(states: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        return selected_logps(states, head, rows, targets)

    for inside in (False, True):
        results = []
        for way in (plain, ours):
            leaves = [part.clone().requires_grad_() for part in (hidden, weight)]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                value = way(*leaves)
                if inside:
                    value.sum().backward()
            if not inside:
                value.sum().backward()
            results.append([value.detach(), *(leaf.grad for leaf in leaves)])
        for expected, found in zip(*results, strict=True):
            assert found.dtype == torch.float32
            assert torch.allclose(found, expected, atol=0.02, rtol=0.02)


def test_bf16_starts_at_ln_2_and_stays_near_fp32(run: Any, pairs: list[dict[str, Any]]) -> None:
    wide = run("dpo", pairs, out="wide", steps=5)
    narrow = run("dpo", pairs, out="narrow", steps=5, precision="bf16")
    assert narrow.steps["loss"][0] == pytest.approx(0.6931471806, abs=2e-3)
    assert list(narrow.steps["loss"]) == pytest.approx(list(wide.steps["loss"]), abs=0.05)
    assert list(narrow.steps["loss"]) != list(wide.steps["loss"])
    assert {weight.dtype for weight in narrow.model.model.parameters()} == {torch.float32}


def test_half_precision_weights_are_trained_in_float32(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    """At a rate of 1e-6 every update of a bfloat16 weight would be lost."""
    half = LanguageModel(copy.deepcopy(lm.model).bfloat16(), lm.tokenizer, name="half")
    result = run("dpo", pairs, model=half, learning_rate=1e-6, steps=3)
    assert result.steps["loss"][0] == pytest.approx(0.6931471806, abs=1e-6)
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    moved = [
        not torch.equal(new.detach(), old.detach().float())
        for new, old in zip(result.model.model.parameters(), half.model.parameters(), strict=True)
    ]
    assert all(moved)


def test_bf16_with_gradient_checkpoints(run: Any, pairs: list[dict[str, Any]]) -> None:
    plain = run("dpo", pairs, out="plain", steps=3, precision="bf16")
    saving = run("dpo", pairs, out="saving", steps=3, precision="bf16", gradient_checkpointing=True)
    assert list(saving.steps["loss"]) == pytest.approx(list(plain.steps["loss"]), abs=1e-6)
