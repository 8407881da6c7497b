"""Planted vectors: an encoder whose words lean by known amounts, and names with known groups."""

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]

_WORD = re.compile(r"[^\W_]+")
_SCALE = 2.0**64


class Unmeasured:
    """The work of something that computes nothing worth counting."""

    def as_dict(self) -> dict[str, float]:
        """No counter."""
        return {}


class PlantedEncoder:
    """Vectors (c, sqrt(1 - c^2)) of texts and words, where c is planted.

    c = the word's leaning + noise * a standard normal number that the text and the word's place in
    it determine; a text's c adds up the leanings of its words. The cosine of a word with the first
    axis is then c itself: the associations of an attribute set at +1 and one at -1 differ by 2 c.
    Fields: leanings by word, 0 for all others; noise of contexts; seed makes other noise.
    """

    is_masked = False

    def __init__(self, leanings: Mapping[str, float], *, noise: float = 0.0, seed: int = 0) -> None:
        self.leanings = dict(leanings)
        self.noise = noise
        self.seed = seed
        self.name = "planted-vectors"
        self.work = Unmeasured()

    @property
    def fingerprint(self) -> str:
        """What was planted."""
        content = f"{sorted(self.leanings.items())}:{self.noise}:{self.seed}"
        return hashlib.sha256(content.encode()).hexdigest()

    def text_vectors(
        self, texts: Sequence[str], *, layer: int = -1, pooling: str = "auto"
    ) -> Array:
        """A vector per text, [N, 2]."""
        leanings = [
            sum(self.leanings.get(word, 0.0) for word in _WORD.findall(text)) for text in texts
        ]
        return self._vectors(leanings, texts)

    def span_vectors(
        self, places: Sequence[tuple[str, int, int]], *, layer: int = -1, piece: str = "auto"
    ) -> Array:
        """A vector per word in its text, [N, 2]."""
        leanings = [self.leanings.get(text[start:end], 0.0) for text, start, end in places]
        return self._vectors(leanings, [f"{text}\0{start}" for text, start, _ in places])

    def pieces(self, places: Sequence[tuple[str, int, int]]) -> list[int]:
        """One token per word."""
        return [1] * len(places)

    def _vectors(self, leanings: Sequence[float], keys: Sequence[str]) -> Array:
        """The vectors of leanings; a leaning of +-1 (an attribute's) has no noise."""
        c = np.array(leanings, dtype=np.float64)
        if self.noise:
            noise = self.noise * ndtri(np.array([self._uniform(key) for key in keys]))
            c = np.where(np.abs(c) < 1, c + noise, c)
        c = np.clip(c, -1, 1)
        return np.stack([c, np.sqrt(1 - c**2)], axis=1)

    def _uniform(self, key: str) -> float:
        """A number in (0, 1) that the key determines."""
        digest = hashlib.blake2b(f"{self.seed}\0{key}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") + 0.5) / _SCALE


def planted_names(
    shifts: Sequence[float],
    *,
    rng: np.random.Generator,
    names: int = 13,
    templates: int = 8,
    width: int = 32,
    template_sd: float = 0.5,
    sentence_sd: float = 0.0,
) -> Array:
    """Vectors of names in templates, one group per shift along the first axis: [G, M, K, D].

    vector = template effect (shared by all names) + word effect (sd 1) + sentence noise + shift u
    """
    groups = len(shifts)
    templated = template_sd * rng.normal(size=(1, 1, templates, width))
    words = rng.normal(size=(groups, names, 1, width))
    noise = sentence_sd * rng.normal(size=(groups, names, templates, width))
    vectors = templated + words + noise
    vectors[..., 0] += np.asarray(shifts)[:, None, None]
    return vectors


def planted_attributes(
    *, rng: np.random.Generator, words: int = 25, width: int = 32
) -> tuple[Array, Array]:
    """Attribute vectors around +u and around -u, u the first axis: [A, D] twice."""
    both = rng.normal(size=(2, words, width)) / np.sqrt(width)
    both[0, :, 0] += 1
    both[1, :, 0] -= 1
    return both[0], both[1]
