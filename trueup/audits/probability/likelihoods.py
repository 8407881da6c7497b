"""Log-likelihoods of texts that share most of their words: what they share is read once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trueup.errors import UserError
from trueup.models.language_model import LanguageModel
from trueup.models.masked_language_model import MaskedLanguageModel, Sentence
from trueup.models.prefix_tree import Group


def variant_logps(model: LanguageModel, variants: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Log-likelihoods in nats of the variants of each text, after their common beginning, [N, K].

    The tokens with which all variants of one text begin are read once and not scored: they are
    as likely in every variant, so these numbers differ by just as much as whole log-likelihoods.
    Edges:  a tokenizer without an opening token leaves a text's very first token unscored.
    Raises: UserError where such a text has one token only.
    """
    flat = iter(model.encoder.tokens([text for several in variants for text in several]))
    opening = model.encoder.context()
    groups: list[Group] = []
    for several in variants:
        groups += _groups(opening, [next(flat) for _ in several])
    logps = [part.sum() for parts in model.score_groups(groups) for part in parts]
    return np.array(logps).reshape(len(variants), -1)


def _groups(opening: list[int], variants: list[list[int]]) -> list[Group]:
    """One group of what follows the common beginning, or a group each where nothing precedes."""
    common = _common_beginning(variants)
    if opening or common:
        start = variants[0][:common]
        return [Group([*opening, *start], [ids[common:] for ids in variants])]
    if any(len(ids) < 2 for ids in variants):
        raise UserError("a text of one token cannot be scored by a model without an opening token")
    return [Group(ids[:1], [ids[1:]]) for ids in variants]


def _common_beginning(variants: list[list[int]]) -> int:
    """The number of tokens with which all begin, one token of each left over."""
    limit = min(map(len, variants)) - 1
    for place in range(limit):
        if len({ids[place] for ids in variants}) > 1:
            return place
    return limit


def word_logps(
    model: MaskedLanguageModel, places: Sequence[tuple[str, int, int]]
) -> NDArray[np.float64]:
    """Log-probability of each word given the rest of its text, under a masked model, [N].

    Shapes: places [N] of (text, start, end), the characters of the word, blanks around it or not.
    A word of several pieces: all of them masked together, the product over pieces at their places.
    Work:   words that leave the same masked text behind share one forward row.
    """
    sentences = model.sentences([text for text, _, _ in places])
    rows: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
    owners: list[tuple[tuple[int, ...], slice]] = []
    for sentence, (text, start, end) in zip(sentences, places, strict=True):
        positions = _covered(sentence, text, start, end)
        masked = list(sentence.ids)
        for position in positions:
            masked[position] = model.mask_id
        key = tuple(masked)
        row_places, targets = rows.setdefault(key, ([], []))
        owners.append((key, slice(len(targets), len(targets) + len(positions))))
        row_places += positions
        targets += [sentence.ids[position] for position in positions]
    scored = model.masked_logps([(list(key), *row) for key, row in rows.items()])
    logps = dict(zip(rows, scored, strict=True))
    return np.array([logps[key][part].sum() for key, part in owners])


def _covered(sentence: Sentence, text: str, start: int, end: int) -> list[int]:
    """The positions of the tokens that cover the word; a blank around it belongs to none."""
    word = text[start:end]
    start += len(word) - len(word.lstrip())
    end -= len(word) - len(word.rstrip())
    return [
        position
        for position, (first, last) in zip(sentence.words, sentence.spans, strict=True)
        if first < end and last > start
    ]
