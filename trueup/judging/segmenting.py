"""Two answers cut into segments that stand side by side: equally long, or most alike."""

import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trueup.stats.estimate import Array

Cuts = tuple[int, ...]  # segment l ends after cuts[l] sentences; the last one at the end
Similarity = Callable[[Sequence[str], Sequence[str]], ArrayLike]  # N texts, M texts -> [N, M]

TIE = 1e-12  # sums of similarities nearer than this are equal
MOST = 60  # pieces of an answer between which the best cuts are sought
_WORD = re.compile(r"[^\W_]+")


def length_split(sentences: Sequence[str], k: int) -> Cuts:
    """The k - 1 cuts that make segments nearly equally long, in characters without outer space.

    cut j = the border whose cumulative length is nearest to j L / k, for j = 1, 2, ... in turn,
            behind cut j - 1 and with a sentence left for every later segment; ties: the earlier
    """
    reached = np.cumsum([len(sentence.strip()) for sentence in sentences])
    cuts = [0]
    for number in range(1, k):
        borders = range(cuts[-1] + 1, len(sentences) - (k - number) + 1)
        target = number * int(reached[-1])
        cuts.append(min(borders, key=lambda c: abs(k * int(reached[c - 1]) - target)))
    return tuple(cuts[1:])


def semantic_split(
    first: Sequence[str], second: Sequence[str], k: int, similarity: Similarity | None = None
) -> tuple[Cuts, Cuts]:
    """The cuts of both answers for which the segments that stand together are most alike.

    maximise S = sum_l sim(segment l of first, segment l of second) over all cuts of both
    G(l, i, j) = max over i' > i, j' > j of sim(first[i:i'], second[j:j']) + G(l - 1, i', j')
    Fields: similarity is `token_overlap` by default; it sees each segment once, its sentences
            joined by one space.
    Edges:  equal sums (within TIE): the first cuts in dictionary order, those of `first` leading.
            All pairs of segments are held at once, m^2 n^2 / 4 numbers, so of an answer with more
            than MOST sentences neighbours are joined to MOST pieces of nearly equal length first.
    Source: Li et al. 2023, arXiv 2310.01432; exact here, not greedy.
    """
    ends = [_piece_ends(first), _piece_ends(second)]
    one, two = (
        segments(side, own[:-1], joint=" ") for side, own in zip((first, second), ends, strict=True)
    )
    gains = _Gains(one, two, k, similarity or token_overlap)
    rest = gains.best_rests()
    best = float(rest[k, 0, 0])
    cuts = _first_cuts(gains, rest, best)
    found = (cuts, _second_cuts(gains, cuts, best))
    there, here = (tuple(own[c - 1] for c in side) for own, side in zip(ends, found, strict=True))
    return there, here


def _piece_ends(sentences: Sequence[str]) -> Cuts:
    """Where the pieces end between which is cut: every sentence, where they are not too many."""
    return (*length_split(sentences, min(len(sentences), MOST)), len(sentences))


def alignment_value(
    first: Sequence[str],
    second: Sequence[str],
    cuts: tuple[Cuts, Cuts],
    similarity: Similarity | None = None,
) -> float:
    """S of these cuts: the summed similarity of the segments that stand together."""
    sides = [segments(*side, joint=" ") for side in zip((first, second), cuts, strict=True)]
    return float(np.trace(np.asarray((similarity or token_overlap)(*sides), dtype=np.float64)))


def segments(sentences: Sequence[str], cuts: Cuts, *, joint: str = "") -> list[str]:
    """The sentences joined between the cuts."""
    ends = [0, *cuts, len(sentences)]
    return [joint.join(sentences[start:end]) for start, end in itertools.pairwise(ends)]


def token_overlap(first: Sequence[str], second: Sequence[str]) -> Array:
    """Shared words over the larger number of words, lower-cased and distinct, [N, M].

    sim = |tok(x) & tok(y)| / max(|tok(x)|, |tok(y)|);  0 where neither has a word
    """
    words = [[set(_WORD.findall(text.lower())) for text in texts] for texts in (first, second)]
    place = {word: i for i, word in enumerate(sorted(set().union(*words[0], *words[1])))}
    has = [np.zeros((len(several), len(place))) for several in words]
    for table, several in zip(has, words, strict=True):
        for row, found in zip(table, several, strict=True):
            row[[place[word] for word in found]] = 1.0
    larger = np.maximum(has[0].sum(axis=1)[:, None], has[1].sum(axis=1))
    shared: Array = has[0] @ has[1].T / np.maximum(larger, 1)
    return shared


def cosine(embed: Callable[[Sequence[str]], ArrayLike]) -> Similarity:
    """The similarity that is the cosine of embeddings; `embed` gives [N, D], zeros count as 0."""

    def similarity(first: Sequence[str], second: Sequence[str]) -> Array:
        unit = []
        for texts in (first, second):
            vectors = np.asarray(embed(texts), dtype=np.float64)
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            unit.append(vectors / np.where(norms > 0, norms, 1.0))
        cosines: Array = unit[0] @ unit[1].T
        return cosines

    return similarity


class _Gains:
    """What every pair of segments adds to S, -inf for pairs that cannot be."""

    def __init__(
        self, first: Sequence[str], second: Sequence[str], k: int, similarity: Similarity
    ) -> None:
        self.k, self.m, self.n = k, len(first), len(second)
        texts, self._rows = _segment_table(first, k)
        others, self._columns = _segment_table(second, k)
        self._values = np.full((len(texts) + 1, len(others) + 1), -np.inf)
        self._values[:-1, :-1] = similarity(texts, others)

    def of(self, start: int, end: int) -> Array:
        """Of first[start:end] beside second[j:j'], [n + 1, n + 1] over j and j'."""
        gain: Array = self._values[self._rows[start, end]][self._columns]
        return gain

    def best_rests(self) -> Array:
        """G: the best S from sentences i and j on with l segments, [k + 1, m + 1, n + 1]."""
        rest = np.full((self.k + 1, self.m + 1, self.n + 1), -np.inf)
        rest[0, self.m, self.n] = 0.0
        for start in reversed(range(self.m)):
            for end in range(start + 1, min(self.m, start + self.m - self.k + 1) + 1):
                through = (self.of(start, end) + rest[:-1, end, None, :]).max(axis=2)
                np.maximum(rest[1:, start], through, out=rest[1:, start])
        return rest


def _segment_table(sentences: Sequence[str], k: int) -> tuple[list[str], NDArray[np.intp]]:
    """Every segment that leaves k - 1 sentences, and its number by start and end; -1 for none."""
    m = len(sentences)
    texts: list[str] = []
    numbers = np.full((m + 1, m + 1), -1, dtype=np.intp)
    for start in range(m):
        for end in range(start + 1, min(m, start + m - k + 1) + 1):
            numbers[start, end] = len(texts)
            texts.append(" ".join(part.strip() for part in sentences[start:end]))
    return texts, numbers


def _first_cuts(gains: _Gains, rest: Array, best: float) -> Cuts:
    """The first cuts of the first answer, in dictionary order, from which S is still reached."""
    cuts = [0]
    so_far = np.full(gains.n + 1, -np.inf)  # by where the second answer is cut
    so_far[0] = 0.0
    for left in range(gains.k - 1, 0, -1):
        for end in range(cuts[-1] + 1, gains.m):
            reached = so_far[:, None] + gains.of(cuts[-1], end)
            if (reached + rest[left, end]).max() >= best - TIE:
                break
        so_far = reached.max(axis=0)
        cuts.append(end)
    return tuple(cuts[1:])


def _second_cuts(gains: _Gains, cuts: Cuts, best: float) -> Cuts:
    """The first cuts of the second answer that reach S with these of the first."""
    ends = [0, *cuts, gains.m]
    steps = [gains.of(start, end) for start, end in itertools.pairwise(ends)]
    rests = [np.where(np.arange(gains.n + 1) == gains.n, 0.0, -np.inf)]
    for step in reversed(steps):
        rests.insert(0, (step + rests[0]).max(axis=1))
    place, so_far, found = 0, 0.0, []
    for step, rest in zip(steps[:-1], rests[1:-1], strict=True):
        reached = so_far + step[place]
        place = int(np.flatnonzero(reached + rest >= best - TIE)[0])
        so_far = float(reached[place])
        found.append(place)
    return tuple(found)
