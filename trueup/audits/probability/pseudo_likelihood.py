"""Pseudo-log-likelihoods of sentences under masked models, and the tokens that two of them share.

All functions work on token ids and take the model as `masked_logps`, a function from rows
(ids with masks, positions, targets) to arrays of log-probabilities: `MaskedLanguageModel`'s
method, or any other. f(S) below is in nats; the sums run over the text's own tokens, never over
CLS, SEP, BOS, EOS or padding.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from trueup.models.masked_language_model import MaskedRow

MaskedLogps = Callable[[Sequence[MaskedRow]], Sequence[NDArray[np.float64]]]
Span = tuple[Sequence[int], Sequence[int]]  # a sentence's ids, and positions in it


def shared_positions(first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where two id sequences hold the same tokens, by longest matching blocks; equally long.

    Source: Nangia et al. 2020, arXiv 2010.00133. As in the authors' code, but without difflib's
            rule that in sequences of 200 tokens and more frequent tokens match nothing.
    """
    matcher = difflib.SequenceMatcher(None, list(first), list(second), autojunk=False)
    here: list[int] = []
    there: list[int] = []
    for block in matcher.get_matching_blocks():
        here += range(block.a, block.a + block.size)
        there += range(block.b, block.b + block.size)
    return here, there


def masked_apart(spans: Sequence[Span], masked_logps: MaskedLogps, mask_id: int) -> list[float]:
    """f(S) = sum over positions u of log P(u | S without u): one mask at a time.

    Over all of a sentence's tokens this is its pseudo-log-likelihood (PLL); over the tokens that
    it shares with the other sentence of a pair it is the CrowS-Pairs score (CPS).
    Work: a forward row per position.
    """
    rows = [
        (_with_masks(ids, [place], mask_id), [place], [ids[place]])
        for ids, places in spans
        for place in places
    ]
    return _sums((len(places) for _, places in spans), masked_logps(rows))


def masked_together(spans: Sequence[Span], masked_logps: MaskedLogps, mask_id: int) -> list[float]:
    """f(S) = sum over positions m of log P(m | S without all of them): masked in one go.

    Over a pair's modified tokens and divided by their number this is StereoSet's CAT.
    Work: a forward row per sentence.
    """
    rows = [
        (_with_masks(ids, places, mask_id), list(places), [ids[place] for place in places])
        for ids, places in spans
    ]
    return [float(part.sum()) for part in masked_logps(rows)]


def unmasked_mean(
    spans: Sequence[Span],
    masked_logps: MaskedLogps,
    weights: Sequence[Sequence[float]] | None = None,
) -> list[float]:
    """f(S) = 1/|S| sum over positions s of weight_s log P(s | S): nothing masked (AUL).

    Fields: weights are 1 by default; the attention that each position receives makes it AULA.
    Work:   a forward row per sentence.
    Source: Kaneko and Bollegala 2022, arXiv 2104.07496.
    """
    rows = [(ids, list(places), [ids[place] for place in places]) for ids, places in spans]
    parts = masked_logps(rows)
    factors = weights or [np.ones(len(part)).tolist() for part in parts]
    return [float(np.mean(part * factor)) for part, factor in zip(parts, factors, strict=True)]


def _with_masks(ids: Sequence[int], places: Sequence[int], mask_id: int) -> list[int]:
    """The ids with the places hidden."""
    masked = list(ids)
    for place in places:
        masked[place] = mask_id
    return masked


def _sums(counts: Iterable[int], parts: Sequence[NDArray[np.float64]]) -> list[float]:
    """Sums over `count` consecutive arrays each."""
    remaining = iter(parts)
    return [float(sum(float(next(remaining).sum()) for _ in range(count))) for count in counts]
