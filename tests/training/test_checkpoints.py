"""Stopped anywhere, a run goes on as if nothing had happened; nothing half is taken for whole."""

import errno
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import safetensors
import torch
from torch import Tensor

from trueup.errors import InterruptedRun, TrueupError, UserError
from trueup.models import LanguageModel, load
from trueup.objectives import Needs
from trueup.training import Progress, TrainingConfig, TrainingResult, train
from trueup.training.checkpoints import Checkpoints, State, Tensors

SETTINGS: dict[str, Any] = {"batch_size": 4, "learning_rate": 1e-3, "epochs": 3, "save_every": 2}


def bits(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def pressing(step: int, number: int = signal.SIGINT) -> Callable[[Progress], None]:
    """Send a signal to ourselves once a step is done."""

    def tell(progress: Progress) -> None:
        if progress.stage == "training" and progress.step == step:
            os.kill(os.getpid(), number)

    return tell


def assert_same(one: TrainingResult, other: TrainingResult) -> None:
    for name in ("steps", "evaluations", "items"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)
    assert one.work == other.work
    assert [guard.as_dict() for guard in one.guards] == [guard.as_dict() for guard in other.guards]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 4])
def test_a_signal_ends_the_step_and_resume_ends_with_the_same_bits(
    step: int, number: int, run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    handler = signal.getsignal(number)
    calm = run("dpo", pairs, out="calm", **SETTINGS)
    with pytest.raises(InterruptedRun, match=f"after step {step + 1} of 9; go on with --resume"):
        run("dpo", pairs, options={"progress": pressing(step, number)}, **SETTINGS)
    assert signal.getsignal(number) is handler
    again = run("dpo", pairs, options={"resume": True}, **SETTINGS)
    assert_same(again, calm)
    assert bits(tmp_path / "out") == bits(tmp_path / "calm")


def test_a_signal_in_the_last_step_stops_nothing(run: Any, pairs: list[dict[str, Any]]) -> None:
    result = run("dpo", pairs, options={"progress": pressing(8)}, **SETTINGS)
    assert len(result.steps) == 9


def test_a_second_signal_stops_at_once(run: Any, pairs: list[dict[str, Any]]) -> None:
    def twice(progress: Progress) -> None:
        if progress.stage == "training" and progress.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run("dpo", pairs, options={"progress": twice}, **SETTINGS)
    assert len(run("dpo", pairs, options={"resume": True}, **SETTINGS).steps) == 9


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_r": 2, "lora_dropout": 0.3},
        {"dropout": True, "weight_decay": 0.1, "schedule": "linear"},
        {"eval_fraction": 0.25, "eval_every": 2, "early_stopping": 1, "learning_rate": 0.05},
        {"precision": "bf16", "gradient_checkpointing": True},
    ],
    ids=["lora", "dropout", "early-stopping", "bf16"],
)
def test_resume_is_exact_with(
    settings: dict[str, Any], run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    chosen = {**SETTINGS, "save_every": 0, **settings}
    calm = run("dpo", pairs, out="calm", **chosen)
    with pytest.raises(InterruptedRun):
        run("dpo", pairs, options={"progress": pressing(2)}, **chosen)
    again = run("dpo", pairs, options={"resume": True}, **chosen)
    assert_same(again, calm)
    assert bits(tmp_path / "out") == bits(tmp_path / "calm")


def test_kto_resumes_exactly(run: Any, labelled: list[dict[str, Any]], tmp_path: Path) -> None:
    calm = run("kto", labelled, out="calm", **SETTINGS)
    with pytest.raises(InterruptedRun):
        run("kto", labelled, options={"progress": pressing(4)}, **SETTINGS)
    assert_same(run("kto", labelled, options={"resume": True}, **SETTINGS), calm)
    assert bits(tmp_path / "out") == bits(tmp_path / "calm")


def test_resume_without_anything_to_resume_starts(run: Any, pairs: list[dict[str, Any]]) -> None:
    assert len(run("dpo", pairs, steps=2, options={"resume": True}).steps) == 2


def test_resume_of_a_finished_run_gives_its_result_without_work(
    run: Any, pairs: list[dict[str, Any]]
) -> None:
    settings = {**SETTINGS, "eval_fraction": 0.25}
    calm = run("dpo", pairs, **settings)

    def never(progress: Progress) -> None:
        raise AssertionError(progress)

    again = run("dpo", pairs, options={"resume": True, "progress": never}, **settings)
    assert_same(again, calm)
    assert again.model.fingerprint == calm.model.fingerprint
    assert again.notes == calm.notes


def test_finished_runs_keep_no_checkpoints(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    run("dpo", pairs, **SETTINGS)
    left = {path.name for path in (tmp_path / "out" / "training").iterdir()}
    tables = {f"{name}.parquet" for name in ("steps", "evaluations", "items")}
    assert left == {"run.json", "reference.safetensors", *tables}


def test_an_unfinished_run_is_not_overwritten(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(InterruptedRun):
        run("dpo", pairs, options={"progress": pressing(4)}, **SETTINGS)
    with pytest.raises(UserError, match="holds an unfinished run, 5 steps done; .*--resume"):
        run("dpo", pairs, **SETTINGS)
    assert Checkpoints(tmp_path / "out" / "training" / "checkpoints").steps() == [4, 5]


def test_the_models_own_folder_is_not_overwritten(
    lm: LanguageModel, pairs: list[dict[str, Any]], tiny_model_folder: Path
) -> None:
    with pytest.raises(UserError, match="is the folder of the model itself"):
        train(lm, "dpo", pairs, config=TrainingConfig(), out=tiny_model_folder)


@pytest.mark.parametrize("change", ["seed", "objective", "rows", "model"])
def test_another_run_is_not_gone_on_with(
    change: str, run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    with pytest.raises(InterruptedRun):
        run("dpo", pairs, options={"progress": pressing(2)}, **SETTINGS)
    settings, name, rows = dict(SETTINGS), "dpo", pairs
    if change == "seed":
        settings["seed"] = 1
    elif change == "objective":
        name = "ipo"
    elif change == "rows":
        rows = pairs[:-1]
    else:
        with torch.no_grad():
            lm.model.lm_head.weight[3] += 1
    with pytest.raises(UserError, match="was started with another") as caught:
        run(name, rows, options={"resume": True}, **settings)
    assert "\n" not in str(caught.value)


def test_a_smaller_token_budget_may_be_resumed_with(run: Any, pairs: list[dict[str, Any]]) -> None:
    calm = run("dpo", pairs, out="calm", **SETTINGS)
    with pytest.raises(InterruptedRun):
        run("dpo", pairs, options={"progress": pressing(2)}, **SETTINGS)
    again = run("dpo", pairs, options={"resume": True}, token_budget=1, **SETTINGS)
    assert list(again.steps["loss"]) == pytest.approx(list(calm.steps["loss"]), abs=1e-5)


def _state(step: int, best: int | None = None) -> tuple[State, Tensors]:
    return State(step=step, best_step=best), Tensors({"w": torch.ones(2)}, {}, [])


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    for step in (2, 4, 6):
        checkpoints.save_best(step, {"w": torch.full((2,), float(step))})
        checkpoints.save(*_state(step, best=2 if step < 6 else 6))
    assert checkpoints.steps() == [4, 6]
    assert {path.name for path in checkpoints.folder.glob("best*")} == {
        "best-00000002.safetensors",
        "best-00000006.safetensors",
    }


def test_a_half_written_checkpoint_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(*_state(2))
    part = checkpoints.folder / ".step-00000004.part"
    part.mkdir()
    (part / "weights.safetensors").write_bytes(b"half")
    found = checkpoints.newest()
    assert found is not None
    assert found[0].step == 2
    checkpoints.save(*_state(6))
    assert not part.exists()


def test_checkpoints_are_safetensors_and_json(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(InterruptedRun):
        run("dpo", pairs, options={"progress": pressing(2)}, **SETTINGS)
    folder = tmp_path / "out" / "training" / "checkpoints" / "step-00000003"
    assert {path.name for path in folder.iterdir()} == {
        "weights.safetensors",
        "optimiser.safetensors",
        "randomness-0.safetensors",
        "state.json",
    }


def _full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _full_in_rust(*args: Any, **kwargs: Any) -> None:
    raise safetensors.SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    )


@pytest.mark.parametrize("failure", [_full, _full_in_rust])
@pytest.mark.parametrize("fails_at", [2, 6])
def test_a_full_disk_is_one_line_and_loses_nothing(
    fails_at: int,
    failure: Callable[..., None],
    run: Any,
    pairs: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calm = run("dpo", pairs, out="calm", **SETTINGS)
    real, written = safetensors.torch.save_file, []

    def limited(tensors: Any, path: Any, **options: Any) -> None:
        written.append(path)
        (failure if len(written) == fails_at else real)(tensors, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", limited)
        with pytest.raises(UserError, match="no space left on the device") as caught:
            run("dpo", pairs, **SETTINGS)
    assert "\n" not in str(caught.value)
    steps = Checkpoints(tmp_path / "out" / "training" / "checkpoints").steps()
    assert steps == ([] if fails_at == 2 else [2])
    again = run("dpo", pairs, options={"resume": True}, **SETTINGS)
    assert_same(again, calm)


def test_a_full_disk_at_the_very_end_keeps_the_older_model(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("sft", pairs, **SETTINGS)
    older = bits(tmp_path / "out")
    monkeypatch.setattr(LanguageModel, "save", _full)
    with pytest.raises(UserError, match="no space left on the device"):
        run("dpo", pairs, **SETTINGS)
    assert bits(tmp_path / "out") == older
    monkeypatch.undo()
    run("dpo", pairs, options={"resume": True}, **SETTINGS)
    assert bits(tmp_path / "out") != older


def test_an_adapter_takes_the_place_of_a_full_model(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    run("dpo", pairs, steps=1)
    run("dpo", pairs, steps=1, lora_r=2)
    assert set(bits(tmp_path / "out")) == {"adapter_model.safetensors"}
    run("dpo", pairs, steps=1)
    assert set(bits(tmp_path / "out")) == {"model.safetensors"}
    load(tmp_path / "out", device="cpu")


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_number_that_is_not_finite_names_step_and_row_and_keeps_the_checkpoint(
    kind: str, run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    class Broken(_Counting):
        def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
            value = super().loss(batch)
            if self.calls[0] < 6:
                return value
            if kind == "loss":
                return torch.where(torch.arange(len(value)) == 0, torch.nan, value)
            return value + (value - value.detach()).abs().sqrt()  # slope at 0 is not finite

    settings = {**SETTINGS, "token_budget": 10_000}
    with pytest.raises(TrueupError, match=r"^step 6: the .* is nan \(the data row \d+") as caught:
        run(Broken(), pairs, **settings)
    assert type(caught.value) is TrueupError
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("the data row") == (1 if kind == "loss" else 3)
    assert Checkpoints(tmp_path / "out" / "training" / "checkpoints").steps() == [2, 4]


@dataclass(frozen=True)
class _Counting:
    """An objective that remembers how often it was asked, outside of the engine."""

    calls: list[int] = field(default_factory=lambda: [0])
    name: ClassVar[str] = "counting"
    data: ClassVar[str] = "pairs"
    needs: ClassVar[Needs] = Needs()
    arxiv: ClassVar[str] = ""

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        self.calls[0] += 1
        return (batch["rejected_logps"] - batch["chosen_logps"]) / (10 + self.calls[0])

    def weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        return torch.ones(len(batch["chosen_logps"]))


@dataclass(frozen=True)
class _Stateful:
    """An objective whose loss depends on the mean margin of all steps before."""

    name: ClassVar[str] = "stateful"
    data: ClassVar[str] = "pairs"
    needs: ClassVar[Needs] = Needs(whole_batch=True)
    arxiv: ClassVar[str] = ""

    def start(self) -> dict[str, float]:
        return {"count": 0.0, "total": 0.0}

    def advance(
        self, state: Mapping[str, float], batch: Mapping[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        assert not any(value.requires_grad for value in batch.values())
        margin = (batch["chosen_logps"] - batch["rejected_logps"]).mean()
        after = {"count": state["count"] + 1, "total": state["total"] + float(margin)}
        return after, {"seen": torch.tensor(after["total"] / after["count"])}

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        margin = batch["chosen_logps"] - batch["rejected_logps"]
        return (margin - batch["seen"] - 1) ** 2 / 100 - margin.mean() * margin / 1000

    def weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        return torch.ones(len(batch["chosen_logps"]))


def test_the_state_of_an_objective_is_saved(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    settings = {**SETTINGS, "token_budget": 10_000}
    calm = run(_Stateful(), pairs, out="calm", **settings)
    with pytest.raises(InterruptedRun):
        run(_Stateful(), pairs, options={"progress": pressing(4)}, **settings)
    again = run(_Stateful(), pairs, options={"resume": True}, **settings)
    assert again.steps.equals(calm.steps)
    assert bits(tmp_path / "out") == bits(tmp_path / "calm")


def test_a_joint_loss_does_not_depend_on_how_the_batch_is_cut(
    run: Any, pairs: list[dict[str, Any]]
) -> None:
    """All micro-batches alive, and two passes, one pair at a time: the same losses, 1e-5."""
    whole, cut = (
        run(_Stateful(), pairs, out=str(budget), token_budget=budget, steps=5, batch_size=6)
        for budget in (10_000, 1)
    )
    assert cut.work.trunk_tokens > 1.5 * whole.work.trunk_tokens
    for name in ("loss", "margin", "grad_norm"):
        assert list(cut.steps[name]) == pytest.approx(list(whole.steps[name]), rel=1e-4, abs=1e-5)


def test_evaluation_does_not_change_the_state(run: Any, pairs: list[dict[str, Any]]) -> None:
    settings = {"steps": 4, "batch_size": 4, "eval_fraction": 0.25}
    often = run(_Stateful(), pairs, out="often", eval_every=1, **settings)
    never = run(_Stateful(), pairs, out="never", **settings)
    assert list(often.steps["loss"]) == list(never.steps["loss"])
