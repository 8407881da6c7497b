"""Tests and leanings for the calibration of embedding audits: an effect size of known size."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trueup.worlds.planted_vectors import PlantedEncoder

TEMPLATES = ("This is {word}.", "{word} is here.", "There was {word}.", "We saw {word}.")
SCALE = 0.1  # of leanings: small enough that no cosine comes near 1
EFFECTS = (-0.8, 0.0, 0.4, 0.8, 1.2)  # planted effect sizes d


def planted_leanings(
    effect: float, n: int, *, noise: float, sentences: int, rng: np.random.Generator
) -> tuple[dict[str, float], float]:
    """Leanings of n target words with this effect size d, and the noise of one sentence.

    s = +-gap / 2 + a standard normal number of the word + `noise` of the mean of its sentences;
    d = gap / sqrt(1 + noise^2 + gap^2 / 4), and its largest value is 2
    """
    gap = effect * math.sqrt((1 + noise**2) / (1 - effect**2 / 4))
    sides = np.where(np.arange(n) < n // 2, gap / 2, -gap / 2)
    leanings = SCALE / 2 * (sides + rng.normal(size=n))
    words = {f"w{number}": float(leaning) for number, leaning in enumerate(leanings)}
    attributes = {f"a{number}": 1.0 if number < 4 else -1.0 for number in range(8)}
    return {**words, **attributes}, SCALE / 2 * noise * math.sqrt(sentences)


def planted_rows(n: int, templates: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A test of n target words and eight attributes; a row per word, or per word and sentence."""
    sets = [("targ1" if number < n // 2 else "targ2", f"w{number}") for number in range(n)]
    sets += [("attr1" if number < 4 else "attr2", f"a{number}") for number in range(8)]
    rows = [{"test": "planted", "set": side, "word": word} for side, word in sets]
    if not templates:
        return rows
    return [
        {**row, "text": template.format(word=row["word"])} for row in rows for template in templates
    ]


def planted_encoder(
    effect: float, n: int, seed: int, *, noise: float, sentences: int
) -> PlantedEncoder:
    """The encoder whose n target words have this effect size."""
    rng = np.random.default_rng([seed, n])
    leanings, sentence_noise = planted_leanings(
        effect, n, noise=noise, sentences=sentences, rng=rng
    )
    return PlantedEncoder(leanings, noise=sentence_noise, seed=seed)
