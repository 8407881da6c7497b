"""Where prefixes and documents stand when documents are read as a set, and how keys are turned."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Order = Literal["importance", "reverse", "input"]
ORDERS: tuple[Order, ...] = ("importance", "reverse", "input")


@dataclass(frozen=True)
class Rotation:
    """Rotary positions: the frequencies, and the factor by which cos and sin were scaled.

    Shapes: inv_freq [r / 2]; the first r of d dims are turned, in halves.
    """

    inv_freq: Tensor
    factor: float = 1.0

    def turned(self, vectors: Tensor, steps: Tensor) -> Tensor:
        """Vectors [..., d] turned on by steps [...]; both broadcast."""
        half = len(self.inv_freq)
        wide = torch.promote_types(vectors.dtype, torch.float32)
        angles = steps[..., None].to(wide) * self.inv_freq.to(wide)
        cos, sin = angles.cos(), angles.sin()
        first, second = vectors[..., :half], vectors[..., half : 2 * half]
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        rest = vectors[..., 2 * half :].expand(*turned.shape[:-1], -1)
        return torch.cat([turned.to(vectors.dtype), rest], dim=-1)

    def undone(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """The vectors as they were before they were turned to their positions and scaled."""
        raw = self.turned(vectors, -positions)
        if self.factor == 1.0:
            return raw
        size = 2 * len(self.inv_freq)
        return torch.cat([raw[..., :size] / self.factor, raw[..., size:]], dim=-1)


@dataclass(frozen=True)
class Grid:
    """Where the prefixes and documents of some rows stand, and how documents are ordered.

    Shapes: prefix_lengths [R], doc_lengths [R, n]; a document of length 0 is none.
    Fields: "importance" puts the most important document next to the query, "reverse" the least;
            "input" leaves all where they stand, without stacking. The last is not invariant.
    """

    prefix_lengths: Tensor
    doc_lengths: Tensor
    prefix_width: int
    doc_width: int
    rotation: Rotation
    order: Order = "importance"

    @property
    def n_docs(self) -> int:
        """The number of document blocks."""
        return self.doc_lengths.shape[1]

    @property
    def context_width(self) -> int:
        """Columns before the suffix."""
        return self.prefix_width + self.n_docs * self.doc_width

    @property
    def is_ordered(self) -> bool:
        """Whether documents are moved at all."""
        return self.order != "input" and self.n_docs > 1

    @cached_property
    def prefix_mask(self) -> Tensor:
        """Real prefix tokens, [R, P]."""
        return self.prefix_positions >= 0

    @cached_property
    def prefix_positions(self) -> Tensor:
        """Base positions of the prefixes, [R, P]; below 0 where there is no token."""
        columns = torch.arange(self.prefix_width, device=self.prefix_lengths.device)
        return columns - (self.prefix_width - self.prefix_lengths[:, None])

    @cached_property
    def doc_mask(self) -> Tensor:
        """Real document tokens, [R, n, L]."""
        columns = torch.arange(self.doc_width, device=self.doc_lengths.device)
        return columns >= self.doc_width - self.doc_lengths[..., None]

    @cached_property
    def doc_positions(self) -> Tensor:
        """Base positions of the documents, [R, n, L]: each ends where the suffix begins."""
        columns = torch.arange(self.doc_width, device=self.doc_lengths.device) - self.doc_width
        lengths = self.doc_lengths.cumsum(1) if self.order == "input" else self.doc_lengths.sum(1)
        ends = self.prefix_lengths[:, None] + lengths.reshape(len(lengths), -1)  # [R, n] or [R, 1]
        return (ends[..., None] + columns).expand(*self.doc_mask.shape)

    @cached_property
    def others(self) -> Tensor:
        """Whether documents are not the same one, [n, n]."""
        return ~torch.eye(self.n_docs, dtype=torch.bool, device=self.doc_lengths.device)

    def selected(self, rows: Tensor) -> "Grid":
        """The same of these rows, in this order."""
        return replace(
            self, prefix_lengths=self.prefix_lengths[rows], doc_lengths=self.doc_lengths[rows]
        )
