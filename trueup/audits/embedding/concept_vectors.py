"""Concept vectors: the direction in which a concept's sentences differ from neutral ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

from trueup.audits.estimates import generator
from trueup.models.activations import States
from trueup.models.sparse_autoencoder import SparseAutoencoder
from trueup.stats.estimate import Array

EPS = 1e-12  # of the relative score, where both cosines are 0
CONFIDENT = 0.9  # mean probability that the rule "confidence" steers to

NEUTRAL = "neutral sentences"
_FOLDS = 5
_ITERATIONS, _HALVINGS = 50, 20
_DECREMENT = 1e-9  # twice what one more Newton step would still gain, in nats
_CELLS = 4_000_000  # numbers held at once while a batch of regressions is fitted


@dataclass(frozen=True)
class Cavs:
    """Concept activation vectors: P(concept | h) = sigmoid(w h + b), one per line.

    Shapes: weights [B, D] (w, not normalised), intercepts [B].
    """

    weights: Array
    intercepts: Array

    @property
    def directions(self) -> Array:
        """Every line at length 1, [B, D]; NaN where the states do not differ at all."""
        return unit_rows(self.weights)

    @classmethod
    def stacked(cls, several: Sequence[Self]) -> Self:
        """The lines of several, one after the other."""
        weights = np.concatenate([each.weights for each in several])
        return cls(weights, np.concatenate([each.intercepts for each in several]))

    def __getitem__(self, which: int | slice) -> Self:
        """Some of the lines."""
        rows = slice(which, which + 1) if isinstance(which, int) else which
        return type(self)(self.weights[rows], self.intercepts[rows])

    def probabilities(self, states: Array) -> Array:
        """P(concept | state) of each line and state, [B, N]."""
        told: Array = expit(self.weights @ states.T + self.intercepts[:, None])
        return told


@dataclass(frozen=True)
class Bias:
    """How much nearer a target lies to the first reference than to the second.

    first, second = cos(C_t, C_1), cos(C_t, C_2)
    signed = first - second;  size = |signed|;  relative = size / (|first| + |second| + 1e-12)
    """

    first: float
    second: float

    @property
    def signed(self) -> float:
        """Above 0 where the target lies nearer to the first reference."""
        return self.first - self.second

    @property
    def size(self) -> float:
        """The difference without its sign."""
        return abs(self.signed)

    @property
    def relative(self) -> float:
        """The difference as a share of the cosines' sizes."""
        return self.size / (abs(self.first) + abs(self.second) + EPS)


def concept_bias(target: ArrayLike, first: ArrayLike, second: ArrayLike) -> Bias:
    """BiasLens' score of a target [K] against a pair of references; NaN where a vector is 0."""
    c_t, c_1, c_2 = unit_rows(np.array([target, first, second], dtype=np.float64))
    return Bias(float(c_t @ c_1), float(c_t @ c_2))


def feature_terms(target: ArrayLike, first: ArrayLike, second: ArrayLike) -> Array:
    """What every feature adds to the signed score, [K]; the terms sum to it."""
    c_t, c_1, c_2 = unit_rows(np.array([target, first, second], dtype=np.float64))
    terms: Array = c_t * (c_1 - c_2)
    return terms


def fit_cav(
    positives: ArrayLike, negatives: ArrayLike, *, C: float = 1.0, standardise: bool = False
) -> Cavs:
    """The concept activation vector of states [n, D] with the concept and without, one line."""
    states = np.concatenate([np.asarray(positives), np.asarray(negatives)]).astype(np.float64)
    labels = np.repeat([1.0, 0.0], [len(np.asarray(positives)), len(np.asarray(negatives))])
    return fit_cavs(states, labels[None], np.ones_like(labels)[None], C=C, standardise=standardise)


def fit_cavs(
    states: Array,
    labels: Array,
    counts: Array,
    *,
    C: float = 1.0,
    standardise: bool = False,
    near: Cavs | None = None,
) -> Cavs:
    """Many logistic regressions on the same states, which differ in labels and counts.

    minimise ||w||^2 / 2 + C sum over n of counts_n (log(1 + exp(m_n)) - labels_n m_n), m = w h + b
    Newton's steps with halving, for all lines at once; where D exceeds N in the N-dimensional space
    that the states span, which the penalty does not see.
    Shapes: states [N, D], labels and counts [B, N].
    Fields: C is the inverse penalty, the intercept is free; standardise divides every dimension by
            its standard deviation first, and maps w back; near is one line to start from.
    """
    middle = states.mean(axis=0)
    spread = states.std(axis=0) if standardise else np.ones(states.shape[1])
    spread = np.where(spread > 0, spread, 1.0)
    z, basis = _spanned((states - middle) / spread)
    start = np.zeros((len(labels), z.shape[1] + 1))
    if near is not None:
        start[:, :-1] = (near.weights * spread) @ basis.T
        start[:, -1] = near.intercepts + near.weights @ middle
    design = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    step = max(1, _CELLS // design.size)
    found = np.concatenate(
        [
            _newton(design, labels[at : at + step], C * counts[at : at + step], start[at:][:step])
            for at in range(0, len(labels), step)
        ]
    )
    weights = found[:, :-1] @ basis / spread
    return Cavs(weights, found[:, -1] - weights @ middle)


def held_out_accuracy(
    states: Array, labels: Array, folds: NDArray[np.int64], *, C: float, standardise: bool
) -> float:
    """Balanced accuracy on sentences that the regression has not seen, over folds; 0.5 is chance.

    Shapes: states [N, D], labels [N] of 0 and 1, folds [N] the fold that holds each one out.
    """
    held = np.array([folds == fold for fold in np.unique(folds)])
    truth = np.broadcast_to(labels, held.shape)
    cavs = fit_cavs(states, truth, (~held).astype(np.float64), C=C, standardise=standardise)
    is_right = ((cavs.probabilities(states) > 0.5) == (truth > 0.5))[held]
    of_concept = truth[held] > 0.5
    return float((is_right[of_concept].mean() + is_right[~of_concept].mean()) / 2)


@dataclass(frozen=True, kw_only=True)
class ConceptSpace:
    """Where concepts are compared: activations themselves, or the features of an autoencoder.

    cav:     C = v
    sae:     C = mean over j of enc(h_j + alpha v) - enc(h_j), the response to steering
    encode:  C = enc(alpha v)
    decoder: C_k = cosine of v with feature k's direction in the decoder
    alpha  = `alpha` * mean over j of ||h_j||; by the rule "confidence" a concept's own, the least
             one >= 0 at which the mean over j of P(concept | h_j + alpha v) is 0.9
    Shapes: base [J, D], neutral states.
    Source: this reading of the paper's step from directions to features is ours.
    """

    base: Array
    mode: str = "cav"
    sae: SparseAutoencoder | None = None
    alpha: float = 1.0
    alpha_rule: str = "norm"

    def vectors(self, cavs: Cavs) -> Array:
        """The concept vector of each line, [B, K]; not normalised."""
        directions = cavs.directions
        if self.sae is None or self.mode == "cav":
            return directions
        if self.mode == "decoder":
            return directions @ self.sae.feature_directions().T
        shifts = self.alphas(cavs)[:, None] * directions
        if self.mode == "encode":
            return self.sae.encode(shifts)
        return self.sae.responses(self.base, shifts)

    def alphas(self, cavs: Cavs) -> Array:
        """How far each line steers, [B]."""
        if self.alpha_rule == "norm":
            length = self.alpha * float(np.linalg.norm(self.base, axis=1).mean())
            return np.full(len(cavs.weights), length)
        return np.array(
            [_confident_alpha(cavs[line], self.base) for line in range(len(cavs.weights))]
        )


@dataclass(frozen=True)
class ConceptStates:
    """The states [n, L, D] of every concept's sentences and of the neutral ones."""

    concepts: Mapping[str, States]
    negatives: States

    def pair(self, name: str, layer: int) -> tuple[Array, Array]:
        """States [N, D] of one layer, the concept's before the neutral ones, and labels [N]."""
        own = self.concepts[name]
        states = np.concatenate([own[:, layer], self.negatives[:, layer]]).astype(np.float64)
        return states, np.repeat([1.0, 0.0], [len(own), len(self.negatives)])


@dataclass(frozen=True)
class Cells:
    """Which concepts each cell compares, as places in the list of concepts, [N] each."""

    target: NDArray[np.intp]
    first: NDArray[np.intp]
    second: NDArray[np.intp]

    def cosines(self, vectors: Array, references: Array | None = None) -> Array:
        """The target's cosine with each reference, [2, N], from concept vectors [M, K]."""
        units = unit_rows(vectors)
        others = units if references is None else unit_rows(references)
        targets = units[self.target]
        pairs = [(targets * others[which]).sum(axis=1) for which in (self.first, self.second)]
        return np.array(pairs)


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How the probes of many concepts are fitted, held out, resampled and shuffled.

    Draws follow from seed and the concept's name alone, so that a concept is resampled alike
    beside whichever others.
    """

    C: float
    standardise: bool
    n_boot: int
    n_null: int
    seed: int

    def probed(self, states: ConceptStates, layer: int) -> tuple[Cavs, Array]:
        """Every concept's probe at one layer, and their held-out accuracies [M]."""
        fitted, accuracies = [], []
        for name, own in states.concepts.items():
            x, labels = states.pair(name, layer)
            fitted.append(self._fit(x, labels[None], np.ones((1, len(x)))))
            folds = np.concatenate([self._folds(name, len(own)),
                                    self._folds(NEUTRAL, len(states.negatives))])  # fmt: skip
            accuracies.append(
                held_out_accuracy(x, labels, folds, C=self.C, standardise=self.standardise)
            )
        return Cavs.stacked(fitted), np.array(accuracies)

    def resampled(
        self, states: ConceptStates, layer: int, cavs: Cavs, space: ConceptSpace, cells: Cells
    ) -> Array:
        """Cosines [2, N, B] of probes fitted to resampled sentences; all share the neutral ones."""
        neutral = self._counts(NEUTRAL, len(states.negatives))
        refits = []
        for place, (name, own) in enumerate(states.concepts.items()):
            x, labels = states.pair(name, layer)
            counts = np.concatenate([self._counts(name, len(own)), neutral], axis=1)
            truth = np.broadcast_to(labels, counts.shape)
            refits.append(self._fit(x, truth, counts, near=cavs[place]))
        rounds = [
            cells.cosines(space.vectors(Cavs.stacked([refit[number] for refit in refits])))
            for number in range(self.n_boot)
        ]
        return np.stack(rounds, axis=-1)

    def shuffled(
        self, states: ConceptStates, layer: int, space: ConceptSpace, vectors: Array, cells: Cells
    ) -> Array:
        """Signed scores [N, B] where the target's probe is fitted to shuffled labels."""
        names = list(states.concepts)
        result = np.empty((len(cells.target), self.n_null))
        for place in np.unique(cells.target):
            x, labels = states.pair(names[place], layer)
            rng = generator(str(self.seed), "shuffled", names[place])
            drawn = rng.permuted(np.broadcast_to(labels, (self.n_null, len(x))), axis=1)
            chance = unit_rows(space.vectors(self._fit(x, drawn, np.ones_like(drawn))))  # [B, K]
            own = cells.target == place
            references = unit_rows(vectors)
            apart = references[cells.first[own]] - references[cells.second[own]]
            result[own] = apart @ chance.T
        return result

    def _fit(self, x: Array, labels: Array, counts: Array, near: Cavs | None = None) -> Cavs:
        """The regressions with these settings."""
        return fit_cavs(x, labels, counts, C=self.C, standardise=self.standardise, near=near)

    def _counts(self, name: str, size: int) -> Array:
        """How often each resample draws every sentence, [B, n]; the same in every chunk."""
        rng = generator(str(self.seed), "resampled", name)
        drawn = (
            rng.integers(size, size=(self.n_boot, size)) + size * np.arange(self.n_boot)[:, None]
        )
        counts = np.bincount(drawn.ravel(), minlength=self.n_boot * size).astype(np.float64)
        return counts.reshape(self.n_boot, size)

    def _folds(self, name: str, size: int) -> NDArray[np.int64]:
        """The fold of every sentence."""
        rng = generator(str(self.seed), "folds", name)
        return rng.permutation(np.arange(size) % _FOLDS)


def unit_rows(vectors: Array) -> Array:
    """The vectors [..., K] at length 1; NaN where the length is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def _confident_alpha(cav: Cavs, base: Array) -> float:
    """The least alpha >= 0 at which the probe is confident of the shifted base states."""
    size = float(np.linalg.norm(cav.weights))
    margins = base @ cav.weights[0] + cav.intercepts[0]

    def lacking(alpha: float) -> float:
        return float(expit(margins + alpha * size).mean()) - CONFIDENT

    if lacking(0.0) >= 0 or not size:
        return 0.0
    furthest = (np.log(CONFIDENT / (1 - CONFIDENT)) - margins.min()) / size
    return float(brentq(lacking, 0.0, furthest, xtol=1e-10))


def _spanned(states: Array) -> tuple[Array, Array]:
    """Coordinates [N, R] of centred states in an orthonormal basis [R, D] of what they span."""
    if states.shape[1] <= states.shape[0]:
        return states, np.eye(states.shape[1])
    left, sizes, basis = np.linalg.svd(states, full_matrices=False)
    keep = sizes > 1e-10 * max(float(sizes[0]), np.finfo(float).tiny)
    return left[:, keep] * sizes[keep], basis[keep]


def _newton(design: Array, labels: Array, counts: Array, start: Array) -> Array:
    """The minima [B, R + 1], the last number the free intercept's; counts hold C already."""
    penalty: Array = np.ones(design.shape[1])
    penalty[-1] = 0.0
    found, active = start.copy(), np.arange(len(labels))
    for _ in range(_ITERATIONS):
        w, y, s = found[active], labels[active], counts[active]
        margins = w @ design.T
        chance = expit(margins)
        slope = (s * (chance - y)) @ design + penalty * w
        curve = (design.T * (s * chance * (1 - chance))[:, None, :]) @ design
        curve[:, np.arange(len(penalty)), np.arange(len(penalty))] += penalty + 1e-12
        move = np.linalg.solve(curve, slope[..., None])[..., 0].astype(np.float64)
        found[active] = w - _shortened(w, move, margins, move @ design.T, y, s, penalty) * move
        active = active[(slope * move).sum(axis=1) > _DECREMENT]
        if not len(active):
            break
    return found


def _shortened(
    w: Array, move: Array, margins: Array, change: Array, y: Array, s: Array, penalty: Array
) -> Array:
    """How much of each line's step to take, [B, 1]: all of it unless that makes things worse."""

    def cost(length: Array) -> Array:
        m = margins - length * change
        moved = w - length * move
        total: Array = (s * (np.logaddexp(0, m) - y * m)).sum(1) + (penalty * moved**2).sum(1) / 2
        return total

    length = np.ones((len(w), 1))
    before = cost(np.zeros_like(length))
    allowed = before + 1e-9 * (1 + np.abs(before))
    for _ in range(_HALVINGS):
        is_worse = cost(length) > allowed
        if not is_worse.any():
            break
        length[is_worse] /= 2
    return length
