"""Several output heads on one trunk, one per objective, and the one head that mixes them."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from trueup.errors import UserError, check_at_least, check_positive, unknown_name
from trueup.models import architecture
from trueup.models.language_model import LanguageModel
from trueup.models.selected_logps import selected_logps
from trueup.models.tensors import read_tensors, save_tensors

FILE = "heads.safetensors"


class MultiHead(nn.Module):
    """Output heads of one shape; a scored token goes through its own objective's head alone.

    Fields: names of the objectives in the order of their numbers; weights, a matrix [V, D] per
            head; biases, a vector [V] per head, or none at all.
    Raises: UserError where names repeat or do not match the matrices.
    Source: MAH-DPO, arXiv 2510.01167. The authors project every row by every head; here a head
            sees its own rows only, which is H times less memory.
    """

    def __init__(
        self, names: Sequence[str], weights: Sequence[Tensor], biases: Sequence[Tensor] = ()
    ) -> None:
        super().__init__()
        if len(set(names)) != len(weights) or len(names) != len(weights) or not names:
            raise UserError(f"{len(weights)} heads need a name each, all different, got {names}")
        self.names = tuple(names)
        self.weights = nn.ParameterList([_own(weight) for weight in weights])
        self.biases = nn.ParameterList([_own(bias) for bias in biases])

    @classmethod
    def started(
        cls, lm: LanguageModel, names: Sequence[str], *, noise: float, generator: torch.Generator
    ) -> "MultiHead":
        """Copies of the model's own head, each with noise * N(0, 1) of its own on the matrix.

        The copies are free of the input embedding, to which the model's head may be tied.

        Raises: UserError where the model's head is more than one product with a matrix.
        """
        check_at_least(0, noise=noise)
        head = architecture.causal_model(lm.model).get_output_embeddings()
        if type(head) is not nn.Linear or not lm.layout.splits_head:
            raise UserError(f"{lm.name}: its output head is not one matrix; it cannot have several")
        weights = []
        for _ in names:
            weight = _own(head.weight).data
            drawn = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            weights.append(weight + noise * drawn.to(weight.device))
        biases = [] if head.bias is None else [head.bias] * len(names)
        return cls(names, weights, biases)

    def forward(self, hidden: Tensor, heads: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """As `head_logps`."""
        return self.head_logps(hidden, heads, source, target)

    def head_logps(self, hidden: Tensor, heads: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Log-probabilities of targets, each under its own head, with gradients.

        Shapes: hidden [S, D]; heads, source, target [N]: the head, the row of `hidden` and the id
                of every scored token -> [N]. Tokens of different heads may share a row.
        Units:  nats, in float32 at least.
        """
        places, parts = [], []
        for number in torch.unique(heads).tolist():
            mine = (heads == number).nonzero()[:, 0]
            rows, own_source = torch.unique(source[mine], return_inverse=True)
            places.append(mine)
            parts.append(self._logps(number, hidden[rows], own_source, target[mine]))
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _logps(self, number: int, hidden: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """The same under one head; a bias is one more column, seen by a state that is 1 there."""
        weight = self.weights[number]
        hidden = hidden.to(weight.dtype)
        if len(self.biases):
            weight = torch.cat([weight, self.biases[number][:, None]], dim=1)
            hidden = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)
        return selected_logps(hidden, weight, source, target)

    def logits(self, number: int, hidden: Tensor) -> Tensor:
        """All logits of one head, [S, D] -> [S, V]."""
        bias = self.biases[number] if len(self.biases) else None
        weight = self.weights[number]
        return nn.functional.linear(hidden.to(weight.dtype), weight, bias)

    @torch.no_grad()
    def merged_head(self, weights: Tensor) -> nn.Linear:
        """One head whose logits are the heads' mixed by `weights` [H], normalised to sum 1."""
        first = self.weights[0]
        shares = (weights / weights.sum()).to(first)
        outputs, inputs = first.shape
        with torch.device("meta"):  # a layer that draws no random start
            head = nn.Linear(inputs, outputs, bias=bool(len(self.biases)))
        head.weight = nn.Parameter(_mixed(shares, self.weights))
        if len(self.biases):
            head.bias = nn.Parameter(_mixed(shares, self.biases))
        return head

    def save(self, folder: Path | str) -> None:
        """Write the heads beside a model's files, as `heads.safetensors`."""
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_tensors(Path(folder) / FILE, tensors, {"names": self.names})

    @classmethod
    def load(cls, folder: Path | str) -> "MultiHead":
        """The heads that `save` wrote, on the CPU.

        Raises: UserError where the folder has none, or the file is damaged.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise UserError(f"{path}: no such file; save the heads beside the model")
        try:
            tensors, header = read_tensors(path)
            names = header["names"]
            several = {
                kind: [tensors[f"{kind}.{place}"] for place in range(len(names))]
                for kind in ("weights", "biases")
                if f"{kind}.0" in tensors
            }
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path}: holds no heads that trueup wrote ({error})") from error
        return cls(names, several["weights"], several.get("biases", ()))


def merge_heads(
    lm: LanguageModel, heads: MultiHead, weights: Mapping[str, float], *, name: str | None = None
) -> LanguageModel:
    """An ordinary language model whose one head mixes the heads' logits by the named weights.

    The given model stays as it is; the new one shares its trunk's weights (an adapter is merged
    into a copy), and its head is tied to nothing.

    Fields: weights are at least 0 and normalised to sum 1; an objective left out weighs 0.
    Raises: UserError where a weight names no head, is negative, or all are 0.
    """
    for objective in weights:
        if objective not in heads.names:
            raise unknown_name("head", objective, heads.names)
    check_at_least(0, **weights)
    shares = torch.tensor([weights.get(each, 0.0) for each in heads.names], dtype=torch.float64)
    check_positive(**{"the sum of the weights": float(shares.sum())})
    model = _copied(lm.model)
    own = model.get_output_embeddings()
    head = heads.merged_head(shares)
    if head.in_features != own.in_features:
        sizes = f"{head.in_features} inputs, the model's own has {own.in_features}"
        raise UserError(f"{lm.name}: these heads are of another model, got {sizes}")
    model.set_output_embeddings(head.to(own.weight))
    _untie(model)
    mix = ",".join(f"{objective}={weight:g}" for objective, weight in weights.items())
    return LanguageModel(model, lm.tokenizer, name=name or f"{lm.name}[{mix}]")


def _own(weight: Tensor) -> nn.Parameter:
    """A copy that may train, float32 where it is narrower: small steps would vanish in it."""
    kept = torch.promote_types(weight.dtype, torch.float32)
    return nn.Parameter(weight.detach().to(kept, copy=True))


def _mixed(shares: Tensor, several: nn.ParameterList) -> Tensor:
    """The weighted sum, one head at a time."""
    total = torch.zeros_like(several[0])
    for share, one in zip(shares, several, strict=True):
        total.add_(one * share)
    return total


def _copied(model: Any) -> Any:
    """The transformers model in new modules around the same weights; an adapter is merged in."""
    if hasattr(model, "peft_config"):
        return copy.deepcopy(model).merge_and_unload()
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def _untie(model: Any) -> None:
    """Tell transformers that the head is tied to nothing, so that it is saved and read apart."""
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
