from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_models import make_tiny
from trueup.errors import UserError
from trueup.models import LanguageModel, load


def test_the_adapter_switched_off_is_the_base_model(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    tuned = run("dpo", pairs, lora_r=4, learning_rate=1e-2, steps=5).model
    texts = [row["chosen"] for row in pairs]
    base = lm.text_logps(texts)
    assert abs(tuned.text_logps(texts) - base).max() > 0.1
    with tuned.model.disable_adapter():
        assert tuned.text_logps(texts) == pytest.approx(base, abs=1e-5)


def test_a_saved_adapter_gives_the_trained_numbers(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    tuned = run("dpo", pairs, lora_r=4, learning_rate=1e-2, steps=5).model
    texts = [row["chosen"] for row in pairs]
    loaded = load(tmp_path / "out", device="cpu")
    assert loaded.text_logps(texts) == pytest.approx(tuned.text_logps(texts), abs=1e-5)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_an_adapter_can_be_trained_on(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    run("dpo", pairs, lora_r=4, learning_rate=1e-2, steps=4)
    first = load(tmp_path / "out", device="cpu")
    again = run("dpo", pairs, model=first, out="again", learning_rate=1e-2, steps=4)
    assert again.steps["loss"][0] == pytest.approx(0.6931471806, abs=1e-6)
    assert again.steps["loss"].iloc[-1] < 0.6
    before, after = first.model.state_dict(), again.model.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("lora_" in name for name in moved)


def test_two_adapters_at_once_are_refused(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    run("dpo", pairs, lora_r=2, steps=1)
    first = load(tmp_path / "out", device="cpu")
    with pytest.raises(UserError, match="already has an adapter"):
        run("dpo", pairs, model=first, out="again", lora_r=2)


def test_unknown_targets_are_one_line(run: Any, pairs: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="lora_targets") as caught:
        run("dpo", pairs, lora_r=2, lora_targets=("nowhere",))
    assert "\n" not in str(caught.value)


def test_named_targets_alone_train(run: Any, pairs: list[dict[str, Any]]) -> None:
    model = run("dpo", pairs, lora_r=2, lora_targets=("q_proj",), steps=1).model.model
    assert all("q_proj" in name for name, _ in model.named_parameters() if "lora_" in name)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "qwen2", "mistral"])
def test_lora_trains_other_architectures(
    architecture: str, run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    lm = load(make_tiny(architecture, tmp_path / architecture), device="cpu")
    steps = run("dpo", pairs, model=lm, lora_r=4, learning_rate=1e-2, steps=6).steps
    assert steps["loss"][0] == pytest.approx(0.6931471806, abs=1e-6)
    assert steps["loss"].iloc[-1] < 0.69


def test_lora_dropout_works_while_the_models_own_stays_off(
    run: Any, pairs: list[dict[str, Any]]
) -> None:
    """A fresh adapter adds 0, dropped or not: the first loss is still ln 2, later ones differ."""
    plain = run("dpo", pairs, out="plain", lora_r=4, learning_rate=1e-2, steps=4).steps
    dropped = run(
        "dpo", pairs, out="dropped", lora_r=4, lora_dropout=0.5, learning_rate=1e-2, steps=4
    ).steps
    assert dropped["loss"][0] == pytest.approx(0.6931471806, abs=1e-6)
    assert dropped["loss"].iloc[-1] != plain["loss"].iloc[-1]
