"""Static word vectors, one per word whatever its sentence: GloVe, word2vec or NumPy files."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueup.errors import UserError
from trueup.files import content_hash
from trueup.models.embedder import Array, Place, Pooling
from trueup.models.work import Work

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


class StaticVectors:
    """One vector per word; a text's is the mean of its words' (the bag of words).

    A word is looked up as it stands, then in lower case. A text of unknown words has NaN.
    Fields: words [N], vectors [N, D]; name, as it was loaded; work, always nothing.
    Raises: UserError where there is not one vector for each word.
    """

    def __init__(self, words: Sequence[str], vectors: ArrayLike, *, name: str) -> None:
        self.table: NDArray[np.floating] = np.asarray(vectors)
        if self.table.ndim != 2 or len(self.table) != len(words) or not len(words):
            raise UserError(
                f"{name}: vectors must be a table with a row per word, got {len(words)} words and "
                f"the shape {self.table.shape}"
            )
        self.rows = {word: row for row, word in reversed([*enumerate(words)])}
        self.name = name
        self.work = Work()

    def __repr__(self) -> str:
        return f"StaticVectors({self.name!r}, {len(self.rows)} words, {self.table.shape[1]} wide)"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of words and vectors."""
        words = sorted(self.rows, key=self.rows.__getitem__)
        return content_hash("\n".join(words), np.ascontiguousarray(self.table).tobytes())

    def text_vectors(
        self, texts: Sequence[str], *, layer: int = -1, pooling: Pooling = "auto"
    ) -> Array:
        """A vector per text, [N, D]; there are no layers and nothing else to pool by."""
        vectors = np.full((len(texts), self.table.shape[1]), np.nan)
        for number, text in enumerate(texts):
            rows = self._rows(text)
            if rows:
                vectors[number] = self.table[rows].mean(axis=0, dtype=np.float64)
        return vectors

    def span_vectors(
        self, places: Sequence[Place], *, layer: int = -1, piece: Pooling = "auto"
    ) -> Array:
        """The vector of each word, whatever stands around it, [N, D]."""
        return self.text_vectors([text[start:end] for text, start, end in places])

    def pieces(self, places: Sequence[Place]) -> list[int]:
        """How many words each span has."""
        return [max(1, len(_WORD.findall(text[start:end]))) for text, start, end in places]

    def _rows(self, text: str) -> list[int]:
        """The rows of the text as one entry, else of its known words."""
        whole = self._row(text)
        if whole is None:
            whole = self._row(text.replace(" ", "_"))  # phrases as word2vec writes them
        if whole is not None:
            return [whole]
        found = [self._row(word) for word in _WORD.findall(text)]
        return [row for row in found if row is not None]

    def _row(self, word: str) -> int | None:
        """The word's row, or its lower case's."""
        return self.rows.get(word, self.rows.get(word.lower()))


def load_static(path: str | Path) -> StaticVectors:
    """Static vectors from a text file (GloVe; word2vec with its line of sizes) or an .npz.

    An .npz holds the arrays `words` [N] of text and `vectors` [N, D].
    Raises: UserError with the line that cannot be read.
    """
    file = Path(path)
    if file.suffix.lower() == ".npz":
        return _from_npz(file)
    words: list[str] = []
    rows: list[NDArray[np.float32]] = []
    width = 0
    for number, line in enumerate(_lines(file), start=1):
        parts = line.rstrip().split(" ")
        if number == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
            width = int(parts[1])
            continue
        width = width or len(parts) - 1
        try:
            rows.append(np.array(parts[-width:], dtype=np.float32))
        except ValueError as error:
            raise UserError(f"{file}:{number}: {width} numbers must follow a word") from error
        if len(parts) <= width or not width:
            raise UserError(f"{file}:{number}: a word and {width} numbers must stand here")
        words.append(" ".join(parts[:-width]))
    if not rows:
        raise UserError(f"{file}: is empty")
    return StaticVectors(words, np.stack(rows), name=str(path))


def _lines(file: Path) -> list[str]:
    """The lines of a text file."""
    try:
        return file.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text ({error})") from error


def _from_npz(file: Path) -> StaticVectors:
    """The arrays `words` and `vectors` of an .npz."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            words, vectors = arrays["words"], arrays["vectors"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file}: must hold the arrays words and vectors ({error})") from error
    return StaticVectors([str(word) for word in words], vectors, name=str(file))
