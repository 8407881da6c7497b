"""SEAT: association tests on the vectors of whole sentences around the words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trueup.audits.embedding.embedding_test import EmbeddingTest
from trueup.audits.embedding.word_tests import Word
from trueup.models.embedder import Array, Vectors


@dataclass(frozen=True, kw_only=True)
class Seat(EmbeddingTest):
    """Sentence encoder association test: WEAT on the vectors of sentences that say little else.

    s(w) = mean over the word's sentences of s(sentence); d and p over words, as in WEAT
    A sentence encoder's own pooling is used where there is one ("auto"); the paper takes the
    opening token of an encoder and the last token of a causal model (pooling "first", "last").
    Source: May, Wang, Bordia, Bowman and Rudinger 2019, arXiv 1903.10561, who permute sentences as
            if they were independent (cluster="none"); here words are averaged first.
    """

    name: ClassVar[str] = "seat"

    def vectors(self, source: Vectors, words: Sequence[Word]) -> list[Array]:
        """One vector per sentence of each word."""
        texts = [text for word in words for text in word.texts]
        table = source.text_vectors(texts, layer=self.layer, pooling=self.pooling)
        return np.split(table, np.cumsum([len(word.texts) for word in words])[:-1])
