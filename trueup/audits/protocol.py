"""What an audit is: probes, raw scores per probe, and metrics that are functions of their sums."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeGuard, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from trueup.data import Row, Table
from trueup.errors import UserError
from trueup.models.language_model import LanguageModel
from trueup.models.masked_language_model import MaskedLanguageModel
from trueup.models.writer import OtherModel, Writer
from trueup.stats import Estimate, Labels
from trueup.stats.estimate import Array
from trueup.stats.resampling import mean_of_sums

Rows = Table | Sequence[Row]
Model = LanguageModel | MaskedLanguageModel | OtherModel
Slices = dict[str, NDArray[np.bool_]]
Interval = Callable[[pd.DataFrame, np.random.Generator, Labels], Estimate]

CHUNK = 256  # probes that are measured, and can be saved, together


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One item of an audit.

    Fields: id pairs the item of one run with that of another; group is what slices are made of,
            several names joined by "|"; cluster names what the item shares with others (a
            template, an occupation), "" for nothing; prompt and texts are what the model reads;
            labels are what else the items table needs.
    """

    id: str
    group: str = ""
    cluster: str = ""
    prompt: str = ""
    texts: tuple[str, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that is a function of sums over items.

    number = value(sum over items of terms(items))
    Fields: kind says how uncertainty is told: a "share" by Wilson and McNemar, a "mean" by Student
            and sign flips, a "statistic" by resampling and by swaps; terms gives [N, K], where a
            row with a NaN does not count (share and mean: the item's number and a one); value
            turns sums [..., K] into numbers [...]; ideal is the value of an unbiased model; goal
            says what is better; span holds the least and the greatest value that are possible;
            sliced metrics are told for every slice, others for all items only; reading tells a
            person in a sentence or two what the number says, and what it does not; interval makes
            the estimate where the shared ways do not serve: of a distance, a largest gap or a
            variance, which noise makes larger, so that resampling gives bounds above 0 where the
            groups are equal. It takes a slice's items, of which at least one counts, a generator
            and the labels; bounds are cut to the span afterwards.
    """

    name: str
    kind: Literal["share", "mean", "statistic"]
    terms: Callable[[pd.DataFrame], Array]
    value: Callable[[Array], Array] = mean_of_sums
    ideal: float | None = None
    goal: Literal["ideal", "lower", "higher"] = "ideal"
    span: tuple[float, float] | None = None
    sliced: bool = True
    reading: str = ""
    interval: "Interval | None" = None

    @property
    def has_verdict(self) -> bool:
        """Whether a change can be better or worse; a number without ideal or goal informs only."""
        return self.ideal is not None or self.goal != "ideal"


def share(name: str, numbers: Callable[[pd.DataFrame], ArrayLike], **settings: Any) -> Metric:
    """A metric that is the share of items with a 1, from numbers [N] of 0 and 1 (0.5 for a tie)."""
    return Metric(name=name, kind="share", terms=_counted(numbers), span=(0.0, 1.0), **settings)


def average(name: str, numbers: Callable[[pd.DataFrame], ArrayLike], **settings: Any) -> Metric:
    """A metric that is the mean of numbers [N]; NaN leaves an item out."""
    return Metric(name=name, kind="mean", terms=_counted(numbers), **settings)


def _counted(numbers: Callable[[pd.DataFrame], ArrayLike]) -> Callable[[pd.DataFrame], Array]:
    """The numbers beside a one, [N, 2]."""

    def terms(items: pd.DataFrame) -> Array:
        column = np.asarray(numbers(items), dtype=np.float64)
        return np.stack([column, np.ones_like(column)], axis=1)

    return terms


def counted_rows(terms: Array) -> NDArray[np.bool_]:
    """Which rows of terms [N, K] count: those without a NaN."""
    return np.asarray(~np.isnan(terms).any(axis=1), dtype=np.bool_)


class Audit(Protocol):
    """A measurement in three steps; a frozen dataclass whose fields are its settings.

    Fields: columns and optional are what the data file holds; wants says in words which file that
            is; metrics are the numbers; level is the intervals' coverage.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]]
    wants: ClassVar[str]

    @property
    def level(self) -> float:
        """The intervals' coverage."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The numbers, the headline first."""
        ...

    def probes(self, data: Rows) -> list[Probe]:
        """The items, from validated rows; raises UserError with the place of a row that fails."""
        ...

    def measure(self, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
        """Raw scores, one row per probe in order, nothing aggregated.

        The columns id, group, cluster, input (what to show a person) and score (the one number of
        the item whose change tells most) are there in every audit. Rounding may depend on which
        probes are measured together, so callers measure the same `chunks` always: a resumed run
        is then equal to an undisturbed one bit by bit.
        """
        ...

    def slices(self, items: pd.DataFrame) -> Slices:
        """Which items each slice holds; "all" first."""
        ...

    def estimate(self, items: pd.DataFrame) -> list[Estimate]:
        """The numbers with their intervals, for every metric and slice."""
        ...

    def notes(self, items: pd.DataFrame) -> list[str]:
        """What a reader must know beside the numbers: items left out, known flaws of the data."""
        ...


def chunks(probes: Sequence[Probe], size: int = CHUNK) -> list[list[Probe]]:
    """The probes in order, `size` at a time: the units in which a run measures and saves."""
    return [list(probes[start : start + size]) for start in range(0, len(probes), size)]


def slices_by(items: pd.DataFrame, *columns: str) -> Slices:
    """All items, and those of every name that the columns hold (several names joined by "|").

    Edges:  a name that all items share makes no slice of its own, nor does an empty one; a name
            that two columns hold stands as "column=name".
    """
    result: Slices = {"all": np.ones(len(items), dtype=np.bool_)}
    found = [(column, name) for column in columns for name in _names(items[column])]
    names = [name for _, name in found]
    for column, name in found:
        mask = np.array([name in text.split("|") for text in items[column]], dtype=np.bool_)
        if not mask.all():
            result[name if names.count(name) == 1 else f"{column}={name}"] = mask
    return result


def _names(column: "pd.Series[str]") -> list[str]:
    """The distinct names in a column, sorted."""
    return sorted({name for text in column.unique() for name in text.split("|")} - {""})


def text_of(row: Mapping[str, Any], column: str, default: object = "") -> str:
    """The column's value as text; the default where the row has none."""
    value = row.get(column)
    return str(default if value is None or value == "" else value)


def place_of(data: Rows, index: int) -> str:
    """Where row `index` stood, for an error."""
    return data.place(index) if isinstance(data, Table) else f"row {index + 1}"


def is_masked(model: Model) -> TypeGuard[MaskedLanguageModel]:
    """Whether the model fills masks."""
    return bool(getattr(model, "is_masked", False))


def masked(model: Model, audit: str) -> MaskedLanguageModel:
    """The model as a masked one, or UserError."""
    if not is_masked(model):
        raise UserError(f"{audit} needs a masked language model, got {model!r}")
    return model


def writer(model: Model, audit: str) -> Writer:
    """The model as one that writes, or UserError."""
    if not hasattr(model, "sample"):
        raise UserError(
            f"{audit} needs a model that writes (a causal language model or an endpoint), "
            f"got {model!r}"
        )
    return cast(Writer, model)


def causal(model: Model, audit: str) -> LanguageModel:
    """The model as a causal one that gives log-probabilities, or UserError."""
    if not _is_causal(model):
        raise UserError(
            f"{audit} needs a causal language model with log-probabilities, got {model!r}"
        )
    return model


def _is_causal(model: Model) -> TypeGuard[LanguageModel]:
    """Whether the model continues texts and says how likely."""
    return hasattr(model, "score_groups")


def frame(probes: Sequence[Probe], **columns: Sequence[Any] | Array) -> pd.DataFrame:
    """The items table: id, group and cluster of every probe, then the given columns."""
    common = {
        "id": [probe.id for probe in probes],
        "group": [probe.group for probe in probes],
        "cluster": [probe.cluster for probe in probes],
    }
    return pd.DataFrame({**common, **columns})
