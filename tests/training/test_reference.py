from pathlib import Path
from typing import Any

import pytest
import torch

from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.training import TrainingConfig, reference, train


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of groups in every reference pass that is really made."""
    made: list[int] = []
    original = reference.completion_logps

    def counted(scoring: Any, groups: Any, **options: Any) -> Any:
        made.append(len(groups))
        return original(scoring, groups, **options)

    monkeypatch.setattr(reference, "completion_logps", counted)
    return made


def with_columns(lm: LanguageModel, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    scores = lm.score(
        [row["prompt"] for row in pairs],
        [[row["chosen"], row["rejected"]] for row in pairs],
        add_eos=True,
    ).logps
    return [
        {**row, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        for row, (chosen, rejected) in zip(pairs, scores, strict=True)
    ]


def test_columns_of_the_data_take_the_place_of_a_pass(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel, passes: list[int]
) -> None:
    computed = run("dpo", pairs, out="computed", steps=4)
    assert passes == [12]
    given = run("dpo", with_columns(lm, pairs), out="given", steps=4)
    assert passes == [12]
    assert list(given.steps["loss"]) == pytest.approx(list(computed.steps["loss"]), abs=1e-5)


@pytest.mark.parametrize("value", [None, "x", 0.5, float("nan"), float("-inf")])
def test_a_bad_reference_column_is_named_with_its_row(
    value: object, run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    rows = with_columns(lm, pairs)
    rows[4]["ref_rejected_logps"] = value
    with pytest.raises(UserError, match="row 5: 'ref_rejected_logps' must be a finite log-prob"):
        run("dpo", rows)


def test_reference_columns_mean_nothing_to_an_objective_without_reference(
    run: Any, pairs: list[dict[str, Any]]
) -> None:
    run("simpo", [{**row, "ref_chosen_logps": "x"} for row in pairs], steps=1)


def test_a_separate_reference_is_what_changes_are_measured_against(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel
) -> None:
    tuned = run("dpo", pairs, out="tuned", steps=6).model
    mark = lm.fingerprint
    steps = run("dpo", pairs, model=tuned, out="second", options={"reference": lm}, steps=1).steps
    assert steps["loss"][0] < 0.6  # not ln 2: the policy has moved away from this reference
    own = run("dpo", pairs, model=tuned, out="third", steps=1).steps
    assert own["loss"][0] == pytest.approx(0.6931471806, abs=1e-6)
    assert lm.fingerprint == mark


def test_the_reference_gets_no_gradient(
    run: Any, pairs: list[dict[str, Any]], lm: LanguageModel, tiny_model_folder: Path
) -> None:
    frozen = load(tiny_model_folder, device="cpu")
    run("dpo", pairs, steps=2, options={"reference": frozen})
    assert all(weight.grad is None for weight in frozen.model.parameters())


def test_a_reference_with_another_vocabulary_is_refused(
    run: Any, pairs: list[dict[str, Any]], tiny_model_folder: Path
) -> None:
    other = load(tiny_model_folder, device="cpu")
    other.tokenizer.add_tokens(["<new>"])
    with pytest.raises(UserError, match="vocabulary differs"):
        run("dpo", pairs, options={"reference": other})


def test_stored_numbers_serve_a_run_that_starts_again(
    run: Any, pairs: list[dict[str, Any]], passes: list[int]
) -> None:
    first = run("dpo", pairs, steps=3)
    again = run("dpo", pairs, steps=3)
    assert passes == [12]
    assert again.steps.equals(first.steps)
    assert again.work == first.work


@pytest.mark.parametrize("change", ["weights", "rows", "cut", "precision", "template"])
def test_stale_numbers_are_never_served(
    change: str,
    run: Any,
    pairs: list[dict[str, Any]],
    lm: LanguageModel,
    passes: list[int],
) -> None:
    run("dpo", pairs, steps=2)
    settings: dict[str, Any] = {"steps": 2}
    if change == "weights":
        with torch.no_grad():
            lm.model.lm_head.weight[7] += 0.1
    elif change == "rows":
        pairs = [{**pairs[0], "chosen": "something else"}, *pairs[1:]]
    elif change == "cut":
        settings["max_length"] = 20
    elif change == "precision":
        settings["precision"] = "bf16"
    else:
        lm.tokenizer.chat_template = "{{ messages }}"
    result = run("dpo", pairs, **settings)
    assert passes == [12, 12]
    assert result.steps["loss"][0] == pytest.approx(0.6931471806, abs=2e-3)


def test_a_reference_file_with_a_foreign_fingerprint_is_not_read(
    run: Any, pairs: list[dict[str, Any]], tmp_path: Path, passes: list[int]
) -> None:
    from trueup.models.tensors import load_tensors, save_tensors

    first = run("dpo", pairs, steps=2)
    path = tmp_path / "out" / "training" / "reference.safetensors"
    tensors, metadata = load_tensors(path)
    wrong = {name: value - 5 for name, value in tensors.items()}
    save_tensors(path, wrong, {**metadata, "fingerprint": "0" * 64})
    assert run("dpo", pairs, steps=2).steps.equals(first.steps)
    assert passes == [12, 12]


def test_kto_scores_mismatched_rows_of_every_step_beforehand(
    run: Any, labelled: list[dict[str, Any]], passes: list[int]
) -> None:
    run("kto", labelled, epochs=2)
    assert passes == [12, 24]


def test_ctrl_c_during_the_reference_pass(
    lm: LanguageModel, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    import os
    import signal

    from trueup.errors import InterruptedRun

    config = TrainingConfig(batch_size=4, steps=3, token_budget=1)

    def press(progress: Any) -> None:
        if progress.stage == "reference" and progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRun, match="before the first step"):
        train(lm, "dpo", pairs, config=config, out=tmp_path / "out", progress=press)
    calm = train(lm, "dpo", pairs, config=config, out=tmp_path / "calm")
    again = train(lm, "dpo", pairs, config=config, out=tmp_path / "out", resume=True)
    assert again.steps.equals(calm.steps)
