"""What every registered objective owes: defaults, shapes, gradients, errors, paper, proof."""

import dataclasses
import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.proofs.dpo_family import BATCH, row
from trueup.errors import UserError
from trueup.objectives import OBJECTIVES, Needs, Objective, objective
from trueup.objectives.dpo import DPO

PROOFS = Path(__file__).resolve().parents[1] / "proofs"

pairs = BATCH | {"mean_chosen_length": BATCH["chosen_lengths"].mean()}
labelled = {
    "logps": BATCH["chosen_logps"],
    "ref_logps": BATCH["ref_chosen_logps"],
    "lengths": BATCH["chosen_lengths"],
    "labels": torch.tensor([True, False, True, True]),
    "kl": row(0.2)[0],
}
completions = {"logps": BATCH["chosen_logps"], "lengths": BATCH["chosen_lengths"]}
BATCHES = {"pairs": pairs, "labelled": labelled, "completions": completions}

every_objective = pytest.mark.parametrize("name", sorted(OBJECTIVES))


def batch_for(kind: type[Objective]) -> dict[str, Tensor]:
    """What the engine gives for the objective's kind of data and declared needs, nothing else."""
    batch = dict(BATCHES[kind.data])
    if not kind.needs.reference:
        batch = {key: value for key, value in batch.items() if not key.startswith("ref_")}
    if not kind.needs.mismatched:
        batch.pop("kl", None)
    if not kind.needs.mean_length:
        batch.pop("mean_chosen_length", None)
    return batch


@every_objective
def test_defaults_build(name: str) -> None:
    assert isinstance(objective(name), OBJECTIVES[name])
    assert OBJECTIVES[name].name == name


@every_objective
def test_is_frozen(name: str) -> None:
    built = objective(name)
    field = dataclasses.fields(built)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(built, field, 1.0)


@every_objective
def test_declares_itself(name: str) -> None:
    kind = OBJECTIVES[name]
    assert kind.data in BATCHES
    assert isinstance(kind.needs, Needs)
    assert re.fullmatch(r"\d{4}\.\d{5}", kind.arxiv)


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_finite_loss_per_example_with_finite_gradients(name: str, dtype: torch.dtype) -> None:
    batch = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in batch_for(OBJECTIVES[name]).items()
    }
    policy = [key for key in batch if key in ("chosen_logps", "rejected_logps", "logps")]
    for key in policy:
        batch[key] = batch[key].clone().requires_grad_(True)
    losses, weights = objective(name).loss(batch), objective(name).weights(batch)
    assert losses.shape == weights.shape == (4,)
    assert losses.dtype == weights.dtype == dtype
    assert not weights.requires_grad
    assert (weights > 0).all()
    gradients = torch.autograd.grad(losses.sum(), [batch[key] for key in policy])
    assert torch.isfinite(losses).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


@every_objective
def test_an_example_does_not_depend_on_its_neighbours(name: str) -> None:
    batch, built = batch_for(OBJECTIVES[name]), objective(name)
    alone = {key: value if value.ndim == 0 else value[1:3] for key, value in batch.items()}
    assert torch.equal(built.loss(alone), built.loss(batch)[1:3])
    assert torch.equal(built.weights(alone), built.weights(batch)[1:3])


@every_objective
def test_weights_know_lengths_and_labels_only(name: str) -> None:
    batch, built = batch_for(OBJECTIVES[name]), objective(name)
    moved = {key: value - 3 if key.endswith("logps") else value for key, value in batch.items()}
    assert torch.equal(built.weights(batch), built.weights(moved))


@every_objective
def test_a_likelier_good_completion_costs_less(name: str) -> None:
    batch, built = batch_for(OBJECTIVES[name]), objective(name)
    key = "chosen_logps" if "chosen_logps" in batch else "logps"
    better = built.loss(batch | {key: batch[key] + 0.01})
    good = batch.get("labels", torch.ones(4, dtype=torch.bool))
    if name.startswith("ipo"):  # a squared distance: all margins here are short of it
        assert (better < built.loss(batch))[:3].all()
    else:
        assert torch.equal(better < built.loss(batch), good)


@every_objective
def test_an_unknown_field_is_refused_with_the_known_ones(name: str) -> None:
    fields = ", ".join(field.name for field in dataclasses.fields(OBJECTIVES[name]))
    message = f"{name} has no field 'bta'; known: {fields}"
    with pytest.raises(UserError, match=re.escape(message)):
        objective(name, {"bta": "0.1"})


@every_objective
def test_numbers_out_of_range_are_refused(name: str) -> None:
    for field in dataclasses.fields(OBJECTIVES[name]):
        if isinstance(field.default, float):
            with pytest.raises(UserError, match=f"{field.name} must"):
                objective(name, {field.name: -1.0})
            with pytest.raises(UserError, match=f"{field.name} must"):
                objective(name, {field.name: "nan"})


@every_objective
def test_the_docstring_names_the_paper(name: str) -> None:
    kind = OBJECTIVES[name]
    assert kind.arxiv in (kind.__doc__ or "")


@every_objective
def test_file_and_proof_carry_the_methods_name(name: str) -> None:
    module = OBJECTIVES[name].__module__.rsplit(".", 1)[-1]
    assert name == module or name.startswith(f"{module}-")
    assert (PROOFS / f"test_{module}.py").is_file()


def test_settings_from_the_command_line_are_read_as_their_types() -> None:
    built = objective("dpo", {"beta": "0.3", "robust": "true", "label_smoothing": "0.1"})
    assert built == DPO(beta=0.3, robust=True, label_smoothing=0.1)


def test_an_instance_passes_through_and_may_be_changed() -> None:
    built = DPO(beta=0.3)
    assert objective(built) == built
    assert objective(built, {"label_smoothing": 0.1}) == DPO(beta=0.3, label_smoothing=0.1)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no objective 'rpoo'; did you mean 'rpo'\? known: dpo, "):
        objective("rpoo")


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, 0.7])
def test_label_smoothing_stays_below_half(smoothing: float) -> None:
    with pytest.raises(UserError, match=r"label_smoothing must be at least 0 and below 0\.5"):
        DPO(label_smoothing=smoothing)


def test_length_normalised_dpo_knows_no_noise() -> None:
    with pytest.raises(UserError, match="drop one"):
        DPO(length_normalized=True, robust=True)


def plugged(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    point = EntryPoint(name="theirs", value=value, group="trueup.objectives")
    monkeypatch.setattr("trueup.objectives.entry_points", lambda group: [point])


def test_other_packages_add_objectives(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged(monkeypatch, "trueup.objectives.hinge:Hinge")
    assert objective("theirs", {"beta": 0.4}).beta == 0.4


def test_a_broken_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged(monkeypatch, "no_such_package:Loss")
    with pytest.raises(UserError, match="no_such_package:Loss: objective 'theirs' cannot be"):
        objective("theirs")
