"""AULA: AUL with every token weighted by the attention that it receives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trueup.audits.probability.pseudo_likelihood import model_scores
from trueup.audits.probability.sentence_pairs import Pair, SentencePairs
from trueup.audits.protocol import Model, masked


@dataclass(frozen=True, kw_only=True)
class AULA(SentencePairs):
    """Share of sentence pairs whose stereotyping sentence has more attention-weighted likelihood.

    f(S) = 1/|S| sum over the text's own tokens s of alpha_s log P(s | S), nothing masked
    alpha_s = attention that s receives, the mean over layers, heads and query positions, those of
              special tokens too; a row's alphas add up to 1 with the special tokens' share
    share = mean over pairs of 1[f(more) > f(less)], ideal 0.5
    Where all alphas are 1 it is `aul`. Much attention goes to special tokens, so f is small.
    Data and fields: `SentencePairs`.
    Raises: UserError where the model fills no masks.
    Source: Kaneko and Bollegala 2022, arXiv 2104.07496; alphas are not made to add up to 1 over
            the text's own tokens, as in the authors' code.
    """

    name: ClassVar[str] = "aula"

    def scores(self, model: Model, pairs: Sequence[Pair]) -> Mapping[str, NDArray[np.float64]]:
        """Both sentences' f."""
        found = model_scores("aula", masked(model, self.name), pairs)
        return {"more": found[:, 0], "less": found[:, 1]}
