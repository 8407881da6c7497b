"""Whether a model is what its configuration and weights say: hooks, state dict, residual stream.

D1  hook_findings       hooks on modules, replaced `forward`s, modules of another class
D2  state_findings      keys and shapes other than the configuration builds; other weights
D3  residual_deltas     what each block's successor reads beyond what the block itself computes
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trueup.errors import TrueupError, UserError
from trueup.models import architecture
from trueup.models.residual_stream import blocks_of, states_in

# transformers puts these on every block when hidden states are first asked for, and leaves them
OWN_HOOKS = ("transformers.utils.output_capturing",)
_KINDS = {
    "_forward_hooks": "a forward hook",
    "_forward_pre_hooks": "a forward pre-hook",
    "_backward_hooks": "a backward hook",
    "_backward_pre_hooks": "a backward pre-hook",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be: which check, the module or key, and what."""

    check: Literal["hooks", "state", "residual"]
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name} {self.what}"


@dataclass(frozen=True)
class Inventory:
    """What acts on the modules now, by module name: class, hooks by id, and who put them there.

    Fields: weights, the place and version of every tensor, which in-place changes count up.
    """

    classes: Mapping[str, str]
    hooks: Mapping[tuple[str, str, int], str]
    replaced: frozenset[str]
    weights: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, model: nn.Module) -> "Inventory":
        """The inventory of a model; transformers' own capturing hooks are left out."""
        classes, hooks, replaced = {}, {}, set()
        for name, module in model.named_modules():
            classes[name] = _class_name(module)
            for kind in _KINDS:
                for key, hook in getattr(module, kind).items():
                    if getattr(hook, "__module__", None) not in OWN_HOOKS:
                        hooks[name, kind, key] = _origin(hook)
            if "forward" in vars(module):
                replaced.add(name)
        return cls(classes, hooks, frozenset(replaced), weight_marks(model))


def hook_findings(model: nn.Module, reference: Inventory | None = None) -> list[Finding]:
    """D1: hooks, replaced `forward`s and foreign modules, beyond the reference's.

    Fields: reference is an inventory taken before; without one nothing may be hooked, and modules
            are those that the configuration builds. An adapter (peft) and a model spread over
            devices (accelerate replaces `forward`) are found, as they should be: give a reference.
    """
    now = Inventory.of(model)
    expected = reference or _expected(model)
    return [
        *(
            Finding("hooks", name or "the model", f"has {_KINDS[kind]} from {origin}")
            for (name, kind, key), origin in now.hooks.items()
            if (name, kind, key) not in expected.hooks
        ),
        *(
            Finding("hooks", name or "the model", f"has lost {_KINDS[kind]} from {origin}")
            for (name, kind, key), origin in expected.hooks.items()
            if (name, kind, key) not in now.hooks
        ),
        *(
            Finding("hooks", name or "the model", "has another forward than its class")
            for name in sorted(now.replaced - expected.replaced)
        ),
        *(
            Finding("hooks", name or "the model", _compared(now.classes, expected.classes, name))
            for name in sorted(now.classes.keys() | expected.classes.keys())
            if now.classes.get(name) != expected.classes.get(name)
        ),
    ]


def state_findings(model: nn.Module, reference: Mapping[str, str] | None = None) -> list[Finding]:
    """D2: keys and shapes that the configuration does not build, and hashes unlike a reference's.

    Fields: reference is what `weight_hashes` gave of a clean copy.
    """
    found = []
    state = _state(model)
    built = _state(built_from_config(model))
    for name in sorted(state.keys() | built.keys()):
        if name not in built:
            found.append(Finding("state", name, "is no weight that the configuration builds"))
        elif name not in state:
            found.append(Finding("state", name, "is missing"))
        elif state[name].shape != built[name].shape:
            shapes = tuple(state[name].shape), tuple(built[name].shape)
            found.append(Finding("state", name, f"has the shape {shapes[0]}, not {shapes[1]}"))
    if reference is None:
        return found
    told = {finding.name for finding in found}
    hashes = weight_hashes(model)
    return [
        *found,
        *(
            Finding("state", name, "has other values than the reference")
            for name in sorted(hashes.keys() | reference.keys())
            if name not in told and hashes.get(name) != reference.get(name)
        ),
    ]


def weight_marks(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Place and version of every tensor, which tell in no time whether one was written to."""
    return {
        name: (weight.data_ptr(), weight._version)
        for name, weight in model.state_dict(keep_vars=True).items()
    }


def weight_hashes(model: nn.Module) -> dict[str, str]:
    """SHA-256 of every tensor of the state dict: type, shape and bytes."""
    return {name: _hash(weight) for name, weight in _state(model).items()}


@torch.no_grad()
def residual_deltas(
    model: nn.Module, input_ids: Tensor, reference: nn.Module | None = None
) -> Tensor:
    """D3: what each block's successor reads, minus what the block itself makes of what it read.

    The model must be in eval mode.

    delta_l = x_(l+1) - f_l(x_l), where x_l is read at the block's door, behind all pre-hooks, and
    f_l is the block without hooks: 0 in a clean model, c v behind a steered block
    Shapes: input_ids [R, T] -> [L, R, T, D]; x_L is the last block's output.
    Fields: reference is a clean copy, whose weights f_l then has: it also finds what was folded
            into weights. Without one, the model's own weights are believed.
    """
    arrivals: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    outputs: list[Tensor] = []
    blocks = list(blocks_of(model))
    trusted = list(blocks_of(reference)) if reference is not None else blocks

    def arrive(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arrivals.append((args, kwargs))

    def leave(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        outputs.append(states_in(output))

    with ExitStack() as stack:
        for block in blocks:
            handle = block.register_forward_pre_hook(arrive, with_kwargs=True)
            stack.callback(handle.remove)
        stack.callback(blocks[-1].register_forward_hook(leave).remove)
        architecture.run_trunk(model, {"input_ids": input_ids, "use_cache": False})
    observed = [*(_arrived(*given) for given in arrivals[1:]), outputs[-1]]
    deltas = []
    for block, (args, kwargs), states in zip(trusted, arrivals, observed, strict=True):
        with _bare(block):
            deltas.append(states - states_in(block(*args, **kwargs)))
    return torch.stack(deltas)


def residual_findings(deltas: Tensor, tolerance: float = 0.0) -> list[tuple[Finding, Tensor]]:
    """The layers where something was added, and the mean of it over tokens, [D] each.

    Fields: tolerance is the largest change of a coordinate that is none; a clean model needs none
            but where kernels are not deterministic.
    """
    found = []
    for layer, delta in enumerate(deltas):  # [R, T, D]
        if float(delta.abs().max()) <= tolerance:
            continue
        flat = delta.reshape(-1, delta.shape[-1])
        vector = flat.mean(dim=0)
        spread = float((flat - vector).abs().max())
        size = float(vector.norm())
        is_constant = spread <= 1e-3 * size + tolerance
        how = "the same for every token" if is_constant else "not the same for every token"
        what = f"is followed by an addition of norm {size:.4g}, {how}"
        found.append((Finding("residual", f"block {layer}", what), vector))
    return found


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Prove, behind the block, that hooks, modules and weights are what they were before it.

    Raises: TrueupError where anything is not.
    """
    before = Inventory.of(model)
    try:
        yield
    finally:
        left = hook_findings(model, before)
        now = weight_marks(model)
        changed = sorted(name for name, mark in now.items() if before.weights.get(name) != mark)
        if left or changed:
            what = str(left[0]) if left else f"{changed[0]} was written to"
            raise TrueupError(f"the model is not as it was before it was edited: {what}")


def built_from_config(model: nn.Module) -> nn.Module:
    """The model's architecture without memory for weights, as its configuration builds it."""
    inner = architecture.causal_model(model)
    try:
        with torch.device("meta"):
            built: nn.Module = type(inner)(copy.deepcopy(inner.config))
    except (TypeError, RuntimeError, NotImplementedError) as error:
        name = type(inner).__name__
        raise UserError(f"{name} cannot be built from its configuration: {error}") from error
    return built


def _expected(model: nn.Module) -> Inventory:
    """What the configuration builds: no hook, no replaced `forward`."""
    built = built_from_config(model)
    classes = {name: _class_name(module) for name, module in built.named_modules()}
    return Inventory(classes, {}, frozenset(), {})


def _compared(now: Mapping[str, str], expected: Mapping[str, str], name: str) -> str:
    """How a module's class differs."""
    if name not in expected:
        return f"is {now[name]}, which the configuration does not build"
    return f"is {now[name]}, not {expected[name]}" if name in now else "is missing"


def _class_name(module: nn.Module) -> str:
    """A class as it is imported."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _origin(hook: Any) -> str:
    """Where a hook was written."""
    named = hook if hasattr(hook, "__qualname__") else type(hook)
    return f"{named.__module__}.{named.__qualname__}"


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, of a peft model that of the adapted model."""
    state: dict[str, Tensor] = architecture.causal_model(model).state_dict()
    return state


def _hash(weight: Tensor) -> str:
    """SHA-256 of a tensor."""
    flat = weight.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{weight.dtype}:{tuple(weight.shape)}:".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _arrived(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The states among a block's arguments."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states


@contextmanager
def _bare(block: nn.Module) -> Iterator[None]:
    """The block without hooks and with its classes' own `forward`s."""
    known = []
    for module in block.modules():
        hooks = {kind: getattr(module, kind) for kind in ("_forward_hooks", "_forward_pre_hooks")}
        forward = vars(module).get("forward")
        known.append((module, hooks, forward))
        for kind, own in hooks.items():
            setattr(module, kind, type(own)())
        if forward is not None:
            del module.forward
    try:
        yield
    finally:
        for module, hooks, forward in known:
            for kind, own in hooks.items():
                setattr(module, kind, own)
            if forward is not None:
                module.forward = forward
