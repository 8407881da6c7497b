"""Biased spans in a text: from tags, words or what a model lists, and how well they are found."""

import ast
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from trueup.audits.protocol import Metric
from trueup.errors import UserError
from trueup.stats.estimate import Array

Span = tuple[int, int, str]  # first, one past the last, and the type

COUNTS = ("hits", "predicted", "gold", "token_hits", "token_predicted", "token_gold")
TYPE = "BIAS"

_TAG = re.compile(r"O|[BI](?:-\w+)?")
_MARK = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s*")
_QUOTES = " \t\"'\u201c\u201d\u2018\u2019.,;:"


def bio_spans(tags: Sequence[str]) -> set[Span]:
    """The spans [first, last) that B, I and O tags make of tokens.

    Edges: an I after O, or of another type than what precedes it, begins a span as B does.
    """
    found: set[Span] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        head, _, own = tag.partition("-")
        if kind and (head != "I" or (own or TYPE) != kind):
            found.add((start, place, kind))
            kind = ""
        if head != "O" and not kind:
            start, kind = place, own or TYPE
    return found


def listed(given: Any) -> list[str]:
    """A list of words or tags, as such or as a cell holds it: a Python list, tags, or by commas."""
    if not isinstance(given, str):
        return [str(one) for one in given] if given is not None else []
    text = given.strip()
    if text.startswith("["):
        try:
            made = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            made = None
        if isinstance(made, list):
            return [str(one) for one in made]
    if text and all(map(_TAG.fullmatch, text.split())):
        return text.split()
    return [part.strip() for part in text.split(",") if part.strip()]


def spans_in(text: str, given: Any, place: str) -> tuple[list[Span], int]:
    """Character spans of a text's tags or words, and how many words do not stand in the text.

    Tags belong to the tokens between blanks; of a word the first place counts, whatever its case.
    Raises: UserError where there are not as many tags as tokens.
    """
    parts = listed(given)
    tokens = [match.span() for match in re.finditer(r"\S+", text)]
    if parts and all(map(_TAG.fullmatch, parts)):
        if len(parts) != len(tokens):
            raise UserError(
                f"{place}: there must be a tag for each of {len(tokens)} tokens, got {len(parts)}"
            )
        found = sorted(bio_spans(parts))
        return [(tokens[one][0], tokens[last - 1][1], kind) for one, last, kind in found], 0
    lowered = text.lower()
    starts = [(lowered.find(part.lower()), len(part)) for part in dict.fromkeys(parts)]
    spans = sorted({(start, start + size, TYPE) for start, size in starts if start >= 0})
    return spans, sum(start < 0 for start, _ in starts)


def spans_in_answer(text: str, answer: str) -> tuple[list[Span], int]:
    """Character spans of what a model listed, a line each, and how many are not in the text."""
    lines = [_MARK.sub("", line).strip(_QUOTES) for line in answer.splitlines()]
    words = [line for line in lines if line]
    if [word.lower() for word in words] == ["none"]:
        return [], 0
    return spans_in(text, [word for word in words if not _TAG.fullmatch(word)], "")


def span_counts(
    text: str, gold: Sequence[Span], predicted: Sequence[Span], invented: int = 0
) -> dict[str, int]:
    """What one text adds to the sums: exact spans, and tokens between blanks that a span touches.

    Fields: invented counts predicted words that do not stand in the text.
    """
    tokens = [match.span() for match in re.finditer(r"\S+", text)]
    marked = [_touched(tokens, spans) for spans in (gold, predicted)]
    return {
        "hits": len(set(gold) & set(predicted)),
        "predicted": len(predicted) + invented,
        "gold": len(gold),
        "token_hits": int((marked[0] & marked[1]).sum()),
        "token_predicted": int(marked[1].sum()) + invented,
        "token_gold": int(marked[0].sum()),
    }


def span_metrics() -> tuple[Metric, ...]:
    """Exact spans and tokens, each by precision, recall and F1, over all texts together."""
    kinds = {"precision": (0, 1), "recall": (0, 2), "f1": (0, 1, 2)}
    return tuple(
        Metric(
            name=f"{level}_{kind}",
            kind="statistic",
            terms=partial(_terms, [COUNTS[start + place] for place in places]),
            value=_ratio,
            goal="higher",
            ideal=1.0,
            span=(0.0, 1.0),
            reading=reading,
        )
        for level, start, reading in (("span", 0, _SPAN), ("token", 3, _TOKEN))
        for kind, places in sorted(kinds.items())
    )


def _touched(tokens: Sequence[tuple[int, int]], spans: Sequence[Span]) -> Any:
    """Which tokens a span touches, [T]."""
    return np.array(
        [any(start < last and end > first for first, last, _ in spans) for start, end in tokens],
        dtype=bool,
    )


def _terms(columns: Sequence[str], items: pd.DataFrame) -> Array:
    """The counts of every text, [N, K]."""
    return items[list(columns)].to_numpy(dtype=np.float64)


def _ratio(sums: Array) -> Array:
    """Hits over the mean of the other counts, [...]."""
    ratio: Array = sums[..., 0] / sums[..., 1:].mean(axis=-1)
    return ratio


_SPAN = (
    "Biased spans that are found from their first to their last letter; near misses count nothing."
)
_TOKEN = "Words that are rightly called part of a biased span, wherever the span begins and ends."
