"""The streamed divergences are the dense ones, with their gradients, and keep no logits."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trueup.models.token_divergence import (
    SparseLogps,
    at_ids,
    sparse_head,
    sparse_head_pair,
    sparse_teacher_advantage,
    sparse_teacher_kl,
    teacher_advantage,
    teacher_kl,
    to_sparse,
    to_sparse_pair,
)

S, V = 7, 11  # positions, words
Heads = tuple[Tensor, ...]


def heads(dtype: torch.dtype = torch.float64, *, positions: int = S, words: int = V) -> Heads:
    """Hidden states and head of policy, teacher and reference; the policy asks for gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(positions, 4), (words, 4), (positions, 5), (words, 5), (positions, 3), (words, 3)]
    made = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    return tuple(value.to(dtype).requires_grad_(at < 2) for at, value in enumerate(made))


def logps(inputs: Heads) -> list[Tensor]:
    """Log-probabilities of policy, teacher and reference, [S, V] each."""
    logits = [inputs[at] @ inputs[at + 1].T for at in (0, 2, 4)]
    return [
        (value if value.dtype == torch.float64 else value.float()).log_softmax(-1)
        for value in logits
    ]


def dense_kl(inputs: Heads) -> Tensor:
    own, teacher, _ = logps(inputs)
    return (teacher.exp() * (teacher - own)).sum(-1)


def dense_advantage(inputs: Heads) -> Tensor:
    own, teacher, reference = logps(inputs)
    return (own.exp() * (teacher - reference)).sum(-1)


def streamed_kl(inputs: Heads, chunk: int = 3) -> Tensor:
    return teacher_kl(*inputs[:4], chunk=chunk)


def streamed_advantage(inputs: Heads, chunk: int = 3) -> Tensor:
    return teacher_advantage(*inputs, chunk=chunk)


def sparse_kl(inputs: Heads, k: int, chunk: int = 3) -> Tensor:
    return sparse_teacher_kl(*inputs[:2], to_sparse(logps(inputs)[1], k), chunk=chunk)


def sparse_advantage(inputs: Heads, k: int, chunk: int = 3) -> Tensor:
    _, teacher, reference = logps(inputs)
    return sparse_teacher_advantage(
        *inputs[:2], *to_sparse_pair(teacher, reference, k), chunk=chunk
    )


def k_is_v(of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda inputs, chunk=3: of(inputs, V, chunk)


both = pytest.mark.parametrize(
    ("streamed", "dense"),
    [(streamed_kl, dense_kl), (streamed_advantage, dense_advantage)],
    ids=["kl", "advantage"],
)
every_form = pytest.mark.parametrize(
    ("streamed", "dense"),
    [
        (streamed_kl, dense_kl),
        (streamed_advantage, dense_advantage),
        (k_is_v(sparse_kl), dense_kl),
        (k_is_v(sparse_advantage), dense_advantage),
    ],
    ids=["kl", "advantage", "sparse-kl", "sparse-advantage"],
)


@every_form
@pytest.mark.parametrize("chunk", [1, 3, S, 100])
def test_equals_the_dense_formula_with_its_gradients(streamed: Any, dense: Any, chunk: int) -> None:
    inputs, weights = heads(), torch.linspace(-1, 2, S, dtype=torch.float64)
    found, expected = streamed(inputs, chunk), dense(inputs)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    ours = torch.autograd.grad(found, inputs[:2], weights)
    theirs = torch.autograd.grad(expected, inputs[:2], weights)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_the_two_divergences_and_the_reverse_one_differ() -> None:
    inputs = heads()
    own, teacher, _ = logps(inputs)
    reverse = (own.exp() * (own - teacher)).sum(-1)
    assert (streamed_kl(inputs) - reverse).abs().max() > 0.1
    assert (streamed_kl(inputs) - streamed_advantage(inputs)).abs().max() > 0.1


@pytest.mark.parametrize(
    "form",
    [
        streamed_kl,
        streamed_advantage,
        lambda inputs: sparse_kl((*inputs[:2], *heads()[2:]), 4),
        lambda inputs: sparse_advantage((*inputs[:2], *heads()[2:]), 2),
    ],
    ids=["kl", "advantage", "sparse-kl", "sparse-advantage"],
)
def test_gradients_pass_gradcheck(form: Any) -> None:
    inputs = heads()
    frozen = inputs[2:]
    assert torch.autograd.gradcheck(lambda h, w: form((h, w, *frozen)), inputs[:2])


@both
def test_a_wrong_gradient_would_be_seen(streamed: Any, dense: Any) -> None:
    inputs = heads()
    found = torch.autograd.grad(streamed(inputs).sum(), inputs[:2])
    other = torch.autograd.grad(-dense(inputs).sum(), inputs[:2])
    assert all((a - b).abs().max() > 0.1 for a, b in zip(found, other, strict=True))


@both
def test_the_teacher_gets_no_gradient(streamed: Any, dense: Any) -> None:
    inputs = tuple(value.detach().requires_grad_() for value in heads())
    streamed(inputs).sum().backward()
    assert all(value.grad is not None for value in inputs[:2])
    assert all(value.grad is None for value in inputs[2:])
    teachers = torch.autograd.grad(dense(inputs).sum(), inputs[2:4])
    assert teachers[0].abs().max() > 0.1  # which the plain formula would have given


@both
def test_a_head_without_gradient_is_spared(streamed: Any, dense: Any) -> None:
    inputs = list(heads())
    inputs[1] = inputs[1].detach()
    (found,) = torch.autograd.grad(streamed(tuple(inputs)).sum(), inputs[:1])
    (expected,) = torch.autograd.grad(dense(tuple(inputs)).sum(), inputs[:1])
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@both
def test_a_second_backward_pass_gives_the_same_gradients(streamed: Any, dense: Any) -> None:
    inputs = heads()
    result = streamed(inputs).sum()
    first = torch.autograd.grad(result, inputs[:2], retain_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(result, inputs[:2]), atol=0, rtol=0)


@both
def test_no_positions_give_nothing(streamed: Any, dense: Any) -> None:
    inputs = heads(positions=0)
    result = streamed(inputs)
    assert result.shape == (0,)
    assert torch.autograd.grad(result.sum(), inputs[1])[0].abs().sum() == 0


@both
def test_bfloat16_is_summed_in_float32(streamed: Any, dense: Any) -> None:
    inputs = heads(torch.bfloat16)
    result, expected = streamed(inputs), dense(inputs)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)
    result.sum().backward()
    assert inputs[1].grad is not None
    assert inputs[1].grad.dtype == torch.bfloat16


def test_gradients_of_the_head_are_summed_in_float32() -> None:
    # 512 chunks that each add 1 / 256 of the first: in bfloat16 the sum would stand still
    positions = 512
    hidden = torch.ones(positions, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.tensor([[8.0], [-8.0]], dtype=torch.bfloat16)
    scale = torch.full((positions,), 1 / 256)
    scale[0] = 2.0
    teacher_kl(hidden, weight, hidden, teacher, chunk=1).backward(scale)
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == pytest.approx([-2.0, 2.0], rel=0.01)


@both
def test_autocast_computes_products_in_half_and_all_else_in_float32(
    streamed: Any, dense: Any
) -> None:
    inputs = heads(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = streamed(inputs)
    half = streamed(tuple(value.detach().bfloat16() for value in inputs))
    torch.testing.assert_close(result, half, atol=0, rtol=0)
    result.sum().backward()
    expected = torch.autograd.grad(dense(inputs).sum(), inputs[:2])
    for value, exact in zip(inputs[:2], expected, strict=True):
        assert value.grad is not None
        assert value.grad.dtype == torch.float32
        torch.testing.assert_close(value.grad, exact, atol=0.1, rtol=0.05)


# memory


class Alive(TorchDispatchMode):
    """The largest tensor with a vocabulary axis, and the most such elements alive at once."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words, self.largest, self.now, self.peak, self.seen = words, 0, 0, 0, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] == self.words:
                self.count(value)
        return out

    def count(self, value: Tensor) -> None:
        self.largest = max(self.largest, value.numel())
        place = value.untyped_storage().data_ptr()
        if place not in self.seen:  # else a view, or an operation in place
            self.seen.add(place)
            self.now += value.numel()
            self.peak = max(self.peak, self.now)
            weakref.finalize(value, self.free, place, value.numel())

    def free(self, place: int, size: int) -> None:
        self.seen.discard(place)
        self.now -= size


WORDS, CHUNK, POSITIONS = 97, 8, 128


def alive(of: Any, positions: int = POSITIONS) -> Alive:
    inputs = heads(positions=positions, words=WORDS)
    caches = to_sparse_pair(*logps(inputs)[1:], 5)
    watch = Alive(WORDS)
    with watch:
        of(inputs, caches).sum().backward()
    return watch


forms = pytest.mark.parametrize(
    "form",
    [
        lambda inputs, _: streamed_kl(inputs, CHUNK),
        lambda inputs, _: streamed_advantage(inputs, CHUNK),
        lambda inputs, caches: sparse_teacher_kl(*inputs[:2], caches[0], chunk=CHUNK),
        lambda inputs, caches: sparse_teacher_advantage(*inputs[:2], *caches, chunk=CHUNK),
    ],
    ids=["kl", "advantage", "sparse-kl", "sparse-advantage"],
)


@forms
def test_logits_live_for_one_chunk_forward_and_backward(form: Any) -> None:
    watch = alive(form)
    assert watch.largest == CHUNK * WORDS
    assert watch.peak <= 7 * CHUNK * WORDS  # of two or three models, with what is made of them


@both
def test_the_dense_formula_would_fail_that_bound(streamed: Any, dense: Any) -> None:
    watch = alive(lambda inputs, _: dense(inputs))
    assert watch.largest == POSITIONS * WORDS > 7 * CHUNK * WORDS


@forms
def test_what_lives_does_not_grow_with_the_positions(form: Any) -> None:
    assert alive(form, POSITIONS // 4).peak == alive(form).peak


# caches


def test_a_cache_and_its_tail_make_up_the_whole() -> None:
    teacher = logps(heads())[1]
    cache = to_sparse(teacher, 4)
    mass = cache.logps.exp().sum(-1) + cache.tail_logps.exp()
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-12, rtol=0)
    assert torch.equal(cache.logps, teacher.topk(4).values)


def alike(first: SparseLogps, second: SparseLogps) -> None:
    assert torch.equal(first.ids, second.ids)
    torch.testing.assert_close(first.logps, second.logps, atol=1e-12, rtol=0)
    torch.testing.assert_close(first.tail_logps, second.tail_logps, atol=1e-12, rtol=0)


@pytest.mark.parametrize("chunk", [1, 3, S, 100])
def test_a_cache_is_made_chunk_by_chunk(chunk: int) -> None:
    inputs = heads()
    _, teacher, reference = logps(inputs)
    alike(sparse_head(*inputs[2:4], k=4, chunk=chunk), to_sparse(teacher, 4))
    pair = sparse_head_pair(*inputs[2:], k=3, chunk=chunk)
    for found, expected in zip(pair, to_sparse_pair(teacher, reference, 3), strict=True):
        alike(found, expected)


@pytest.mark.parametrize("models", [1, 2])
def test_making_a_cache_keeps_no_logits_but_a_chunk_of_them(models: int) -> None:
    peaks = []
    for positions in (POSITIONS // 4, POSITIONS):
        inputs = heads(positions=positions, words=WORDS)[2:]
        with Alive(WORDS) as watch:
            if models == 1:
                sparse_head(*inputs[:2], k=5, chunk=CHUNK)
            else:
                sparse_head_pair(*inputs, k=5, chunk=CHUNK)
        assert watch.largest == CHUNK * WORDS
        peaks.append(watch.peak)
    assert peaks[0] == peaks[1] <= 7 * CHUNK * WORDS


def test_a_cache_made_under_autocast_is_summed_in_float32() -> None:
    inputs = heads(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache = sparse_head(*inputs[2:4], k=4)
    assert cache.logps.dtype == torch.float32
    mass = cache.logps.exp().sum(-1) + cache.tail_logps.exp()
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-6, rtol=0)


def test_a_whole_vocabulary_leaves_no_tail() -> None:
    cache = to_sparse(logps(heads())[1], V + 5)
    assert cache.ids.shape == (S, V)
    assert (cache.tail_logps == -torch.inf).all()


def test_a_tail_below_rounding_is_not_lost() -> None:
    teacher = torch.tensor([[30.0, 0.0, 0.0]]).log_softmax(-1)
    cache = to_sparse(teacher, 1)
    assert 1 - cache.logps.exp().item() == 0
    assert cache.tail_logps.item() == pytest.approx(-30 + 0.6931, abs=1e-3)


def test_merging_tokens_never_raises_the_divergence() -> None:
    inputs = heads()
    sparse = torch.stack([sparse_kl(inputs, k).detach() for k in (1, 2, 4, 8, V)])
    assert (sparse[1:] >= sparse[:-1] - 1e-12).all()
    assert (sparse[0] < sparse[-1] - 1e-3).any()


def test_a_pair_shares_the_likeliest_of_both() -> None:
    _, teacher, reference = logps(heads())
    first, second = to_sparse_pair(teacher, reference, 3)
    assert torch.equal(first.ids, second.ids)
    for position in range(S):
        ids = set(first.ids[position].tolist())
        assert len(ids) == 6
        assert ids >= set(teacher[position].topk(3).indices.tolist())
        assert ids >= set(reference[position].topk(3).indices.tolist())
    assert torch.equal(second.logps, reference.gather(-1, second.ids))


def test_the_advantage_of_merged_tokens_is_that_of_their_mass() -> None:
    inputs = heads()
    own, teacher, reference = logps(inputs)
    ids = torch.zeros(S, 1, dtype=torch.long)
    rest = [value[:, 1:].logsumexp(-1) for value in (own, teacher, reference)]
    expected = own[:, 0].exp() * (teacher - reference)[:, 0] + rest[0].exp() * (rest[1] - rest[2])
    found = sparse_teacher_advantage(*inputs[:2], at_ids(teacher, ids), at_ids(reference, ids))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_compact_caches_are_read_in_their_own_types() -> None:
    inputs = heads(torch.float32)
    cache = to_sparse(logps(inputs)[1], 5)
    compact = SparseLogps(
        ids=cache.ids.int(), logps=cache.logps.half(), tail_logps=cache.tail_logps.half()
    )
    found = sparse_teacher_kl(*inputs[:2], compact, chunk=2)
    torch.testing.assert_close(found, sparse_kl(inputs, 5), atol=0.01, rtol=0)


def test_an_empty_tail_in_a_cache_adds_nothing() -> None:
    inputs = heads()
    cache = to_sparse(logps(inputs)[1], 2)
    empty = SparseLogps(
        ids=cache.ids, logps=cache.logps, tail_logps=torch.full_like(cache.tail_logps, -torch.inf)
    )
    for found in (
        sparse_teacher_kl(*inputs[:2], empty),
        sparse_teacher_advantage(*inputs[:2], empty, cache),
    ):
        gradients = torch.autograd.grad(found.sum(), inputs[:2])
        assert all(torch.isfinite(value).all() for value in (found, *gradients))


def test_caches_of_different_ids_are_refused() -> None:
    inputs = heads()
    _, teacher, reference = logps(inputs)
    with pytest.raises(ValueError, match="name different ids"):
        sparse_teacher_advantage(*inputs[:2], to_sparse(teacher, 2), to_sparse(reference, 2))
