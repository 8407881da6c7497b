"""The residual stream of any causal model: read it behind its blocks, change it, put all back.

Layer l is the output of block l and the input of block l + 1; transformers calls it
hidden_states[l + 1].
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from trueup.errors import UserError, check_choice
from trueup.models import architecture

Positions = Literal["all", "generated"]
POSITIONS: tuple[Positions, ...] = ("all", "generated")


class Change(Protocol):
    """What becomes of the states behind a block.

    Fields: is_last, whether it runs behind the hooks that the block has, and not before them.
    """

    is_last: ClassVar[bool]

    @property
    def key(self) -> str:
        """What tells it from another change: a cache of one is none of the other."""
        ...

    def __call__(self, states: Tensor) -> Tensor:
        """The states [R, T, D] that the next block reads."""
        ...


@dataclass(frozen=True, eq=False)
class Add:
    """states + vector.

    It runs before every hook that the block has, so that the hidden states which transformers
    gives show it: those are captured by hooks, too, and a hook behind them would stay unseen.
    Shapes: vector [D].
    """

    vector: Tensor
    is_last: ClassVar[bool] = False
    _copies: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def key(self) -> str:
        """The vector's bytes."""
        return f"add:{_bytes_hash(self.vector)}"

    def __call__(self, states: Tensor) -> Tensor:
        """The sum in the states' type."""
        return states + _like(self.vector, states, self._copies)


@dataclass(frozen=True, eq=False)
class Clamp:
    """states + (clip(p, low, high) - p) * direction, where p = states . direction.

    It runs behind every hook that the block has, so that what others added is held, too.
    Shapes: direction [D], of length 1.
    """

    direction: Tensor
    low: float
    high: float
    is_last: ClassVar[bool] = True
    _copies: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def key(self) -> str:
        """The direction's bytes and the bounds."""
        return f"clamp:{_bytes_hash(self.direction)}:{self.low!r}:{self.high!r}"

    def __call__(self, states: Tensor) -> Tensor:
        """The clamped states; those inside the bounds keep their bits."""
        direction = _like(self.direction, states, self._copies)
        along = states @ direction
        excess = along.clamp(self.low, self.high) - along
        return states + excess[..., None] * direction


class Edit:
    """A change as the forward hook of a block."""

    def __init__(self, layer: int, change: Change, positions: Positions) -> None:
        self.key = f"{layer}:{positions}:{change.key}"
        self._change = change
        self._positions = positions

    def __call__(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """The block's output, changed where the positions say so."""
        states = states_in(output)
        if self._positions == "generated" and not _is_step(states, (*args, *kwargs.values())):
            return output
        changed = self._change(states)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed


def blocks_of(model: Any) -> nn.ModuleList:
    """The transformer's blocks in order.

    Raises: UserError where the trunk has no list of as many modules as its layers.
    """
    return block_list(model)[1]


def block_list(model: Any) -> tuple[nn.Module, nn.ModuleList]:
    """The module that holds the list of blocks, and the list itself."""
    trunk = architecture.trunk_of(model)
    config = architecture.causal_model(model).config
    count = getattr(config.get_text_config(), "num_hidden_layers", 0)
    for parent in trunk.modules():
        for child in parent.children():
            if isinstance(child, nn.ModuleList) and len(child) == count > 0:
                return parent, child
    raise UserError(
        f"{type(trunk).__name__} has no list of {count} blocks to steer or read between"
    )


def check_layer(model: Any, layer: int) -> None:
    """Raise UserError unless the model has such a block."""
    count = len(blocks_of(model))
    if not 0 <= layer < count:
        raise UserError(f"layer must lie between 0 and {count - 1}, got {layer}")


@contextmanager
def edited(model: Any, layer: int, change: Change, positions: Positions = "all") -> Iterator[None]:
    """Change the stream behind block `layer` in every forward pass inside the block.

    Fields: positions "generated" changes passes of one token onto a cache that holds others, which
            is how states decode: neither prompts nor whole texts that are scored. The last token
            of a prompt, which gives the first generated one, is not changed.
    Edges:  leaving, also by an exception, removes the hook; weights are never touched. A decoding
            state that was begun outside holds an unchanged past. With "generated", a kept prefix
            whose rest is one token long takes that token for a generated one.
    Raises: UserError where the model has no such block.
    """
    check_choice(POSITIONS, positions=positions)
    check_layer(model, layer)
    block = blocks_of(model)[layer]
    handle = block.register_forward_hook(
        Edit(layer, change, positions), with_kwargs=True, prepend=not change.is_last
    )
    try:
        yield
    finally:
        handle.remove()


def edits_of(model: Any) -> tuple[str, ...]:
    """The keys of the edits in force, () for a model as it is; a cache's key holds them."""
    return tuple(
        hook.key
        for module in model.modules()
        for hook in module._forward_hooks.values()
        if isinstance(hook, Edit)
    )


@contextmanager
def unedited(model: Any) -> Iterator[None]:
    """The model without the edits in force; other hooks stay. Behind the block they are back."""
    lifted = []
    for module in model.modules():
        hooks = module._forward_hooks
        if any(isinstance(hook, Edit) for hook in hooks.values()):
            lifted.append((module, dict(hooks)))
            for key in [key for key, hook in hooks.items() if isinstance(hook, Edit)]:
                del hooks[key]
    try:
        yield
    finally:
        for module, known in lifted:
            module._forward_hooks.clear()
            module._forward_hooks.update(known)


@contextmanager
def recorded(
    model: Any, take: Callable[[int, Tensor], None], layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Call `take(layer, states [R, T, D])` behind every block, edits included, in each pass."""
    blocks = blocks_of(model)
    with ExitStack() as stack:
        for layer in range(len(blocks)) if layers is None else layers:
            handle = blocks[layer].register_forward_hook(_taker(layer, take))
            stack.callback(handle.remove)
        yield


def states_in(output: Any) -> Tensor:
    """The states of a block's output: a tensor, or the first of a tuple in some architectures."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def final_norm(model: Any) -> nn.Module:
    """The norm between the last block and the output head.

    Raises: UserError where none, or more than one, stands beside the blocks.
    """
    parent, _ = block_list(model)
    found = [
        child
        for name, child in parent.named_children()
        if "norm" in type(child).__name__.lower() and "embed" not in name
    ]
    if len(found) != 1:
        raise UserError(
            f"{type(parent).__name__} has {len(found)} norms beside its blocks, not one final "
            "norm; use space='hidden'"
        )
    return found[0]


def _taker(layer: int, take: Callable[[int, Tensor], None]) -> Callable[..., None]:
    """A hook that only reads."""

    def hook(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        take(layer, states_in(output))

    return hook


def _is_step(states: Tensor, given: Sequence[Any]) -> bool:
    """Whether the pass takes one token per row onto a cache that holds earlier ones."""
    caches = [each for each in given if hasattr(each, "get_seq_length")]
    return states.shape[1] == 1 and any(cache.get_seq_length() > 1 for cache in caches)


def _like(vector: Tensor, states: Tensor, copies: dict[Any, Tensor]) -> Tensor:
    """The vector in the states' type and place, moved there once."""
    kind = states.dtype, states.device
    if kind not in copies:
        copies[kind] = vector.to(states)
    return copies[kind]


def _bytes_hash(vector: Tensor) -> str:
    """SHA-256 of a vector's type and bytes."""
    flat = vector.detach().cpu().contiguous()
    digest = hashlib.sha256(str(flat.dtype).encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
