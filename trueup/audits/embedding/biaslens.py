"""BiasLens: is a concept's direction in the model nearer to one reference's or to another's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trueup.audits.embedding.concept_sentences import Concepts, read_concepts, remarks_on
from trueup.audits.embedding.concept_vectors import (
    EPS,
    Cavs,
    Cells,
    ConceptSpace,
    ConceptStates,
    Probing,
    feature_terms,
)
from trueup.audits.protocol import (
    Metric,
    Model,
    Probe,
    Rows,
    Slices,
    average,
    frame,
    slices_by,
)
from trueup.errors import UserError, check_at_least, check_between, check_choice, check_positive
from trueup.models.activations import LayerStates, states_of
from trueup.models.sparse_autoencoder import SparseAutoencoder, load_sae
from trueup.stats import Estimate, Labels, mean
from trueup.stats.estimate import Array

MODES = ("auto", "cav", "sae", "encode", "decoder")

_TOLD = 5  # features and layers that a note names


@dataclass(frozen=True, kw_only=True)
class BiasLens:
    """How much nearer a concept's direction lies to one reference's than to the other's.

    v_c      = w / ||w|| of a logistic regression, concept's sentences against neutral ones, on the
               state of the last real token
    C_c      = v_c, or with a sparse autoencoder the mean over neutral states h_j of
               enc(h_j + alpha v_c) - enc(h_j)
    signed   = cos(C_t, C_1) - cos(C_t, C_2), above 0 where t lies nearer to reference 1; neutral 0
    size     = |signed|;  relative = |signed| / (|cos(C_t, C_1)| + |cos(C_t, C_2)|)
    Data:    role (target, reference, negative), concept, text; optional: pair, the name that two
             references share (needed where there are more than two; the one named first is
             reference 1); group of a target. Neutral sentences best come from the same writer, are
             about other things, and are as long and end alike.
    Items:   a row per target and pair of references.
    Fields:  layer counts as hidden states do, "best" is the one whose probes are best on held-out
             sentences (of equals the one nearest to the middle); mode "auto" is "sae" where sae
             names a file or folder, else "cav"; others as in `ConceptSpace`, with base how many
             neutral states are steered; C and standardise as in `fit_cavs`; n_boot resamples of
             sentences, n_null fits to shuffled labels; a cell one of whose probes has a held-out
             accuracy below min_accuracy is refused: its direction is chance, and chance looks
             unbiased.
    Edges:   refused cells are NaN and not counted.
    Raises:  UserError where alpha is so small that a concept moves no feature.
    Source:  Gao et al. 2025, arXiv 2505.15524; its code was not read. The step from directions to
             features, alpha, relative, the chance band and all intervals are ours.
    """

    layer: int | Literal["best"] = "best"
    mode: Literal["auto", "cav", "sae", "encode", "decoder"] = "auto"
    sae: str = ""
    alpha: float = 1.0
    alpha_rule: Literal["norm", "confidence"] = "norm"
    C: float = 1.0
    standardise: bool = False
    base: int = 200
    n_boot: int = 200
    n_null: int = 200
    min_accuracy: float = 0.8
    seed: int = 0
    level: float = 0.95

    name: ClassVar[str] = "biaslens"
    columns: ClassVar[tuple[str, ...]] = ("role", "concept", "text")
    optional: ClassVar[tuple[str, ...]] = ("pair", "group")
    wants: ClassVar[str] = "sentences that express each concept, and neutral ones"
    estimating: ClassVar[tuple[str, ...]] = ("min_accuracy",)

    def __post_init__(self) -> None:
        check_choice(MODES, mode=self.mode)
        check_choice(("norm", "confidence"), alpha_rule=self.alpha_rule)
        check_positive(alpha=self.alpha, C=self.C)
        check_at_least(1, base=self.base)
        check_at_least(20, n_boot=self.n_boot, n_null=self.n_null)
        check_at_least(0, seed=self.seed)
        check_between(0, 1, min_accuracy=self.min_accuracy)
        check_between(0.01, 0.999, level=self.level)
        if self.mode not in ("auto", "cav") and not self.sae:
            raise UserError(f"mode {self.mode!r} needs an autoencoder, got sae=''; name its file")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Size, signed and relative difference (ideal 0), and how good the probes are."""
        return (
            average(
                "size",
                lambda items: np.abs(self._signed(items)),
                ideal=0.0,
                span=(0.0, 2.0),
                reading="How unevenly the model places the targets between two references; chance "
                "alone gives a size above 0, see the chance band. It describes: what goes together "
                "in the world looks the same as a stereotype. Few sentences in a wide model shrink "
                "it, and so does whatever else a direction holds: compare at equal numbers, and "
                "across models or layers only ranks.",
            ),
            average(
                "signed",
                self._signed,
                ideal=0.0,
                span=(-2.0, 2.0),
                reading="The same with its sign, above 0 towards the first reference. Over cells "
                "that lean either way it averages out.",
            ),
            average(
                "relative",
                lambda items: np.abs(self._relative(items)),
                ideal=0.0,
                span=(0.0, 1.0),
                sliced=False,
                reading="The size as a share of both cosines. It nears 1 by chance where a target "
                "has nothing to do with either reference.",
            ),
            average(
                "accuracy",
                lambda items: items["accuracy"].to_numpy(np.float64),
                span=(0.0, 1.0),
                sliced=False,
                reading="How often the worst probe of a cell tells its concept from neutral "
                "sentences that it has not seen; 0.5 is chance. Refused cells count here.",
            ),
        )

    def probes(self, data: Rows) -> list[Probe]:
        """One probe per target and pair of references."""
        concepts, targets, pairs = read_concepts(data, self.columns)
        remarks = " | ".join(remarks_on(concepts))
        return [
            Probe(
                id=f"{target}: {pair}",
                group="|".join(filter(None, (pair, group))),
                cluster=target,
                prompt=f"{target}: {first} or {second}?",
                labels={
                    "concepts": concepts,
                    "cell": (target, first, second),
                    "remarks": remarks,
                },
            )
            for target, group in targets.items()
            for pair, (first, second) in pairs.items()
        ]

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """Cosines of every cell, their resamples and those of shuffled labels."""
        concepts: Concepts = probes[0].labels["concepts"]
        sae = load_sae(self.sae) if self.sae and self.mode != "cav" else None
        source = states_of(model, self.name)
        states = _states(source, concepts)
        cells = _cells(concepts, probes)
        probing = Probing(
            C=self.C,
            standardise=self.standardise,
            n_boot=self.n_boot,
            n_null=self.n_null,
            seed=self.seed,
        )
        fits = {
            layer: probing.probed(states, layer)
            for layer in self._layers(sae, states.negatives.shape[1], source)
        }
        middle = (states.negatives.shape[1] - 1) / 2
        layer = max(fits, key=lambda each: (fits[each][1].mean(), -abs(each - middle)))
        cavs, accuracies = fits[layer]
        space = ConceptSpace(
            base=states.negatives[: self.base, layer].astype(np.float64),
            mode="sae" if sae is not None and self.mode == "auto" else self.mode,
            sae=sae,
            alpha=self.alpha,
            alpha_rule=self.alpha_rule,
        )
        vectors = _checked(space.vectors(cavs), concepts, self.alpha)
        found = cells.cosines(vectors)
        boots = probing.resampled(states, layer, cavs, space, cells)  # [2, N, B]
        three = np.array([cells.target, cells.first, cells.second])
        worst = three[accuracies[three].argmin(axis=0), np.arange(len(probes))]
        return frame(
            probes,
            target=[probe.labels["cell"][0] for probe in probes],
            layer=[layer] * len(probes),
            mode=["cav" if sae is None else space.mode] * len(probes),
            cos_first=found[0],
            cos_second=found[1],
            accuracy=accuracies[worst],
            worst=[concepts.names[place] for place in worst],
            boot_first=boots[0].tolist(),
            boot_second=boots[1].tolist(),
            null=probing.shuffled(states, layer, space, vectors, cells).tolist(),
            curve=_curve([fit[0] for fit in fits.values()], cells),
            features=_features(vectors, cells, has_features=sae is not None),
            remarks=[probe.labels["remarks"] for probe in probes],
            input=[probe.prompt for probe in probes],
            score=found[0] - found[1],
        )

    def slices(self, items: pd.DataFrame) -> Slices:
        """By pair of references and group of targets, and by target."""
        return slices_by(items, "group", "target")

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """Every metric, with intervals over resampled sentences and the band of chance."""
        rows = [
            self._estimate(metric.name, items[mask], Labels(
                audit=self.name, metric=metric.name, slice=name, level=self.level,
                ideal=metric.ideal,
            ))
            for metric in self.metrics
            for name, mask in self.slices(items).items()
            if name == "all" or metric.sliced
        ]  # fmt: skip
        return [row for row in rows if row.n or row.slice == "all"]

    def notes(self, items: pd.DataFrame) -> list[str]:
        """What was compared where, what was refused, what chance gives, and what confounds."""
        first = items.iloc[0]
        kept = items[self._is_kept(items)]
        lines = [
            f"concepts compared at layer {first['layer']} (0 is the embedding), mode "
            f"{first['mode']}",
            *self._refusals(items),
            *self._chance(kept),
            *(f"data: {remark}" for remark in first["remarks"].split(" | ") if remark),
            *_curves(kept),
            *(f"features behind {row['id']}: {row['features']}"
              for _, row in kept.head(_TOLD).iterrows() if row["features"]),
        ]  # fmt: skip
        lines.append(
            "a comparison of two runs takes cells as units and cannot see the noise of sentences; "
            "with few cells it finds no evidence"
        )
        return lines

    def _layers(self, sae: SparseAutoencoder | None, count: int, source: LayerStates) -> list[int]:
        """The layers at which probes are fitted: one, or all of them to find the best."""
        own = None if sae is None else sae.layer
        if self.layer == "best" and sae is None:
            return list(range(count))
        asked = own if self.layer == "best" else self.layer
        if asked is None:
            raise UserError(f"{self.sae}: does not say which layer it reads; give layer")
        if not -count <= asked < count:
            raise UserError(f"layer must lie between {-count} and {count - 1}, got {asked}")
        layer = asked % count
        if own is not None and own != layer:
            raise UserError(
                f"{self.sae}: reads layer {own}, got layer={self.layer}; leave layer out"
            )
        if sae is not None and layer == count - 1 and source.ends_in_norm:
            raise UserError(
                f"layer {layer} is the last one, which is read after the model's final norm, and "
                "an autoencoder's states come before it; take one of an earlier layer"
            )
        return [layer]

    def _is_kept(self, items: pd.DataFrame) -> NDArray[np.bool_]:
        """Which cells have good enough probes."""
        return (items["accuracy"] >= self.min_accuracy).to_numpy(np.bool_)

    def _signed(self, items: pd.DataFrame) -> Array:
        """The signed scores [N], NaN where a cell is refused."""
        return np.where(self._is_kept(items), items["score"].to_numpy(np.float64), np.nan)

    def _relative(self, items: pd.DataFrame) -> Array:
        """The signed scores as shares of the cosines' sizes, NaN where a cell is refused."""
        first, second = (items[f"cos_{side}"].to_numpy(np.float64) for side in ("first", "second"))
        relative: Array = self._signed(items) / (np.abs(first) + np.abs(second) + EPS)
        return relative

    def _estimate(self, metric: str, items: pd.DataFrame, labels: Labels) -> Estimate:
        """One metric on one slice: |value - truth| is at most what resamples' errors reach.

        error_b = |mean over cells of (score_b - score)|, of sizes mean over cells of |score_b -
        score|, which bounds the error of the mean size and, unlike percentiles of sizes, holds 0
        """
        if metric == "accuracy":
            return mean(items["accuracy"].to_numpy(np.float64), **labels)
        items = items[self._is_kept(items)]
        if not len(items):
            how = "no cell whose probes are good enough"
            return Estimate(value=np.nan, low=np.nan, high=np.nan, n=0, method=how, **labels)
        numbers = self._relative(items) if metric == "relative" else self._signed(items)
        off = _resamples(items, is_relative=metric == "relative") - numbers[:, None]  # [N, B]
        off = off[:, np.isfinite(off).all(axis=0)]
        is_signed = metric == "signed"
        value = float(numbers.mean() if is_signed else np.abs(numbers).mean())
        errors = np.abs(off.mean(axis=0)) if is_signed else np.abs(off).mean(axis=0)
        drawn = len(items["boot_first"].iloc[0])
        half, how = np.nan, f"undefined in {drawn - len(errors)} of {drawn} resamples"
        if len(errors) >= 0.95 * drawn:
            half = float(np.quantile(errors, self.level))
            how = f"symmetric bootstrap of sentences, {len(errors)} resamples"
        least, most = {"signed": (-2.0, 2.0), "size": (0.0, 2.0), "relative": (0.0, 1.0)}[metric]
        low, high = np.clip([value - half, value + half], least, most).tolist()
        return Estimate(value=value, low=low, high=high, n=len(items), method=how, **labels)

    def _refusals(self, items: pd.DataFrame) -> list[str]:
        """The cells that are refused."""
        refused = items[~self._is_kept(items)]
        if not len(refused):
            return []
        worst = refused.groupby("worst", sort=False)["accuracy"].min()
        told = ", ".join(f"{name} ({value:.2f})" for name, value in worst.items())
        return [
            f"refused: {len(refused)} of {len(items)} cells, whose probes do not know the concept: "
            f"{told} on held-out sentences, {self.min_accuracy:g} is asked for; a direction by "
            "chance would look unbiased"
        ]

    def _chance(self, kept: pd.DataFrame) -> list[str]:
        """How large scores get where labels are shuffled."""
        if not len(kept):
            return []
        sizes = np.abs(np.array(kept["null"].tolist(), dtype=np.float64))
        bands = np.nanquantile(sizes, self.level, axis=1, method="higher")
        beyond = int((kept["score"].abs().to_numpy() > bands).sum())
        return [
            f"chance band: with shuffled labels the size stays below "
            f"{np.nanquantile(sizes.mean(axis=0), self.level):.3f} in {100 * self.level:g} % of "
            f"fits; {beyond} of {len(kept)} cells lie beyond their own band"
        ]


def _resamples(items: pd.DataFrame, *, is_relative: bool) -> Array:
    """The signed scores of every resample, [N, B], or these as shares of the cosines' sizes."""
    first, second = (
        np.array(items[f"boot_{side}"].tolist(), dtype=np.float64) for side in ("first", "second")
    )
    signed: Array = first - second
    return signed / (np.abs(first) + np.abs(second) + EPS) if is_relative else signed


def _states(source: LayerStates, concepts: Concepts) -> ConceptStates:
    """The states of all sentences, each read once."""
    every = [*concepts.negatives, *(text for own in concepts.sentences.values() for text in own)]
    found = source.last_states(every)
    sizes = [len(concepts.negatives), *map(len, concepts.sentences.values())]
    negatives, *parts = np.split(found, np.cumsum(sizes)[:-1])
    return ConceptStates(dict(zip(concepts.names, parts, strict=True)), negatives)


def _cells(concepts: Concepts, probes: Sequence[Probe]) -> Cells:
    """The concepts of every probe by number."""
    number = {name: place for place, name in enumerate(concepts.names)}
    table = np.array([[number[name] for name in probe.labels["cell"]] for probe in probes])
    return Cells(*table.T)


def _checked(vectors: Array, concepts: Concepts, alpha: float) -> Array:
    """The concept vectors; UserError where steering along one changes nothing."""
    still = np.flatnonzero(np.linalg.norm(vectors, axis=1) == 0)
    if len(still):
        raise UserError(
            f"{concepts.names[still[0]]}: moves no feature of the autoencoder at alpha={alpha:g}, "
            "so that it has no direction there; raise alpha"
        )
    return vectors


def _curve(fits: Sequence[Cavs], cells: Cells) -> list[list[float]]:
    """The signed score of every cell in each layer, in activations."""
    cosines = np.array([cells.cosines(cavs.directions) for cavs in fits])  # [L, 2, N]
    curve: list[list[float]] = (cosines[:, 0] - cosines[:, 1]).T.tolist()
    return curve


def _curves(kept: pd.DataFrame) -> list[str]:
    """The mean size in every layer, where several were looked at."""
    if not len(kept) or len(kept["curve"].iloc[0]) < 2:
        return []
    sizes = np.abs(np.array(kept["curve"].tolist(), dtype=np.float64)).mean(axis=0)
    inner = sizes[len(sizes) // 4 : len(sizes) - len(sizes) // 4]
    told = " ".join("-" if np.isnan(size) else f"{size:.2f}" for size in sizes)
    middle = inner[np.isfinite(inner)].mean()
    return [f"size by layer, in activations: {told}; mean over the middle half {middle:.3f}"]


def _features(vectors: Array, cells: Cells, *, has_features: bool) -> list[str]:
    """The features that add most to each score, in words; nothing without an autoencoder."""
    if not has_features:
        return [""] * len(cells.target)
    told = []
    for places in zip(cells.target, cells.first, cells.second, strict=True):
        terms = feature_terms(*vectors[list(places)])
        most = np.argsort(-np.abs(terms), kind="stable")[:_TOLD]
        told.append(", ".join(f"{place} ({terms[place]:+.3f})" for place in most))
    return told
