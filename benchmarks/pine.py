"""One decoding step of one layer over a set of documents: turned queries against turned keys.

The peer does what the paper's description says: for each new token and query head it gives every
document's keys the positions of that head's order and turns the whole cache anew, from keys kept
un-turned. Ours turns the query once per document. Same random tensors in float32, same threads;
equal outputs are asserted on every step, but for heads whose documents tie to rounding. Stock
attention (torch's SDPA) over as many keys stands beside them. Two shapes: a layer of Llama-3-8B,
and the method sheet's small one.

    python benchmarks/pine.py --json
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from _setup import show
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from trueup.models.pine_attention import read_context, suffix_attention
from trueup.models.pine_grid import Grid, Rotation

TIE = 1e-8  # importances nearer than this differ by rounding alone; they are near 1e-3


def main() -> None:
    """Time both on each shape, assert equal outputs, print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--length", type=int, default=60, help="tokens of a document")
    parser.add_argument("--prefix", type=int, default=50)
    parser.add_argument("--own", type=int, default=50, help="tokens of the suffix so far")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30, help="each side's best of so many")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    show([compared(arguments, *shape) for shape in ((32, 8, 128), (8, 8, 64))], arguments.json)


def compared(
    arguments: argparse.Namespace, heads: int, key_heads: int, dims: int
) -> dict[str, object]:
    """One row: the steps of both sides over the same tensors."""
    grid = make_grid(arguments, dims)
    end = grid.context_width
    total = end + arguments.own
    base = torch.cat([grid.prefix_positions[0], grid.doc_positions[0].flatten()])
    base = torch.cat([base, torch.arange(end, total)])
    generator = torch.Generator().manual_seed(0)
    raw, values = torch.randn(2, 1, key_heads, total, dims, generator=generator)
    keys = grid.rotation.turned(raw, base)
    context = read_context(keys[:, :, :end], values[:, :, :end], grid)
    own = keys[:, :, end:].contiguous(), values[:, :, end:].contiguous()
    position, scale = base[-1:][None], dims**-0.5
    mask = torch.ones(1, arguments.own, dtype=torch.bool)
    seconds: dict[str, list[float]] = {"ours": [], "peer": [], "stock": []}
    for _ in range(arguments.steps):
        query = torch.randn(1, heads, 1, dims, generator=generator)
        with timed(seconds["ours"]):
            turned = grid.rotation.turned(query, position[:, None])
            ours = suffix_attention(
                turned, *own, context, grid, scale, positions=position, mask=mask
            )
        with timed(seconds["peer"]):
            peer, gaps = turned_keys(query, raw, values, grid, base)
        with timed(seconds["stock"]):
            scaled_dot_product_attention(turned, keys, values, enable_gqa=True)
        is_sure = gaps > TIE  # of two documents that are equal to rounding either may come first
        assert is_sure.float().mean() > 0.8
        torch.testing.assert_close(ours[:, is_sure], peer[:, is_sure], atol=1e-5, rtol=0)
    best = {name: min(times) for name, times in seconds.items()}
    return {
        "what": f"one step, {arguments.documents} documents of {arguments.length} tokens, {heads} "
        f"query and {key_heads} key heads of {dims}, float32, {arguments.threads} threads",
        **{f"{name}_seconds": value for name, value in best.items()},
        "ratio": best["peer"] / best["ours"],
        "ours_over_stock": best["ours"] / best["stock"],
    }


def make_grid(arguments: argparse.Namespace, dims: int) -> Grid:
    """One row of a prefix and documents of one length."""
    return Grid(
        prefix_lengths=torch.tensor([arguments.prefix]),
        doc_lengths=torch.full((1, arguments.documents), arguments.length),
        prefix_width=arguments.prefix,
        doc_width=arguments.length,
        rotation=Rotation(10000.0 ** -(torch.arange(0, dims, 2) / dims)),
    )


def turned_keys(
    query: Tensor, raw: Tensor, values: Tensor, grid: Grid, base: Tensor
) -> tuple[Tensor, Tensor]:
    """The step with every key turned anew for every query head; how near its documents come."""
    heads, key_heads, scale = query.shape[1], raw.shape[1], query.shape[-1] ** -0.5
    documents = raw[0, :, grid.prefix_width : grid.context_width]  # [N, n L, d]
    grouped = query[0, :, 0].unflatten(0, (key_heads, -1))  # [N, G, d]
    shares = torch.softmax((grouped @ documents.mT).flatten(0, 1) * scale, dim=-1)
    importance = shares.unflatten(1, (grid.n_docs, -1)).mean(-1)  # [H, n]
    order = importance.argsort(descending=True, stable=True)
    ranks = order.argsort()  # [H, n]
    positions = base.expand(heads, -1).clone()  # [H, T]
    moved = positions[:, grid.prefix_width : grid.context_width]
    moved -= (ranks * grid.doc_width).repeat_interleave(grid.doc_width, dim=1)
    repeated = raw[0].repeat_interleave(heads // key_heads, dim=0)
    keys = grid.rotation.turned(repeated, positions)[None]
    turned = grid.rotation.turned(query, base[-1:])
    repeated_values = values.repeat_interleave(heads // key_heads, dim=1)
    gaps = importance.sort(dim=-1).values.diff(dim=-1).amin(dim=-1)
    return scaled_dot_product_attention(turned, keys, repeated_values), gaps


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """The block's time goes on the list."""
    started = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - started)


if __name__ == "__main__":
    main()
