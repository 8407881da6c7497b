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
from trueup.objectives.protocol import Stateful

PROOFS = Path(__file__).resolve().parents[1] / "proofs"

pairs = BATCH | {
    "mean_chosen_length": BATCH["chosen_lengths"].mean(),
    "mean_rejected_length": BATCH["rejected_lengths"].mean(),
    "chosen_teacher_kl": row(3.0, 2.0, 1.0, 4.0),
    "rejected_teacher_kl": row(1.0, 2.5, 1.5, 2.0),
}
completions = {"logps": BATCH["chosen_logps"], "lengths": BATCH["chosen_lengths"]}
labelled = completions | {
    "ref_logps": BATCH["ref_chosen_logps"],
    "labels": torch.tensor([True, False, True, True]),
    "kl": row(0.2)[0],
}
several = torch.stack([BATCH["chosen_logps"], BATCH["rejected_logps"]], dim=1)
many = {
    "sample_logps": several,
    "sample_lengths": torch.stack([BATCH["chosen_lengths"], BATCH["rejected_lengths"]], dim=1),
    "sample_mask": torch.ones(4, 2, dtype=torch.bool),
    "ref_sample_logps": several - 0.5,
}
tokens = {
    "sample_token_logps": torch.stack([several / 4] * 4, dim=2),
    "sample_token_mask": torch.ones(4, 2, 4, dtype=torch.bool),
    "ref_sample_token_logps": torch.stack([several / 4 - 0.1] * 4, dim=2),
    "proposal_token_logps": torch.stack([several / 4] * 4, dim=2),
}
made = {
    "proposal_logps": several,
    "advantages": torch.stack([row(1, -1, 0.5, 2), row(-1, 1, -0.5, -2)], dim=1),
    "target_logscores": several + torch.stack([row(1, 0, 1, 0), row(0, 1, 0, 1)], dim=1),
    "log_z": row(0.1, 0.2, 0.0, 0.1),
    "ranking": torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0]]),
}
BATCHES = {
    "pairs": pairs,
    "routed": BATCH | {"objective_ids": torch.tensor([0, 1, 1, 0])},
    "anchored": BATCH | {
        "baseline_logps": row(-11.0, -28.0, -9.0, -20.0),
        "baseline_lengths": row(9, 24, 7, 18),
    },
    "traces": BATCH
    | {name.replace("chosen", "empty_chosen").replace("rejected", "empty_rejected"): value + 0.25
       for name, value in BATCH.items() if not name.startswith("ref_")}
    | {name.replace("ref_", "ref_empty_"): value + 0.5
       for name, value in BATCH.items() if name.startswith("ref_")}
    | {name: torch.ones(4, dtype=torch.bool) for name in ("trace_mask", "empty_mask")},
    "labelled": labelled,
    "completions": completions,
    "scored": completions | {"mean_ref_logps": row(-1.0, -1.3, -0.9, -1.2)},
    "dispreferred": {key: BATCH[key] for key in BATCH if "rejected" in key} | many,
    "samples": many | tokens | made,
    "imitated": {key: BATCH[key] for key in BATCH if key in ("chosen_logps", "chosen_lengths")}
    | {
        "sample_logps": BATCH["rejected_logps"],
        "sample_lengths": BATCH["rejected_lengths"],
        "sample_advantage": row(0.5, -0.2, 0.1, 0.3),
        "mean_chosen_length": BATCH["chosen_lengths"].mean(),
        "mean_sample_length": BATCH["rejected_lengths"].mean(),
    },
    "demonstrations": many
    | {
        "sequence_logps": BATCH["chosen_logps"],
        "sequence_lengths": BATCH["chosen_lengths"],
        "sequence_teacher_kl": row(3.0, 2.0, 1.0, 4.0),
        "teacher_sample_logps": several + 1,
        "mean_sequence_length": BATCH["chosen_lengths"].mean(),
    },
}  # fmt: skip
LEARNED = (
    "chosen_logps", "rejected_logps", "empty_chosen_logps", "empty_rejected_logps", "logps",
    "sample_logps", "sequence_logps", "sample_token_logps", "chosen_teacher_kl",
    "rejected_teacher_kl", "sample_advantage", "sequence_teacher_kl",
)  # fmt: skip

NEGATIVE_TOO = [("ctrl", "t")]  # fields whose range holds -1

every_objective = pytest.mark.parametrize("name", sorted(OBJECTIVES))
SEPARATE = [name for name, kind in OBJECTIVES.items() if not kind.needs.whole_batch]
ON_GOOD = [
    name
    for name, kind in OBJECTIVES.items()
    if (
        kind.data in ("pairs", "routed", "traces", "labelled", "completions", "scored")
        and kind.data != "completions"
        and name != "generation-aware"  # its bad completions become likelier, too, behind a tag
    )
    or name == "sft"
]


def batch_for(kind: type[Objective]) -> dict[str, Tensor]:
    """What the engine gives for the objective's kind of data and declared needs, nothing else."""
    batch = dict(BATCHES[kind.data])
    if not kind.needs.reference:
        batch = {key: value for key, value in batch.items() if not key.startswith("ref_")}
    if not kind.needs.mismatched:
        batch.pop("kl", None)
    if not kind.needs.mean_length:
        batch = {key: value for key, value in batch.items() if not key.startswith("mean_c")}
    if isinstance(objective(kind.name), Stateful):
        built = objective(kind.name)
        batch |= built.advance(built.start(), batch)[1]
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
    policy = [key for key in batch if key in LEARNED]
    for key in policy:
        batch[key] = batch[key].clone().requires_grad_(True)
    losses, weights = objective(name).loss(batch), objective(name).weights(batch)
    assert losses.shape == weights.shape == (4,)
    assert losses.dtype == weights.dtype == dtype
    assert not weights.requires_grad
    assert (weights > 0).all()
    inputs = [batch[key] for key in policy]
    found = torch.autograd.grad(losses.sum(), inputs, allow_unused=True)
    gradients = [gradient for gradient in found if gradient is not None]
    assert torch.isfinite(losses).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", sorted(SEPARATE))
def test_an_example_does_not_depend_on_its_neighbours(name: str) -> None:
    batch, built = batch_for(OBJECTIVES[name]), objective(name)
    alone = {key: value if value.ndim == 0 else value[1:3] for key, value in batch.items()}
    assert torch.equal(built.loss(alone), built.loss(batch)[1:3])
    assert torch.equal(built.weights(alone), built.weights(batch)[1:3])


@every_objective
def test_weights_know_lengths_and_labels_only(name: str) -> None:
    batch, built = batch_for(OBJECTIVES[name]), objective(name)
    moved = {key: value - 3 if key.endswith("logps") else value for key, value in batch.items()}
    moved |= {key: value + 1 for key, value in batch.items() if key.endswith(("_kl", "advantage"))}
    assert torch.equal(built.weights(batch), built.weights(moved))


@pytest.mark.parametrize("name", sorted(ON_GOOD))
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
        if isinstance(field.default, float) and (name, field.name) not in NEGATIVE_TOO:
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
    registered = module.replace("_", "-")
    assert name == registered or name.startswith(f"{registered}-")
    assert (PROOFS / f"test_{module}.py").is_file()


def test_settings_from_the_command_line_are_read_as_their_types() -> None:
    built = objective("dpo", {"beta": "0.3", "robust": "true", "label_smoothing": "0.1"})
    assert built == DPO(beta=0.3, robust=True, label_smoothing=0.1)


def test_an_instance_passes_through_and_may_be_changed() -> None:
    built = DPO(beta=0.3)
    assert objective(built) == built
    assert objective(built, {"label_smoothing": 0.1}) == DPO(beta=0.3, label_smoothing=0.1)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no objective 'rpoo'; did you mean 'rpo'\? known: adpa, "):
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
