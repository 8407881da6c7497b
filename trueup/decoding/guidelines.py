"""The library of guidelines: written by a teacher or by hand, kept without copies, retrieved."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch

from trueup.decoding.bi_encoder import BiEncoder
from trueup.decoding.guide_retriever import Pair, RetrieverTraining, train_retriever
from trueup.decoding.guideline_dedup import greedy_dedup, light_dedup, ratios
from trueup.decoding.guideline_writing import write_guidelines
from trueup.errors import UserError, check_at_least, check_between
from trueup.files import write_json
from trueup.judging.asking import Ask, Sampler, asker
from trueup.models.embedder import Array, Embedder
from trueup.models.tensors import new_folder, read_tensors, save_tensors

TEXTS, VECTORS = "guidelines.json", "vectors.safetensors"
SCHEMA = 1


@dataclass(frozen=True)
class Guideline:
    """One rule, "Title: text"; score is how near it lies to the query."""

    whole: str
    score: float = math.nan

    @property
    def title(self) -> str:
        """What stands before the colon."""
        return self.whole.partition(":")[0].strip()

    @property
    def text(self) -> str:
        """What stands behind it; all of it where there is no title."""
        return self.whole.partition(":")[2].strip() or self.whole


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """How guidelines are retrieved.

    The n nearest by dot product, in order; of these greedily those whose ratio to all before them
    is below delta; of these the first k.
    Fields: floor is the least dot product of a guideline that may be used, None for any.
    """

    n: int = 20
    k: int = 6
    delta: float = 0.53
    floor: float | None = None

    def __post_init__(self) -> None:
        check_at_least(1, n=self.n, k=self.k)
        check_between(0, 2, delta=self.delta)


class GuidelineLibrary:
    """Guidelines "Title: text", the pairs that a retriever learns from, and the vectors.

    Fields: texts in the order in which they came; pairs of an input and a guideline that the
            teacher wrote for it; same is the ratio above which a new text is a copy.
    """

    def __init__(self, texts: Sequence[str] = (), pairs: Sequence[Pair] = (), same: float = 0.75):
        check_between(0, 1, same=same)
        self.same = same
        self.texts = [texts[place] for place in light_dedup(texts, same)]
        self.pairs = list(pairs)
        self._vectors: Array | None = None
        self._vectors_of = ""

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"GuidelineLibrary({len(self)} guidelines, {len(self.pairs)} pairs)"

    @classmethod
    def build(
        cls,
        inputs: Sequence[str],
        teacher: Sampler | Ask,
        *,
        same: float = 0.75,
        temperature: float = 0.7,
        max_new_tokens: int = 768,
        seed: int = 0,
    ) -> "GuidelineLibrary":
        """A library that a strong model writes for the inputs, two calls each.

        Fields: teacher is a language model, an endpoint, or a function from prompts to answers.
        """
        ask = asker(
            teacher,
            user="guide-align",
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        written = write_guidelines(inputs, ask)
        pairs = [(each.input, text) for each in written for text in each.guidelines]
        return cls([text for _, text in pairs], pairs, same)

    def add(self, guideline: str) -> bool:
        """Add a rule written by hand; False where it is a copy of one that is there.

        Raises: UserError where it is not "Title: text".
        """
        title, colon, text = (part.strip() for part in guideline.partition(":"))
        if not (title and colon and text):
            raise UserError(f"a guideline reads 'Title: text', got {guideline!r:.60}")
        whole = f"{title}: {text}"
        if (ratios([whole], self.texts, cutoff=self.same) > self.same).any():
            return False
        self.texts.append(whole)
        return True

    def train_retriever(
        self, encoder: Embedder, settings: RetrieverTraining | None = None
    ) -> BiEncoder:
        """A bi-encoder that has learnt the library's pairs; the encoder stays as it is."""
        return train_retriever(encoder, self.pairs, settings=settings)

    def retrieve(
        self, queries: Sequence[str], encoder: BiEncoder, how: Retrieval | None = None
    ) -> list[list[Guideline]]:
        """The guidelines for every query, the nearest first.

        Edges:  an empty library, or nothing above the floor: none. Ties go to what came first.
        """
        if not self.texts or not queries:
            return [[] for _ in queries]
        vectors = self._indexed(encoder)
        return [
            self._nearest(vectors @ query, how or Retrieval())
            for query in encoder.query_vectors(queries)
        ]

    def save(self, folder: Path | str) -> None:
        """Write texts and pairs as JSON, vectors as safetensors; the folder is whole or absent."""
        known: dict[str, Any] = {
            "schema": SCHEMA,
            "same": self.same,
            "guidelines": self.texts,
            "pairs": self.pairs,
            "vectors_of": self._vectors_of,
        }
        with new_folder(Path(folder)) as part:
            write_json(part / TEXTS, known)
            if self._vectors is not None:
                save_tensors(part / VECTORS, {"vectors": torch.from_numpy(self._vectors)})

    @classmethod
    def load(cls, folder: Path | str) -> "GuidelineLibrary":
        """A library as `save` wrote it.

        Raises: UserError where the folder holds none, or a damaged one.
        """
        path = Path(folder) / TEXTS
        library = cls()
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            library.same, library._vectors_of = float(known["same"]), str(known["vectors_of"])
            library.texts = [str(text) for text in known["guidelines"]]
            library.pairs = [(str(question), str(text)) for question, text in known["pairs"]]
            if library._vectors_of:
                tensors, _ = read_tensors(path.with_name(VECTORS))
                library._vectors = tensors["vectors"].numpy()
                if len(library._vectors) > len(library):
                    raise ValueError(f"{len(library)} texts, {len(library._vectors)} vectors")
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise UserError(f"{path}: is no library of guidelines ({error})") from error
        return library

    def _indexed(self, encoder: BiEncoder) -> Array:
        """The guidelines' vectors [N, D]; only what is new to this encoder is encoded."""
        fingerprint = encoder.fingerprint
        if self._vectors is None or fingerprint != self._vectors_of:
            self._vectors, self._vectors_of = encoder.guideline_vectors(self.texts), fingerprint
        elif len(self._vectors) < len(self.texts):
            added = encoder.guideline_vectors(self.texts[len(self._vectors) :])
            self._vectors = np.concatenate([self._vectors, added])
        return self._vectors

    def _nearest(self, scores: Array, how: Retrieval) -> list[Guideline]:
        """The guidelines by their scores [N]."""
        order = np.argsort(-scores, kind="stable")[: how.n].tolist()
        if how.floor is not None:
            order = [place for place in order if scores[place] >= how.floor]
        kept = greedy_dedup([self.texts[place] for place in order], how.delta, how.k)
        return [Guideline(self.texts[order[at]], float(scores[order[at]])) for at in kept]
