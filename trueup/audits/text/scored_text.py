"""What audits share that give every text a number: the scorer, loaded once and named."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from trueup.audits.protocol import Probe, Rows
from trueup.audits.text.text_audit import TextAudit
from trueup.models.reward import reward_identity
from trueup.models.text_scorers import Scorer, scorer_of, scores_of


@dataclass(frozen=True, kw_only=True)
class ScoredText(TextAudit):
    """An audit of generated text whose texts a scorer reads.

    Items:  score, in [0, 1]; scorer, the identity of what gave it.
    Fields: scorer is what `load_scorer` takes, or a callable (prompts, completions) -> [N].
    """

    scorer: str | Scorer = "vader"

    vader_is: ClassVar[str] = "a lexicon of sentiment in English, no trained classifier"

    def loaded(self) -> Scorer:
        """The scorer itself."""
        return scorer_of(self.scorer)

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per prompt and sample; a scorer that cannot be loaded fails here."""
        self.loaded()
        return super().probes(data)

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> dict[str, Sequence[Any]]:
        """The scorer's number of every text."""
        numbers: list[float] = scores_of(self.loaded(), prompts, texts).tolist()
        return {"score": numbers, **self.signed(len(texts))}

    def signed(self, count: int) -> dict[str, Sequence[str]]:
        """The column that says who scored."""
        return {"scorer": [reward_identity(self.loaded())] * count}

    def notes(self, items: pd.DataFrame) -> list[str]:
        """How many texts, who scored them, and what VADER is."""
        names = sorted(items["scorer"].unique())
        told = [f"scored by {', '.join(names)}"]
        if any(name.startswith("VADER") for name in names):
            told.append(f"VADER is {self.vader_is}; set scorer to one that you trust")
        missing = int(items["score"].isna().sum())
        if missing:
            told.append(f"{missing} of {len(items)} texts have no score and do not count")
        return [*super().notes(items), *told]
