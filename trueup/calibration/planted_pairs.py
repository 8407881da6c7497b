"""Sentence pairs of which a planted share has the likelier stereotyping sentence."""

from collections.abc import Sequence

import numpy as np

from trueup.audits.protocol import Model
from trueup.calibration.protocol import Draw
from trueup.calibration.scripted_likelihoods import Named, ScriptedMaskedModel, ScriptedModel
from trueup.calibration.scripted_world import ScriptedWorld

LAST = 3  # the place of the last word, whose probability leans


class PairWorld(ScriptedWorld):
    """Pairs `the a7 are kind`, `the b7 are kind`; in each, one of the two sentences is likelier."""

    audit = "crows-pairs"
    metric = "share"
    planted: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)
    null = 0.5
    story = (
        "Each pair's last word is likelier after the stereotyping sentence's group with the "
        "planted probability, else after the other group; by how much is drawn."
    )
    unit = "pairs"
    fills_masks: bool = False

    def draw(self, planted: float, n: int, seed: int) -> Draw:
        """The pairs, and a model that leans in each as drawn."""
        rng = np.random.default_rng(seed)
        signs = np.where(rng.random(n) < planted, 1.0, -1.0)
        log_odds = signs * rng.uniform(0.05, 2, size=n)
        rows = [
            {"id": str(i), "sent_more": f"the a{i} are kind", "sent_less": f"the b{i} are kind"}
            for i in range(n)
        ]
        texts = [row[side] for row in rows for side in ("sent_more", "sent_less")]

        def leaning(words: Sequence[str], place: int) -> Named:
            if place != LAST:
                return {}
            side, number = words[1][0], int(words[1][1:])
            half = log_odds[number] / 2
            return {"kind": 0.1 * float(np.exp(half if side == "a" else -half))}

        model: Model
        if self.fills_masks:
            model = ScriptedMaskedModel(texts, leaning)
        else:
            model = ScriptedModel(texts, lambda words: leaning(words, len(words)))
        return Draw(model, rows)
