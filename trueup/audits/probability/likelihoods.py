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
    several = _tokens_of(model, variants)
    parts = _scored(model, several, [_common_beginning(ids) for ids in several])
    return np.array([part.sum() for part in parts]).reshape(len(variants), -1)


def variant_token_means(
    model: LanguageModel, variants: Sequence[Sequence[str]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`variant_logps`, and whole log-likelihoods per token where lengths differ, both [N, K].

    Edges: variants of one length have NaN for the second: per token they differ as their sums do.
    Work:  the common beginning is read once in both; only where lengths differ it is scored too.
    """
    several = _tokens_of(model, variants)
    starts = [_common_beginning(ids) for ids in several]
    differ = [len({len(ids) for ids in texts}) > 1 for texts in several]
    read_from = [0 if whole else start for whole, start in zip(differ, starts, strict=True)]
    parts = iter(_scored(model, several, read_from))
    sums, means = [], []
    for texts, start, whole in zip(several, starts, differ, strict=True):
        for ids in texts:
            part = next(parts)
            sums.append(part[len(part) - (len(ids) - start) :].sum() if whole else part.sum())
            means.append(part.mean() if whole else np.nan)
    shape = (len(variants), -1)
    return np.array(sums).reshape(shape), np.array(means).reshape(shape)


def _tokens_of(model: LanguageModel, variants: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """The tokens of every variant of every text."""
    flat = iter(model.encoder.tokens([text for several in variants for text in several]))
    return [[next(flat) for _ in several] for several in variants]


def _scored(
    model: LanguageModel, several: Sequence[list[list[int]]], starts: Sequence[int]
) -> list[NDArray[np.float64]]:
    """Log-probabilities of the tokens after each start, one array per variant, in order."""
    opening = model.encoder.context()
    groups: list[Group] = []
    for variants, start in zip(several, starts, strict=True):
        groups += _groups(opening, variants, start)
    return [part for parts in model.score_groups(groups) for part in parts]


def _groups(opening: list[int], variants: list[list[int]], common: int) -> list[Group]:
    """One group of what follows the common tokens, or a group each where nothing precedes."""
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
    model: MaskedLanguageModel,
    places: Sequence[tuple[str, int, int]],
    hidden: Sequence[tuple[int, int] | None] | None = None,
) -> NDArray[np.float64]:
    """Log-probability of each word given the rest of its text, under a masked model, [N].

    Shapes: places [N] of (text, start, end), the characters of the word, blanks around it or not;
            hidden [N] of (start, end), characters that are masked as well and not scored, or None.
    A word of several pieces: all of them masked together, the product over pieces at their places.
    Work:   words that leave the same masked text behind share one forward row.
    """
    texts = list(dict.fromkeys(text for text, _, _ in places))
    sentences = dict(zip(texts, model.sentences(texts), strict=True))
    rows: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
    owners: list[tuple[tuple[int, ...], slice]] = []
    for (text, start, end), span in zip(places, hidden or [None] * len(places), strict=True):
        sentence = sentences[text]
        positions = covered(sentence, text, start, end)
        also = [] if span is None else covered(sentence, text, *span)
        masked = list(sentence.ids)
        for position in (*positions, *also):
            masked[position] = model.mask_id
        key = tuple(masked)
        row_places, targets = rows.setdefault(key, ([], []))
        owners.append((key, slice(len(targets), len(targets) + len(positions))))
        row_places += positions
        targets += [sentence.ids[position] for position in positions]
    scored = model.masked_logps([(list(key), *row) for key, row in rows.items()])
    logps = dict(zip(rows, scored, strict=True))
    return np.array([logps[key][part].sum() for key, part in owners])


def covered(sentence: Sentence, text: str, start: int, end: int) -> list[int]:
    """The positions of the tokens that cover the word; a blank around it belongs to none."""
    word = text[start:end]
    start += len(word) - len(word.lstrip())
    end -= len(word) - len(word.rstrip())
    return sentence.covering(start, end)
