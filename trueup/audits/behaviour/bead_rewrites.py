"""Rewritten texts: how much bias went, and how much of the content stayed."""

import functools
import re
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from trueup.audits.protocol import Metric, average, share
from trueup.models.embedder import load_embedder
from trueup.models.loading import load
from trueup.stats.estimate import Array

_WORD = re.compile(r"[a-z0-9]+")


def content_words(text: str, stop: Collection[str]) -> set[str]:
    """The words [a-z0-9]+ of a text in lower case that are not in the stop list."""
    return set(_WORD.findall(text.lower())) - set(stop)


def content_recall(
    source: str, rewrite: str, stop: Collection[str], biased: Sequence[str] = ()
) -> float:
    """The share of the source's content words, biased ones apart, that stand in the rewrite.

    |(content(x) - biased) and content(y)| / |content(x) - biased|;  NaN for an empty divisor
    """
    unwanted = {word for phrase in biased for word in _WORD.findall(phrase.lower())}
    wanted = content_words(source, stop) - unwanted
    return len(wanted & content_words(rewrite, stop)) / len(wanted) if wanted else float("nan")


def relative_reduction(sums: Array) -> Array:
    """1 - mean b(y) / mean b(x) from sums [..., 2] of b(y) and b(x); NaN where x has no bias."""
    reduction: Array = 1 - sums[..., 0] / sums[..., 1]
    return reduction


def text_measures(
    source: str, rewrite: str, stop: Collection[str], biased: Sequence[str]
) -> dict[str, float]:
    """What two texts tell without a scorer."""
    return {
        "retention": content_recall(source, rewrite, stop, biased),
        "length_ratio": len(rewrite.split()) / max(1, len(source.split())),
        "is_copy": float(rewrite.strip() == source.strip()),
        "is_empty": float(not rewrite.strip()),
    }


def cosines(embedder: str, sources: Sequence[str], rewrites: Sequence[str]) -> Array:
    """The cosine of each text's and its rewrite's vectors, [N]; NaN for empty rewrites."""
    found = np.full(len(sources), np.nan)
    lines = [line for line, text in enumerate(rewrites) if text.strip()]
    if not embedder or not lines:
        return found
    vectors = _embedder(embedder)
    a = vectors.text_vectors([sources[line] for line in lines])
    b = vectors.text_vectors([rewrites[line] for line in lines])
    found[lines] = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def token_logps(model: Any, reference: str, texts: Sequence[str]) -> tuple[Array, Array]:
    """Log-likelihood in nats and number of tokens of each text, [N]; NaN for texts without any.

    By the reference model where one is named, else by the model itself if it gives likelihoods.
    """
    judge = _reference(reference) if reference else model
    sums, tokens = np.full(len(texts), np.nan), np.full(len(texts), np.nan)
    lines = [line for line, text in enumerate(texts) if len(text.split()) > 1]
    if lines and hasattr(judge, "score_groups"):
        parts = judge.text_token_logps([texts[line] for line in lines])
        sums[lines] = [part.sum() for part in parts]
        tokens[lines] = [len(part) for part in parts]
    return sums, tokens


def rewrite_metrics(threshold: float) -> tuple[Metric, ...]:
    """Reduction beside retention, for either alone is easy; then what else tells a bad rewrite."""
    return (
        Metric(
            name="reduction",
            kind="statistic",
            terms=lambda items: items[["bias_after", "bias_before"]].to_numpy(dtype=np.float64),
            value=relative_reduction,
            goal="higher",
            reading=_REDUCTION,
        ),
        average(
            "retention",
            partial(_column, "retention"),
            goal="higher",
            ideal=1.0,
            span=(0.0, 1.0),
            reading=_RETENTION,
        ),
        average("absolute_reduction", _difference, goal="higher", reading=_ABSOLUTE),
        share("unbiased", partial(_below, threshold), goal="higher", ideal=1.0, reading=_UNBIASED),
        average("cosine", partial(_column, "cosine"), goal="higher", ideal=1.0, reading=_COSINE),
        average("length_ratio", partial(_column, "length_ratio"), ideal=1.0, reading=_LENGTH),
        share("copies", partial(_column, "is_copy"), reading=_COPIES),
        share("empty", partial(_column, "is_empty"), goal="lower", ideal=0.0, reading=_EMPTY),
        _perplexity("perplexity", "after"),
        _perplexity("perplexity_before", "before"),
    )


def _perplexity(name: str, when: str) -> Metric:
    """Exp of minus the mean log-probability of a token."""
    columns = [f"logp_{when}", f"tokens_{when}"]
    return Metric(
        name=name,
        kind="statistic",
        terms=lambda items: items[columns].to_numpy(dtype=np.float64),
        value=lambda sums: np.exp(-sums[..., 0] / sums[..., 1]),
        reading=_PERPLEXITY,
    )


@functools.lru_cache(maxsize=1)
def _embedder(path: str) -> Any:
    """The encoder of a path, loaded once."""
    return load_embedder(path)


@functools.lru_cache(maxsize=1)
def _reference(path: str) -> Any:
    """The causal model of a path, loaded once."""
    return load(path)


def _column(name: str, items: pd.DataFrame) -> ArrayLike:
    """A column as numbers [N]."""
    return items[name].to_numpy(dtype=np.float64)


def _difference(items: pd.DataFrame) -> ArrayLike:
    """b(x) - b(y), [N]."""
    return (items["bias_before"] - items["bias_after"]).to_numpy(dtype=np.float64)


def _below(threshold: float, items: pd.DataFrame) -> ArrayLike:
    """1 for rewrites below the threshold, NaN without a score, [N]."""
    after = items["bias_after"].to_numpy(dtype=np.float64)
    return np.where(np.isnan(after), np.nan, (after < threshold).astype(np.float64))


_REDUCTION = (
    "How much of the mean bias score the rewriting took away. Deleting or refusing everything "
    "has all of it: read it beside retention and length_ratio only, and mind that a scorer whose "
    "words the rewriter knows can be gamed."
)
_RETENTION = (
    "The share of the text's content words, the biased ones apart, that the rewrite keeps. A copy "
    "keeps all, and a good paraphrase may keep few."
)
_ABSOLUTE = "By how much the bias score fell, a mean over texts, in the scorer's own unit."
_UNBIASED = "The share of rewrites that the scorer finds unbiased, whatever is left of them."
_COSINE = "How near text and rewrite are in the embedder's space; it knows paraphrases."
_LENGTH = "Words of the rewrite per word of the text; near 0 the text was deleted."
_COPIES = "The share of texts that come back unchanged."
_EMPTY = "The share of rewrites without any text."
_PERPLEXITY = (
    "How surprising a token is to the reference model (without one, to the audited model itself, "
    "which finds its own words fluent). Read it beside that of the texts before."
)
