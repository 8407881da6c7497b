"""Two encoders, of questions and of what answers them, and the dot product between them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from trueup.errors import UserError
from trueup.files import content_hash, write_json
from trueup.models.embedder import Array, Embedder, Pooling, Vectors, load_embedder
from trueup.models.tensors import new_folder

SETTINGS = "retriever.json"


@dataclass(frozen=True, eq=False)
class BiEncoder:
    """Two encoders and the dot product between them.

    Fields: query and guideline may be one and the same; normalise gives the cosine.
    """

    query: Vectors
    guideline: Vectors
    pooling: Pooling = "auto"
    normalise: bool = False

    @property
    def fingerprint(self) -> str:
        """A hash of both encoders and of how their vectors are made."""
        both = [
            str(getattr(each, "fingerprint", each.name)) for each in (self.query, self.guideline)
        ]
        return content_hash(*both, self.pooling, str(self.normalise))

    def query_vectors(self, texts: Sequence[str]) -> Array:
        """A vector per input, [N, D]."""
        return self._vectors(self.query, texts)

    def guideline_vectors(self, texts: Sequence[str]) -> Array:
        """A vector per guideline, [N, D]."""
        return self._vectors(self.guideline, texts)

    def save(self, folder: Path | str) -> None:
        """Write both encoders (safetensors) and the settings; the folder is whole or absent.

        Raises: UserError where an encoder has no weights.
        """
        for each in (self.query, self.guideline):
            if not isinstance(each, Embedder):
                raise UserError(f"only encoders with weights can be saved, got {each!r}")
        with new_folder(Path(folder)) as part:
            for name in ("query", "guideline"):
                encoder = cast(Embedder, getattr(self, name))
                encoder.model.save_pretrained(part / name)
                encoder.tokenizer.save_pretrained(part / name)
            write_json(part / SETTINGS, {"pooling": self.pooling, "normalise": self.normalise})

    def _vectors(self, encoder: Vectors, texts: Sequence[str]) -> Array:
        """The encoder's vectors."""
        vectors = np.asarray(encoder.text_vectors(texts, pooling=self.pooling), dtype=np.float64)
        if self.normalise:
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-30)
        return vectors


def load_retriever(path: str | Path) -> BiEncoder:
    """A bi-encoder as `BiEncoder.save` wrote it, or any encoder for both sides, by the cosine."""
    settings = Path(path) / SETTINGS
    if not settings.is_file():
        encoder = load_embedder(path)
        return BiEncoder(encoder, encoder, normalise=True)
    known = json.loads(settings.read_text(encoding="utf-8"))
    query, guideline = (load_embedder(Path(path) / name) for name in ("query", "guideline"))
    return BiEncoder(query, guideline, pooling=known["pooling"], normalise=known["normalise"])
