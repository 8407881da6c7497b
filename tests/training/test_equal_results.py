"""What changes nothing: padding, cuts, checkpoints of activations; and what the model is left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trueup.models import LanguageModel, Work, load
from trueup.training import TrainingConfig, train
from trueup.training.config import FREE_ON_RESUME


def weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in lm.model.state_dict().items()}


def test_padding_changes_nothing(run: Any, pairs: list[dict[str, Any]], lm: LanguageModel) -> None:
    """A bucket floor of 1 keeps unlike rows apart, a large one pads them together."""
    results = []
    for floor in (1, 100_000):
        lm._layout = replace(lm.layout, bucket_floor=floor)
        results.append(run("dpo", pairs, out=str(floor), steps=4))
    apart, together = results
    assert apart.work.padding_tokens < together.work.padding_tokens
    assert list(apart.steps["loss"]) == pytest.approx(list(together.steps["loss"]), abs=1e-5)


def test_the_padding_token_changes_nothing(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    first = run("dpo", pairs, out="zero", steps=4).steps
    lm.tokenizer.pad_token = "a"
    assert run("dpo", pairs, out="a", steps=4).steps["loss"].tolist() == first["loss"].tolist()


def test_accumulation_changes_no_weight(run: Any, completions: list[dict[str, Any]]) -> None:
    """Token-mean sft: an average of micro-batch means would weigh tokens unequally."""
    results = [
        run("sft", completions, out=str(budget), token_budget=budget, steps=4)
        for budget in (10_000, 1)
    ]
    first, second = (weights(result.model) for result in results)
    for name in first:
        assert torch.allclose(first[name], second[name], atol=1e-5), name


def test_gradient_checkpoints_are_really_made(
    run: Any, pairs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.modeling_utils as target

    calls: list[int] = []
    original = target.checkpoint

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(target, "checkpoint", counted)
    run("dpo", pairs, steps=1, gradient_checkpointing=True)
    assert calls
    calls.clear()
    run("dpo", pairs, steps=1, out="plain")
    assert not calls


def test_the_model_that_was_given_stays_as_it_was(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    before, mark = weights(lm), lm.fingerprint
    for name, settings in (("full", {}), ("lora", {"lora_r": 2})):
        result = run("dpo", pairs, out=name, steps=3, **settings)
        assert result.model.model is not lm.model
        assert result.model.fingerprint != mark
    after = weights(lm)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert lm.fingerprint == mark


def test_in_place_gives_the_same_numbers(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    copied = run("dpo", pairs, out="copied", steps=4)
    placed = run("dpo", pairs, out="placed", steps=4, options={"in_place": True})
    assert placed.model.model is lm.model
    assert placed.steps.equals(copied.steps)


def test_dropout_is_off_unless_asked(pairs: list[dict[str, Any]], tmp_path: Path) -> None:
    from tests.tiny_models import make_tiny

    lm = load(make_tiny("gpt2", tmp_path / "gpt2"), device="cpu")
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3

    def first_loss(name: str, *, dropout: bool) -> float:
        config = TrainingConfig(batch_size=12, steps=1, dropout=dropout)
        steps = train(lm, "dpo", pairs, config=config, out=tmp_path / name).steps
        return float(steps["loss"].iloc[0])

    assert first_loss("off", dropout=False) == pytest.approx(0.6931471806, abs=1e-6)
    assert abs(first_loss("on", dropout=True) - 0.6931471806) > 1e-3


def test_the_callers_randomness_is_left_alone(run: Any, pairs: list[dict[str, Any]]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run("dpo", pairs, steps=1, lora_r=2)
    assert torch.equal(torch.rand(3), expected)


def test_the_seed_changes_the_order(run: Any, pairs: list[dict[str, Any]]) -> None:
    losses = [
        run("sft", pairs, out=str(seed), steps=1, seed=seed).steps["loss"][0] for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_work_is_the_minimum(run: Any, pairs: list[dict[str, Any]], lm: LanguageModel) -> None:
    """One epoch and its reference: each prompt token once per pass, each scored position once."""
    expected = Work()
    for row in pairs:
        group = lm.encode(row["prompt"], [row["chosen"], row["rejected"]], add_eos=True)
        inner = sum(len(completion) - 1 for completion in group.completions)
        expected.add(trunk_tokens=len(group.prompt) + inner, head_rows=1 + inner)
    result = run("dpo", pairs, out="dpo")
    assert result.work.trunk_tokens == 2 * expected.trunk_tokens
    assert result.work.head_rows == 2 * expected.head_rows
    assert result.steps["tokens"].sum() == expected.trunk_tokens
    two = run("dpo", pairs, out="two", epochs=2)  # no reference pass is repeated
    assert two.work.trunk_tokens == 3 * expected.trunk_tokens
    free = run("simpo", pairs, out="simpo")  # and none is made where none is needed
    assert free.work.trunk_tokens == expected.trunk_tokens


def test_settings_that_may_change_on_resume_change_no_result(
    run: Any, pairs: list[dict[str, Any]]
) -> None:
    assert set(FREE_ON_RESUME) == {"save_every", "trackers", "token_budget"}
    plain = run("dpo", pairs, out="plain", steps=5)
    often = run("dpo", pairs, out="often", steps=5, save_every=1, trackers=("tensorboard",))
    assert plain.steps.equals(often.steps)


def test_clipping_bounds_the_step_not_the_report(run: Any, pairs: list[dict[str, Any]]) -> None:
    norms = [
        run("dpo", pairs, out=str(clip), steps=1, clip=clip).steps["grad_norm"][0]
        for clip in (0.0, 0.01)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert norms[0] > 0.01


def test_weight_decay_spares_norms_and_biases(run: Any, pairs: list[dict[str, Any]]) -> None:
    plain = weights(run("dpo", pairs, out="plain", steps=1).model)
    decayed = weights(run("dpo", pairs, out="decayed", steps=1, weight_decay=0.5).model)
    for name in plain:
        assert torch.equal(plain[name], decayed[name]) == (plain[name].ndim == 1), name
