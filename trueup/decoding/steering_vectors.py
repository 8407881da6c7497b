"""Steering vectors: from pairs of answers to a layer and a direction in the residual stream."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors
import torch
from torch import Tensor

from trueup.data import Table, read
from trueup.errors import UserError, check_choice
from trueup.files import content_hash
from trueup.models import architecture
from trueup.models.end_states import end_states, token_projections
from trueup.models.language_model import LanguageModel
from trueup.models.prefix_tree import Group
from trueup.models.residual_stream import blocks_of, check_layer, final_norm, unedited
from trueup.models.tensors import read_tensors, save_tensors

Space = Literal["hidden", "logit_lens"]
Candidates = Literal["first-half", "all"]
Layer = int | Literal["auto"]
Pairs = str | Path | Sequence[Mapping[str, Any]] | Table

SCHEMA = 1
TAILS = (0.01, 0.99)  # of the clean projections, where a clamp holds
_SIDES = {"chosen": "aligned", "rejected": "contrast"}


@dataclass(frozen=True, eq=False)
class LayerSearch:
    """What the pairs say of every layer.

    Shapes: vectors [L, D], the mean differences; js [L], nats; typical_norms [L], the median norm
            of a token.
    Fields: layer is the one of `candidates` where js is largest, the lower one in a tie.
    """

    vectors: Tensor
    js: Tensor
    typical_norms: Tensor
    n_pairs: int
    candidates: range
    space: Space

    @property
    def layer(self) -> int:
        """The layer that tells the sides apart best."""
        return max(self.candidates, key=lambda layer: (float(self.js[layer]), -layer))

    def __str__(self) -> str:
        told = "  ".join(f"{layer}: {float(self.js[layer]):.4f}" for layer in self.candidates)
        return f"layer {self.layer} of {len(self.js)}; JS in nats over {self.n_pairs} pairs: {told}"


@dataclass(frozen=True, eq=False, kw_only=True)
class SteeringVector:
    """A direction behind one block, which points from contrast to aligned.

    Shapes: direction [D], the mean difference of the pairs; strength 1 adds all of it.
    Fields: layer l is the stream behind block l; strength is how much is added where nothing else
            is said; model_fingerprint is that of the model it belongs to; typical_norm is the
            median norm of that model's tokens there; low and high hold 98 % of the clean
            projections on the direction's unit vector, None where nobody asked `with_range`.
    """

    layer: int
    direction: Tensor
    model_fingerprint: str
    strength: float = 1.0
    typical_norm: float = math.nan
    n_pairs: int = 0
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return (
            f"layer {self.layer}  norm {self.norm:.4g}  strength {self.strength:g}, "
            f"{self.relative_norm():.3f} of a token's norm  n={self.n_pairs}"
        )

    def __repr__(self) -> str:
        return f"SteeringVector({self})"

    @property
    def fingerprint(self) -> str:
        """A hash of all of it."""
        told = [repr(getattr(self, name)) for name in _TOLD]
        return content_hash(self.direction.numpy().tobytes(), *told)

    @property
    def norm(self) -> float:
        """The direction's length."""
        return float(self.direction.norm())

    def relative_norm(self, strength: float | None = None) -> float:
        """|strength| ||direction|| / median_t ||h_t||: comparable between models and layers."""
        chosen = self.strength if strength is None else strength
        return abs(chosen) * self.norm / self.typical_norm

    def with_strength(self, strength: float) -> "SteeringVector":
        """The same with another strength of its own."""
        return replace(self, strength=strength)

    def with_range(self, lm: LanguageModel, pairs: Pairs) -> "SteeringVector":
        """The same with the clean range of projections, over all tokens of the aligned answers."""
        groups = [Group(each.prompt, each.completions[:1]) for each in pair_groups(lm, pairs)]
        unit = self.direction / self.direction.norm()
        with unedited(lm.model):
            along = token_projections(lm, groups, self.layer, unit)
        low, high = torch.quantile(along, torch.tensor(TAILS, dtype=along.dtype)).tolist()
        return replace(self, low=low, high=high)

    def save(self, path: Path | str) -> None:
        """Write the direction as safetensors and all else as JSON in its header."""
        told = {name: getattr(self, name) for name in _TOLD}
        save_tensors(Path(path), {"direction": self.direction}, {"schema": SCHEMA, **told})

    @classmethod
    def load(cls, path: Path | str) -> "SteeringVector":
        """A vector as `save` wrote it.

        Raises: UserError where the file holds none.
        """
        try:
            tensors, told = read_tensors(Path(path))
            if told["schema"] != SCHEMA:
                raise ValueError(f"schema {told['schema']}, not {SCHEMA}")
            direction = tensors["direction"]
            if direction.ndim != 1 or not bool(direction.isfinite().all()):
                raise ValueError(f"a direction of the shape {tuple(direction.shape)}")
            return cls(direction=direction, **{name: told[name] for name in _TOLD})
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise UserError(f"{path}: is no steering vector ({error})") from error

    @classmethod
    def from_pairs(
        cls,
        lm: LanguageModel,
        pairs: Pairs,
        *,
        layer: Layer = "auto",
        space: Space = "hidden",
        candidates: Candidates = "first-half",
    ) -> "SteeringVector":
        """The mean difference of the pairs at a layer, by default that of `search_layers`.

        Raises: UserError as `search_layers`, where the model has no such layer, or where the
                answers of every pair end in equal states.
        """
        if layer != "auto":
            check_layer(lm.model, layer)
        found = search_layers(lm, pairs, space=space, candidates=candidates)
        chosen = found.layer if layer == "auto" else layer
        direction = found.vectors[chosen]
        if not bool(direction.any()):
            raise UserError(f"aligned and contrast answers end in equal states in layer {chosen}")
        with unedited(lm.model):
            fingerprint = lm.fingerprint
        return cls(
            layer=chosen,
            direction=direction,
            model_fingerprint=fingerprint,
            typical_norm=float(found.typical_norms[chosen]),
            n_pairs=found.n_pairs,
        )


_TOLD = ("layer", "model_fingerprint", "strength", "typical_norm", "n_pairs", "low", "high")


def steering_vector(aligned: Tensor, contrast: Tensor) -> Tensor:
    """Mean over pairs of (aligned - contrast): [N, ..., D] in, [..., D] out."""
    return (aligned - contrast).mean(dim=0)


def contrastive_js(aligned: Tensor, contrast: Tensor) -> Tensor:
    """Jensen-Shannon divergence between softmax(aligned) and softmax(contrast), per pair.

    JS = (KL(p || m) + KL(q || m)) / 2,   m = (p + q) / 2
    Shapes: [N, ..., D] in, [N, ...] out.   Units: nats, between 0 and ln 2.   Reduced: no.
    Edges:  equal states give 0.
    """
    first, second = (torch.log_softmax(side, dim=-1) for side in (aligned, contrast))
    of_first = (first.exp() * _log_mean_ratio(second - first)).sum(dim=-1)
    of_second = (second.exp() * _log_mean_ratio(first - second)).sum(dim=-1)
    return (-(of_first + of_second) / 2).clamp(0, math.log(2))


def search_layers(
    lm: LanguageModel,
    pairs: Pairs,
    *,
    space: Space = "hidden",
    candidates: Candidates = "first-half",
) -> LayerSearch:
    """Where aligned and contrast answers differ most, and how.

    JS_l = mean over pairs of `contrastive_js` of the states at the answers' last tokens
    Fields: space "hidden" compares softmaxes over the coordinates, which is the paper's;
            "logit_lens" those over the vocabulary, final norm and output head applied, without
            what an architecture does to logits besides. candidates "first-half" are blocks 0 to
            L // 2, as in the authors' code.
    Work:   each prompt once for both answers, each answer once; sums are kept, no states. Edits in
            force are lifted meanwhile.
    Raises: UserError where the data is wrong or a pair is longer than the context.
    Source: arXiv 2311.09433. The authors' code calls JS what is no divergence; this is one.
    """
    check_choice(get_args(Space), space=space)
    check_choice(get_args(Candidates), candidates=candidates)
    groups = pair_groups(lm, pairs)
    count = len(blocks_of(lm.model))
    differences: Tensor | float = 0.0
    js: Tensor | float = 0.0
    norms = []
    with unedited(lm.model):
        for part in end_states(lm, groups):
            states = torch.unflatten(part.states.double(), 0, (-1, 2))  # [n, 2, L, D]
            differences = differences + steering_vector(states[:, 0], states[:, 1]) * len(states)
            read_out = _vocabulary(lm, states) if space == "logit_lens" else states
            js = js + contrastive_js(read_out[:, 0], read_out[:, 1]).sum(dim=0)
            norms.append(part.token_norms)
    assert isinstance(differences, Tensor)
    assert isinstance(js, Tensor)
    return LayerSearch(
        vectors=differences / len(groups),
        js=js / len(groups),
        typical_norms=torch.quantile(torch.cat(norms, dim=1).double(), 0.5, dim=1),
        n_pairs=len(groups),
        candidates=range(count if candidates == "all" else min(count, count // 2 + 1)),
        space=space,
    )


def read_pairs(pairs: Pairs) -> Table:
    """Pairs as `prompt, chosen, rejected`; `aligned, contrast` are read as these two.

    Raises: UserError with the place of what is missing or wrong.
    """
    table = read(pairs)
    if not {"aligned", "contrast"} & set(table.columns):
        return read(table, "pairs")
    table = read(table, columns=("prompt", *_SIDES.values()))
    rows = [
        {"prompt": row["prompt"], **{name: row[own] for name, own in _SIDES.items()}}
        for row in table
    ]
    return read(
        Table(rows=rows, source=table.source, numbers=table.numbers, unit=table.unit), "pairs"
    )


def pair_groups(lm: LanguageModel, pairs: Pairs) -> list[Group]:
    """A group per pair: the prompt, the aligned answer, the contrast answer."""
    table = read_pairs(pairs)
    return lm.encoder.groups(
        [row["prompt"] for row in table], [(row["chosen"], row["rejected"]) for row in table]
    )


def _log_mean_ratio(log_ratio: Tensor) -> Tensor:
    """log((1 + exp(log_ratio)) / 2), exactly 0 at 0 and finite for large ones."""
    return log_ratio.clamp_min(0) + torch.log1p(torch.expm1(-log_ratio.abs()) / 2)


@torch.no_grad()
def _vocabulary(lm: LanguageModel, states: Tensor) -> Tensor:
    """The states as the output head would read them in every layer, [..., D] -> [..., V]."""
    norm = final_norm(lm.model)
    head = architecture.causal_model(lm.model).get_output_embeddings()
    inputs = states.to(lm.device, architecture.dtype_of(lm.model))
    logits: Tensor = head(norm(inputs)).double().cpu()
    return logits
