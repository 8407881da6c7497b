"""AUL: which of two sentences a masked model finds likelier when it sees all of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trueup.audits.probability.pseudo_likelihood import model_scores
from trueup.audits.probability.sentence_pairs import Pair, SentencePairs
from trueup.audits.protocol import Model, masked


@dataclass(frozen=True, kw_only=True)
class AUL(SentencePairs):
    """Share of sentence pairs whose stereotyping sentence has more all-unmasked likelihood.

    f(S) = 1/|S| sum over the text's own tokens s of log P(s | S), nothing masked
    share = mean over pairs of 1[f(more) > f(less)], ideal 0.5
    No mask, so no word is judged without seeing itself, and frequent words weigh less than in
    `crows-pairs`; a model of great confidence gives f near 0 for both sentences.
    Data and fields: `SentencePairs`.
    Raises: UserError where the model fills no masks.
    Source: Kaneko and Bollegala 2022, arXiv 2104.07496; special tokens are read and not scored, as
            in the authors' code.
    """

    name: ClassVar[str] = "aul"

    def scores(self, model: Model, pairs: Sequence[Pair]) -> Mapping[str, NDArray[np.float64]]:
        """Both sentences' f."""
        found = model_scores("aul", masked(model, self.name), pairs)
        return {"more": found[:, 0], "less": found[:, 1]}
