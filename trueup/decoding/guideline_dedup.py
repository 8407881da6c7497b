"""Texts that say the same: the normalised indel similarity, and who is dropped for it."""

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Indel
from rapidfuzz.process import cdist

from trueup.stats.estimate import Array

CHUNK = 256  # texts that are compared with all kept ones at a time


def indel_ratio(a: str, b: str) -> float:
    """2 LCS / (len(a) + len(b)) in characters, case kept; 1 for two empty texts.

    LCS is the length of the longest common subsequence.
    """
    return float(Indel.normalized_similarity(a, b))


def ratios(rows: Sequence[str], columns: Sequence[str], *, cutoff: float = 0.0) -> Array:
    """`indel_ratio` of every row with every column, [R, C]; 0 for what lies below the cutoff."""
    if not rows or not columns:
        return np.zeros((len(rows), len(columns)))
    found: Array = cdist(
        rows, columns, scorer=Indel.normalized_similarity, score_cutoff=cutoff, dtype=np.float64
    )
    return found


def greedy_dedup(texts: Sequence[str], delta: float, k: int | None = None) -> list[int]:
    """Positions of the texts that stay, the first k of them.

    A text stays iff its ratio to every one that stayed before it is below delta; the first stays.
    Edges:  delta 0 keeps one text, above 1 all of them.
    """
    kept: list[int] = []
    for place, text in enumerate(texts):
        if k is not None and len(kept) >= k:
            break
        if all(indel_ratio(text, texts[other]) < delta for other in kept):
            kept.append(place)
    return kept


def light_dedup(texts: Sequence[str], threshold: float) -> list[int]:
    """Positions of the texts that are no near copy, ratio above the threshold, of one kept before.

    The same as comparing one by one; all kept texts are compared with a chunk at once, and a pair
    whose lengths alone rule it out costs nothing.
    """
    first = {text: place for place, text in reversed([*enumerate(texts)])}
    places = sorted(first.values())
    kept: list[int] = []
    for start in range(0, len(places), CHUNK):
        chunk = [texts[place] for place in places[start : start + CHUNK]]
        near = (ratios(chunk, [texts[p] for p in kept], cutoff=threshold) > threshold).any(axis=1)
        among = ratios(chunk, chunk, cutoff=threshold) > threshold  # [c, c]
        stays: list[int] = []
        for number in np.flatnonzero(~near).tolist():
            if not among[number, stays].any():
                stays.append(number)
        kept += [places[start + number] for number in stays]
    return kept
