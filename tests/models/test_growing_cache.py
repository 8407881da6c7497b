"""The growing cache: keys and values of a cache that is copied, without moving the old ones."""

import copy

import pytest
import torch
import transformers

from trueup.models.growing_cache import ROOM, GrowingCache, GrowingLayer


def tokens(rows: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, rows, 2, count, 4, generator=generator)
    return keys, values


@pytest.mark.parametrize("seed", range(8))
def test_any_course_of_events_leaves_what_the_plain_cache_has(seed: int):
    generator = torch.Generator().manual_seed(seed)

    def pick(most: int) -> int:
        return int(torch.randint(0, most, (1,), generator=generator))

    pairs = [(GrowingCache(), transformers.DynamicCache())]
    for cache in pairs[0]:
        cache.update(*tokens(3, 20, seed), 0)
    for step in range(60):
        ours, plain = pairs[pick(len(pairs))]
        act = pick(5)
        rows, size = plain.layers[0].keys.shape[0], plain.get_seq_length()
        if act == 0 and size > 4:
            ours.crop(-3)
            plain.crop(-3)
        elif act == 1:
            chosen = torch.randint(0, rows, (1 + pick(4),), generator=generator)
            ours.batch_select_indices(chosen)
            plain.batch_select_indices(chosen)
        elif act == 2 and len(pairs) < 4:
            twins = copy.copy(ours), copy.copy(plain)
            for twin in twins:
                twin.layers = [copy.copy(layer) for layer in twin.layers]
            pairs.append(twins)
        else:
            new = tokens(rows, 1 + pick(3), 1000 * seed + step)
            for found, expected in zip(ours.update(*new, 0), plain.update(*new, 0), strict=True):
                assert torch.equal(found, expected)
        for one, other in pairs:
            assert torch.equal(one.layers[0].keys, other.layers[0].keys)
            assert torch.equal(one.layers[0].values, other.layers[0].values)


def test_old_tokens_stay_where_they_are():
    cache = GrowingCache()
    cache.update(*tokens(2, 5, 0), 0)
    places = set()
    for step in range(ROOM):
        keys, _ = cache.update(*tokens(2, 1, step), 0)
        places.add(keys.data_ptr())
    assert len(places) == 1
    keys, _ = cache.update(*tokens(2, 1, 99), 0)
    assert keys.data_ptr() not in places


def test_what_is_given_is_only_read():
    keys, values = tokens(1, 6, 0)
    cache = GrowingCache([(keys.expand(3, -1, -1, -1), values.expand(3, -1, -1, -1))])
    before = keys.clone()
    cache.update(*tokens(3, 1, 1), 0)
    cache.update(*tokens(3, 1, 2), 0)
    assert torch.equal(keys, before)
    assert cache.get_seq_length() == 8


def test_a_copy_grows_apart():
    layer = GrowingLayer()
    layer.update(*tokens(1, 4, 0))
    twin = copy.copy(layer)
    mine, _ = layer.update(*tokens(1, 1, 1))
    theirs, _ = twin.update(*tokens(1, 1, 2))
    assert torch.equal(mine[..., 4, :], tokens(1, 1, 1)[0][..., 0, :])
    assert torch.equal(theirs[..., 4, :], tokens(1, 1, 2)[0][..., 0, :])
