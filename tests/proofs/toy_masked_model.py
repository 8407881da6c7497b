"""Sheet 33, section 8.1: a masked model of 12 tokens in closed form, behind a real tokenizer."""

from collections.abc import Sequence

import numpy as np

from tests.audits.planted_models import PlantedMaskedModel, toy_logits
from trueup.calibration.scripted_likelihoods import word_tokenizer
from trueup.models.masked_language_model import Attended, MaskedRow

ALPHA = np.array([np.nan, 0.10, 0.30, 0.20, 0.15, np.nan])  # attention that positions 1-4 receive
S1, S2 = "w04 w05 w06 w07", "w08 w05 w06 w07"
S3, S4 = "w04 w09 w05 w06", "w08 w05 w06"


class ToyMaskedModel(PlantedMaskedModel):
    """Token ids: <pad> 0, <s> 1, </s> 2, <mask> 3, w04 4, ... w11 11."""

    def __init__(self) -> None:
        words = [f"w{number:02d}" for number in range(4, 12)]
        super().__init__(word_tokenizer(words, "<s> $A </s>"), toy_logits)

    def attended_logps(self, rows: Sequence[MaskedRow]) -> list[Attended]:
        parts = zip(self.masked_logps(rows), rows, strict=True)
        return [(logps, ALPHA[list(places)]) for logps, (_, places, _) in parts]
