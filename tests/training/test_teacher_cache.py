"""Sparse teacher caches: dense numbers at full size, a bound below it, asked once, never stale."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_models import make_tiny
from tests.training.tiny_teachers import TASKS, make_teachers
from trueup.api.aligning import chosen_settings
from trueup.cli.session import run_words
from trueup.errors import InterruptedRun, UserError
from trueup.models import LanguageModel, load
from trueup.models.tensors import load_tensors, save_tensors
from trueup.objectives.dckd import DCKD
from trueup.training import TrainingConfig, TrainingResult, loop, teacher_cache, train
from trueup.training.teacher_cache import TeacherCache

V = 260  # words of the tiny models
NAMES = ("dckd", "adpa", "bialign")
Teach = Callable[..., TrainingResult]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, LanguageModel]:
    return make_teachers(tmp_path_factory.mktemp("teachers"))


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> list[LanguageModel]:
    """A policy and two teachers in float64."""
    folder = tmp_path_factory.mktemp("exact")
    policy = load(make_tiny("llama", folder / "policy"), device="cpu", dtype="float64")
    return [policy, *make_teachers(folder, dtype="float64")]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of examples in every pass of the teachers that is really made."""
    made: list[int] = []
    original = TeacherCache._asked

    def counted(self: TeacherCache, families: Any, starts: Any) -> Any:
        made.append(len(families))
        return original(self, families, starts)

    monkeypatch.setattr(TeacherCache, "_asked", counted)
    return made


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """All gradients of every optimiser step, in one vector."""
    seen: list[torch.Tensor] = []
    original = loop.set_learning_rate

    def spy(optimiser: Any, rate: float) -> None:
        weights = [weight for group in optimiser.param_groups for weight in group["params"]]
        seen.append(torch.cat([weight.grad.flatten() for weight in weights]))
        original(optimiser, rate)

    monkeypatch.setattr(loop, "set_learning_rate", spy)
    return seen


@pytest.fixture
def teach(run: Any, request: pytest.FixtureRequest, teachers: Any) -> Teach:
    """A short distillation by its name; `models` are policy, teacher and reference teacher."""

    def short(
        name: str, *, models: Any = None, rows: Any = None, **settings: Any
    ) -> TrainingResult:
        policy, teacher, before = models or (None, *teachers)
        options = {"teacher": teacher, **settings.pop("options", {})}
        if name == "adpa":
            options["ref_teacher"] = before
            settings = {"max_new_tokens": 6, **settings}
        kinds = {"dckd": "pairs", "adpa": "completions"}
        if rows is None:
            rows = request.getfixturevalue(kinds[name]) if name in kinds else TASKS
        return run(settings.pop("objective", name), rows, model=policy, options=options, **settings)

    return short


def weights(result: TrainingResult) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in result.model.model.parameters()])


# the numbers


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_of_all_words_gives_the_dense_losses_and_gradients(
    name: str, teach: Teach, exact: list[LanguageModel], gradients: list[torch.Tensor]
) -> None:
    found = {k: teach(name, models=exact, out=f"k{k}", steps=3, teacher_top_k=k) for k in (0, V, 1)}
    losses = {k: found[k].steps["loss"].to_numpy() for k in found}
    dense, whole, small = gradients[:3], gradients[3:6], gradients[6:]
    assert np.abs(losses[V] - losses[0]).max() < 1e-6
    assert max(float((a - b).abs().max()) for a, b in zip(dense, whole, strict=True)) < 1e-9
    assert np.abs(losses[1] - losses[0]).max() > 1e-3
    assert float((small[0] - dense[0]).abs().max()) > 1e-4


def test_evaluation_rows_are_cached_too(teach: Teach, passes: list[int]) -> None:
    settings = {"steps": 3, "eval_fraction": 0.25, "eval_every": 1}
    dense = teach("dckd", out="dense", **settings).evaluations["loss"]
    cached = teach("dckd", out="cached", teacher_top_k=V, **settings).evaluations["loss"]
    assert passes == [9, 3]
    assert list(cached) == pytest.approx(list(dense), abs=1e-5)


def test_a_small_cache_bounds_the_divergence_from_below(teach: Teach, exact: Any) -> None:
    """Merging words into one bucket loses information: the data-processing inequality."""
    settings = {"objective": DCKD(sft_weight=0.0), "models": exact, "steps": 1, "batch_size": 12}
    losses = [
        teach("dckd", out=f"k{k}", teacher_top_k=k, **settings).steps["loss"].iloc[0]
        for k in (1, 5, 50, V, 0)
    ]
    assert losses == sorted(losses)
    assert losses[0] < losses[1] - 1e-3 < losses[2] - 2e-3
    assert losses[-1] == pytest.approx(losses[-2], abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_how_rows_are_laid_out_changes_nothing(name: str, teach: Teach, exact: Any) -> None:
    """Completions of one prompt share a row, or every row goes through the models alone."""
    repeated = None
    if name == "dckd":
        repeated = [
            {"prompt": f"Question {n // 3}: ", "chosen": f"yes {n}", "rejected": f"no {n}"}
            for n in range(12)
        ]
    settings = {"models": exact, "rows": repeated, "steps": 3}
    dense, together, apart = (
        list(
            teach(
                name, out=f"{k}-{budget}", teacher_top_k=k, token_budget=budget, **settings
            ).steps["loss"]
        )
        for k, budget in ((0, 10_000), (V, 10_000), (V, 1))
    )
    assert together == pytest.approx(dense, abs=1e-6)
    assert together == pytest.approx(apart, abs=1e-6)


def test_the_order_of_the_examples_changes_no_row(teach: Teach, exact: Any) -> None:
    settings = {"models": exact, "steps": 1, "batch_size": 12, "teacher_top_k": 9}
    losses = [
        teach("dckd", out=str(shuffle), shuffle=shuffle, **settings).steps["loss"].iloc[0]
        for shuffle in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)


def test_a_teacher_that_cannot_share_prompts_leaves_the_policy_its_own_rows(
    teach: Teach, lm: LanguageModel, tmp_path: Path
) -> None:
    """ALiBi takes no positions of its own: the teacher reads a row per completion."""
    teacher = load(make_tiny("bloom", tmp_path / "bloom"), device="cpu")
    assert not teacher.layout.shares_prefix
    settings = {"models": (lm, teacher, None), "steps": 3}
    dense = teach("dckd", out="dense", **settings).steps
    cached = teach("dckd", out="cached", teacher_top_k=V, **settings).steps
    assert list(cached["loss"]) == pytest.approx(list(dense["loss"]), abs=1e-5)
    assert cached["tokens"].iloc[0] < 0.45 * dense["tokens"].iloc[0]  # without teacher, shared


def test_a_head_padded_beyond_the_vocabulary_gives_the_dense_losses(
    teach: Teach, lm: LanguageModel, tmp_path: Path
) -> None:
    teacher = make_teachers(tmp_path)[0]
    teacher.model.resize_token_embeddings(V + 4, mean_resizing=False)
    settings = {"models": (lm, teacher, None), "steps": 2}
    dense = teach("dckd", out="dense", **settings).steps["loss"]
    cached = teach("dckd", out="cached", teacher_top_k=V, **settings).steps["loss"]
    assert list(cached) == pytest.approx(list(dense), abs=1e-5)


def test_bfloat16_passes_are_cached_in_float32(teach: Teach, tmp_path: Path) -> None:
    settings = {"steps": 2, "precision": "bf16"}
    dense = teach("dckd", out="dense", **settings).steps["loss"]
    cached = teach("dckd", out="cached", teacher_top_k=V, **settings).steps["loss"]
    assert list(cached) == pytest.approx(list(dense), abs=0.02)
    tensors, _ = load_tensors(tmp_path / "cached" / "training" / "teachers-train.safetensors")
    assert tensors["logps"].dtype == torch.float32


# the work


def asked_tokens(lm: LanguageModel) -> list[int]:
    """Grows by the tokens, padding and all, of every pass through the trunk but the trial ones."""
    seen: list[int] = []
    assert lm.layout.splits_head  # found by passes of its own

    def count(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(int(kwargs["input_ids"].numel()))

    lm.model.model.register_forward_pre_hook(count, with_kwargs=True)
    return seen


@pytest.mark.parametrize("name", ["dckd", "adpa"])
def test_the_teachers_read_every_example_once_however_many_epochs(
    name: str, teach: Teach, tmp_path: Path
) -> None:
    made = make_teachers(tmp_path)
    models = (None, *made)
    seen = [asked_tokens(lm) for lm in made[: 2 if name == "adpa" else 1]]
    counts, beside = [], []
    for epochs in (1, 3):
        for several in seen:
            several.clear()
        result = teach(name, models=models, out=str(epochs), epochs=epochs, teacher_top_k=5)
        counts.append([sum(several) for several in seen])
        beside.append(result.work.trunk_tokens - int(result.steps["tokens"].sum()))
    assert counts[0] == counts[1]
    assert all(count > 0 for count in counts[0])
    assert beside[0] == beside[1] > 0


def test_dense_teachers_read_every_example_again(teach: Teach, tmp_path: Path) -> None:
    made = make_teachers(tmp_path)
    seen, totals = asked_tokens(made[0]), []
    for epochs in (1, 3):
        seen.clear()
        teach("dckd", models=(None, *made), out=str(epochs), epochs=epochs)
        totals.append(sum(seen))
    assert totals[1] > 2.5 * totals[0]


def test_the_cost_of_the_pass_is_counted(teach: Teach, exact: Any) -> None:
    """Rows of one policy and one teacher alike: one epoch is as much as the teacher's pass."""
    settings = {"models": exact, "shuffle": False, "batch_size": 12, "token_budget": 10_000}
    work = teach("dckd", epochs=1, teacher_top_k=5, **settings).work
    dense = teach("dckd", out="dense", epochs=1, **settings).work
    assert work.trunk_tokens == dense.trunk_tokens > 0
    assert work.head_rows == dense.head_rows > 0


# the files


def test_stored_answers_serve_a_run_that_starts_again(teach: Teach, passes: list[int]) -> None:
    first = teach("dckd", steps=3, teacher_top_k=5)
    again = teach("dckd", steps=3, teacher_top_k=5)
    assert passes == [12]
    assert again.steps.equals(first.steps)
    assert torch.equal(weights(again), weights(first))
    assert again.work == first.work


def test_a_second_start_asks_the_teacher_nothing(teach: Teach, tmp_path: Path) -> None:
    """Neither words nor the ranking of demonstrations."""
    made = make_teachers(tmp_path)
    seen = asked_tokens(made[0])
    settings = {"models": (None, *made), "steps": 2, "teacher_top_k": 5}
    first = teach("bialign", **settings)
    assert seen
    seen.clear()
    again = teach("bialign", **settings)
    assert not seen
    assert again.steps.equals(first.steps)
    assert again.work == first.work


@pytest.mark.parametrize("change", ["teacher", "k", "row", "precision", "version", "format"])
def test_stale_answers_are_never_served(
    change: str,
    teach: Teach,
    pairs: list[dict[str, Any]],
    tmp_path: Path,
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = make_teachers(tmp_path)[0]
    settings: dict[str, Any] = {"models": (None, teacher, None), "steps": 2, "teacher_top_k": 5}
    teach("dckd", **settings)
    if change == "teacher":
        with torch.no_grad():
            teacher.model.lm_head.weight[7] += 0.1
    elif change == "k":
        settings["teacher_top_k"] = 6
    elif change == "row":
        settings["rows"] = [{**pairs[0], "rejected": "something else"}, *pairs[1:]]
    elif change == "precision":
        settings["precision"] = "bf16"
    elif change == "version":
        monkeypatch.setattr("trueup.training.stored.version", lambda name: "0.0")
    else:
        monkeypatch.setattr(teacher_cache, "FORMAT", "another")
    changed = teach("dckd", **settings)
    assert passes == [12, 12]
    fresh = teach("dckd", out="fresh", **settings)
    assert fresh.steps.equals(changed.steps)


def test_what_the_answers_do_not_depend_on_asks_nobody(teach: Teach, passes: list[int]) -> None:
    teach("dckd", steps=1, teacher_top_k=5)
    settings = {"steps": 2, "seed": 4, "batch_size": 3, "learning_rate": 1e-2, "lora_r": 2}
    teach("dckd", teacher_top_k=5, **settings)
    assert passes == [12]


def test_answers_with_a_foreign_fingerprint_are_not_read(
    teach: Teach, tmp_path: Path, passes: list[int]
) -> None:
    first = teach("dckd", steps=2, teacher_top_k=5)
    path = tmp_path / "out" / "training" / "teachers-train.safetensors"
    tensors, metadata = load_tensors(path)
    wrong = {**tensors, "logps": tensors["logps"] - 5}
    save_tensors(path, wrong, {**metadata, "fingerprint": "0" * 64})
    assert teach("dckd", steps=2, teacher_top_k=5).steps.equals(first.steps)
    assert passes == [12, 12]


def test_the_stored_answers_are_what_is_read(teach: Teach, tmp_path: Path) -> None:
    """The control of the one before: with its own fingerprint a wrong file does harm."""
    first = teach("dckd", steps=2, teacher_top_k=5)
    path = tmp_path / "out" / "training" / "teachers-train.safetensors"
    tensors, metadata = load_tensors(path)
    save_tensors(path, {**tensors, "logps": tensors["logps"] - 5}, metadata)
    assert not teach("dckd", steps=2, teacher_top_k=5).steps.equals(first.steps)


def test_a_file_holds_k_words_a_token_and_their_rest(teach: Teach, tmp_path: Path) -> None:
    teach("adpa", steps=1, teacher_top_k=5)
    path = tmp_path / "out" / "training" / "teachers-samples.safetensors"
    tensors, _ = load_tensors(path)
    count = tensors["ids"].shape[0]
    assert tensors["ids"].shape == (count, 10)  # 5 words of each of two teachers
    assert tensors["logps"].shape == (2, count, 10)
    mass = tensors["logps"].exp().sum(-1) + tensors["tail_logps"].exp()
    assert torch.allclose(mass, torch.ones(2, count), atol=1e-5)


# stops


class KilledError(Exception):
    """The process dies here."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("moment", ["pass", "stored", "training"])
def test_killed_and_resumed_equals_undisturbed(
    moment: str,
    name: str,
    lm: LanguageModel,
    pairs: list[dict[str, Any]],
    teachers: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = {
        "dckd": pairs,
        "adpa": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs],
        "bialign": TASKS,
    }[name]
    given = {"teacher": teachers[0]} | ({"ref_teacher": teachers[1]} if name == "adpa" else {})
    config = TrainingConfig(
        batch_size=4,
        steps=3,
        learning_rate=1e-3,
        teacher_top_k=5,
        token_budget=60,
        max_new_tokens=6,
    )

    def go(out: str, **options: Any) -> TrainingResult:
        return train(lm, name, rows, config=config, out=tmp_path / out, **given, **options)

    def die(progress: Any) -> None:
        asks = name != "bialign" or ranked.is_file()  # whose teacher ranks before it is asked
        if moment == "pass" and progress.stage == "reference" and progress.step == 2 and asks:
            raise KilledError
        if moment == "training" and progress.stage == "training" and progress.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def stored_and_dead(*values: Any) -> None:
        save(*values)
        raise KilledError

    ranked = tmp_path / "out" / "training" / "teacher-scores.safetensors"
    save = teacher_cache.store
    with monkeypatch.context() as patch:
        if moment == "stored":
            patch.setattr(teacher_cache, "store", stored_and_dead)
        with pytest.raises((KilledError, InterruptedRun)):
            go("out", progress=die)
    resumed, calm = go("out", resume=True), go("calm")
    assert resumed.steps.equals(calm.steps)
    assert torch.equal(weights(resumed), weights(calm))
    assert resumed.work == calm.work
    folders = [tmp_path / each / "training" for each in ("out", "calm")]
    for path in sorted(folders[1].glob("teacher*.safetensors")):
        assert path.read_bytes() == (folders[0] / path.name).read_bytes(), path.name


def test_ctrl_c_during_the_teachers_pass(
    lm: LanguageModel, pairs: list[dict[str, Any]], teachers: Any, tmp_path: Path
) -> None:
    config = TrainingConfig(batch_size=4, steps=3, token_budget=60, teacher_top_k=5)

    def press(progress: Any) -> None:
        if progress.stage == "reference" and progress.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRun, match="before the first step"):
        train(
            lm,
            "dckd",
            pairs,
            config=config,
            out=tmp_path / "out",
            teacher=teachers[0],
            progress=press,
        )
    assert not [*(tmp_path / "out" / "training").glob("teachers*")]


# the setting


def test_a_cache_without_a_teacher_is_one_line(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="^dpo has no teacher to cache; .* at 0, got 5$"):
        run("dpo", pairs, teacher_top_k=5)
    assert not (tmp_path / "out").exists()


def test_a_size_below_0_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="teacher_top_k must be at least 0, got -1"):
        TrainingConfig(teacher_top_k=-1)


def test_a_resumed_run_needs_the_same_size(teach: Teach) -> None:
    teach("dckd", steps=1, teacher_top_k=5)
    with pytest.raises(UserError, match="another teacher_top_k, 5, got 6"):
        teach("dckd", steps=1, teacher_top_k=6, options={"resume": True})


def test_the_setting_is_reached_from_the_command_line(
    tiny_model_folder: Path, pairs: list[dict[str, Any]], teachers: Any, tmp_path: Path
) -> None:
    import json

    assert chosen_settings("dckd", {"teacher_top_k": "5"}, 0)[1].teacher_top_k == 5
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, pairs)), "utf-8")
    words = ["align", tiny_model_folder, "--objective", "dckd", "--data", data]
    words += ["--teacher", teachers[0].name, "--out", tmp_path / "out", "--device", "cpu"]
    words += ["--set", "teacher_top_k=5", "--set", "steps=2"]
    assert run_words([str(word) for word in words]) == 0
    assert (tmp_path / "out" / "training" / "teachers-train.safetensors").is_file()
