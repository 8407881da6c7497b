"""Contextual WEAT: association tests on the vector of the word in its sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from trueup.audits.embedding.embedding_test import EmbeddingTest
from trueup.audits.embedding.occurrences import spots
from trueup.audits.embedding.word_tests import Word
from trueup.audits.protocol import Probe, Rows, place_of
from trueup.errors import UserError, check_choice
from trueup.models.embedder import Array, Vectors


@dataclass(frozen=True, kw_only=True)
class Cweat(EmbeddingTest):
    """Association test at the level of the contextual word: gender, race, intersections.

    s(w) = mean over the word's sentences of s(the word in it); d and p over words, as in WEAT
    The built-in tests i1 to i5 pair white and black, men and women; the paper's claim is that i5
    (white men against black women) exceeds the tests along one axis.
    Fields: pooling picks among the word's tokens: "auto" is the last one of a causal model and the
            mean of an encoder's; occurrence, which one where the word stands in a sentence twice
            ("all": each is a vector of its own).
    Edges:  the word of a causal model sees only what stands before it.
    Source: Tan and Celis 2019, arXiv 1911.01485. Their code reads a causal model's word one token
            too late, cuts sentences into pieces word by word, takes an encoder's first piece, and
            permutes sentences as if they were independent; here the word is found by its
            characters in the sentence as a whole.
    """

    occurrence: Literal["first", "last", "all"] = "first"

    name: ClassVar[str] = "cweat"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(("first", "last", "all"), occurrence=self.occurrence)

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per target word; UserError where the data hold whole sentences as words."""
        for index, row in enumerate(data):
            word = str(row["word"])
            if word.endswith((".", "!", "?")):
                raise UserError(
                    f"{place_of(data, index)}: 'word' must be a word in a sentence, got {word!r}; "
                    "name the word, and its sentence as 'text', or measure seat"
                )
        return super().probes(data)

    def vectors(self, source: Vectors, words: Sequence[Word]) -> list[Array]:
        """One vector per occurrence of each word in its sentences."""
        found = [
            [spot for text in word.texts for spot in spots(word.word, text, self.occurrence)]
            for word in words
        ]
        table = source.span_vectors(
            [spot for own in found for spot in own], layer=self.layer, piece=self.pooling
        )
        return np.split(table, np.cumsum([len(own) for own in found])[:-1])

    def spellings(self, word: Word) -> tuple[str, int, int]:
        """The word in the first of its sentences."""
        return spots(word.word, word.texts[0], self.occurrence)[0]
