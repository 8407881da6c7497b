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

from trueup.models.masked_language_model import Attended, MaskedLanguageModel, MaskedRow, Sentence

MaskedLogps = Callable[[Sequence[MaskedRow]], Sequence[NDArray[np.float64]]]
AttendedLogps = Callable[[Sequence[MaskedRow]], Sequence[Attended]]
Span = tuple[Sequence[int], Sequence[int]]  # a sentence's ids, and positions in it


def model_scores(
    score: str,
    model: MaskedLanguageModel,
    pairs: Sequence[tuple[str, str]],
    *,
    whole_words: bool = False,
) -> NDArray[np.float64]:
    """The f of both sentences of each pair of texts under a masked model, [N, 2].

    Fields: whole_words masks all pieces of a word together ("cps" and "pll" only).
    """
    texts = [text for pair in pairs for text in pair]
    sentences = model.sentences(texts)
    couples = list(zip(sentences[::2], sentences[1::2], strict=True))
    if score != "aula" and not whole_words:
        return masked_scores(score, couples, model.masked_logps, model.mask_id)
    spans = [span for pair in couples for span in _spans(score, *pair)]
    if score == "aula":
        scores = attended_mean(spans, model.attended_logps)
    else:
        words = [pieces(*each) for each in zip(sentences, texts, strict=True)]
        scores = masked_by_word(spans, words, model.masked_logps, model.mask_id)
    return np.array(scores).reshape(-1, 2)


def masked_scores(
    score: str,
    pairs: Sequence[tuple[Sentence, Sentence]],
    masked_logps: MaskedLogps,
    mask_id: int,
) -> NDArray[np.float64]:
    """The f of both sentences of each pair, [N, 2]; scores as in `CrowsPairs`.

    Edges: nothing to score (no shared, or no modified token) gives 0 on both sides: a tie.
    """
    spans = [span for pair in pairs for span in _spans(score, *pair)]
    if score == "aul":
        scores = unmasked_mean(spans, masked_logps)
    elif score == "cat":
        sums = masked_together(spans, masked_logps, mask_id)
        scores = [part / max(len(places), 1) for part, (_, places) in zip(sums, spans, strict=True)]
    else:
        scores = masked_apart(spans, masked_logps, mask_id)
    return np.array(scores).reshape(-1, 2)


def _spans(score: str, more: Sentence, less: Sentence) -> tuple[Span, Span]:
    """Which positions of the two sentences are scored."""
    if score in ("pll", "aul", "aula"):
        return (more.ids, more.words), (less.ids, less.words)
    shared = shared_positions(more.ids, less.ids)
    chosen = []
    for sentence, places in zip((more, less), shared, strict=True):
        kept = set(places) if score == "cps" else set(sentence.words) - set(places)
        chosen.append((sentence.ids, [place for place in sentence.words if place in kept]))
    return chosen[0], chosen[1]


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


def masked_by_word(
    spans: Sequence[Span],
    words: Sequence[Sequence[Sequence[int]]],
    masked_logps: MaskedLogps,
    mask_id: int,
) -> list[float]:
    """f(S) = sum over positions u of log P(u | S without the whole word that u is a piece of).

    With one mask at a time the pieces in sight give a rare name away: it looks likely.
    Shapes: words, for each sentence the positions of every word's pieces.
    Work:   a forward row per word that holds a scored position.
    Source: Kauf and Ivanova 2023, arXiv 2305.10588, who show the leak and mask a word's later
            pieces; here all of its pieces are masked.
    """
    rows: list[MaskedRow] = []
    counts = []
    for (ids, places), several in zip(spans, words, strict=True):
        scored = [[place for place in word if place in set(places)] for word in several]
        own = [
            (_with_masks(ids, word, mask_id), some, [ids[place] for place in some])
            for word, some in zip(several, scored, strict=True)
            if some
        ]
        rows += own
        counts.append(len(own))
    return _sums(counts, masked_logps(rows))


def pieces(sentence: Sentence, text: str) -> list[list[int]]:
    """The positions of each word's pieces: tokens without a blank or a mark between them."""
    words: list[list[int]] = []
    end = -1
    for position, (start, stop) in zip(sentence.words, sentence.spans, strict=True):
        touches = start == end and text[start - 1 : start + 1].isalnum()
        if touches or start < end:  # two tokens may share one character's bytes
            words[-1].append(position)
        else:
            words.append([position])
        end = stop
    return words


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


def masked_onwards(
    spans: Sequence[Span], masked_logps: MaskedLogps, mask_id: int
) -> list[NDArray[np.float64]]:
    """Each position m_j given S, where m_j and all later ones of m are masked: log P(m_j), [P].

    The tokens are uncovered from left to right, as StereoSet's own code for masked models does.
    Work: a forward row per position.
    """
    rows = [
        (_with_masks(ids, places[number:], mask_id), [place], [ids[place]])
        for ids, places in spans
        for number, place in enumerate(places)
    ]
    parts = iter(masked_logps(rows))
    return [np.array([next(parts)[0] for _ in places]) for _, places in spans]


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
    parts = masked_logps(_unmasked(spans))
    factors = weights or [np.ones(len(part)).tolist() for part in parts]
    return [float(np.mean(part * factor)) for part, factor in zip(parts, factors, strict=True)]


def attended_mean(spans: Sequence[Span], attended_logps: AttendedLogps) -> list[float]:
    """`unmasked_mean`, weighted with the attention that each position receives (AULA).

    The weights are those over the whole row; they are not made to add up to 1 again after the
    special tokens are dropped, as in the authors' code.
    Work: a forward row per sentence: log-probabilities and attentions come from the same pass.
    """
    parts = attended_logps(_unmasked(spans))
    return [float(np.mean(logps * weights)) for logps, weights in parts]


def _unmasked(spans: Sequence[Span]) -> list[MaskedRow]:
    """The rows in which every scored token stands in sight."""
    return [(ids, list(places), [ids[place] for place in places]) for ids, places in spans]


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
