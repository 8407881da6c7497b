"""How often an answer changes with the order of the documents, with pine and without."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trueup.decoding.pine import Pine
from trueup.decoding.protocol import Request
from trueup.decoding.segments import segment_ids
from trueup.models.language_model import LanguageModel
from trueup.models.pine_state import SegmentIds
from trueup.models.sampling import Sampling, sample_prompts
from trueup.stats import Estimate, proportion


def position_bias(
    lm: LanguageModel,
    prompts: Sequence[Any],
    *,
    rng: np.random.Generator,
    permutations: int = 6,
    max_new_tokens: int = 16,
    level: float = 0.95,
) -> list[Estimate]:
    """The share of prompts whose greedy text is not the same in all orders, ideal 0.

    Two estimates: slice "stock", the model as it is, and slice "pine".
    Fields: prompts are what `Pine` reads; permutations is the number of orders tried of each, the
            given one among them; all of them where there are no more, else drawn by rng.
    Raises: UserError as `Pine` does.
    """
    settings = Sampling(temperature=0, max_new_tokens=max_new_tokens)
    given = [
        segment_ids(lm.encoder, prompt, place=f"prompt {place}")
        for place, prompt in enumerate(prompts, start=1)
    ]
    variants = [
        [
            SegmentIds(ids.prefix, order, ids.suffix)
            for order in _orders(ids.docs, permutations, rng)
        ]
        for ids in given
    ]
    flat = [each for several in variants for each in several]
    read = Pine().decode_ids(lm, flat, Request(sampling=settings))
    joined = [[*each.prefix, *itertools.chain(*each.docs), *each.suffix] for each in flat]
    rows = max(1, lm.token_budget // max(map(len, joined), default=1))
    stock = sample_prompts(lm.start_ids, joined, lm.tokenizer, settings, rows=rows)
    sizes = [len(several) for several in variants]
    tokens = {
        "stock": [tuple(several[0].token_ids) for several in stock],
        "pine": [tuple(several[0].token_ids) for several in read],
    }
    return [
        proportion(
            _changed(answers, sizes),
            len(sizes),
            metric="flips",
            slice=group,
            level=level,
            ideal=0.0,
        )
        for group, answers in tokens.items()
    ]


def _orders(
    docs: tuple[tuple[int, ...], ...], count: int, rng: np.random.Generator
) -> list[tuple[tuple[int, ...], ...]]:
    """The documents in the given order and in others, no order twice."""
    if math.factorial(len(docs)) <= count:
        return list(itertools.permutations(docs))
    places = {tuple(range(len(docs)))}
    while len(places) < count:
        places.add(tuple(rng.permutation(len(docs)).tolist()))
    return [tuple(docs[place] for place in order) for order in sorted(places)]


def _changed(answers: Sequence[tuple[int, ...]], sizes: Sequence[int]) -> int:
    """How many prompts have more than one answer."""
    rest = iter(answers)
    return sum(len(set(itertools.islice(rest, size))) > 1 for size in sizes)
