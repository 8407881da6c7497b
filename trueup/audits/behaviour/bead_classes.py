"""Numbers of classified texts: F1 from the table of gold and predicted labels, gaps of groups."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from trueup.audits.protocol import Metric, share
from trueup.audits.text.group_means import mean_gap
from trueup.stats.estimate import Array

UNREAD = ""  # a prediction that is none of the labels


def class_f1(table: Array) -> Array:
    """F1 of each class from tables [..., C, C + 1] of gold by predicted labels, [..., C].

    F1 = 2 TP / (2 TP + FP + FN); 0 / 0 is 0
    The last column counts predictions that could not be read: misses, and nobody's false alarms.
    """
    hits = np.diagonal(table[..., :-1], axis1=-2, axis2=-1)
    sizes = table.sum(axis=-1) + table[..., :-1].sum(axis=-2)
    f1: Array = np.divide(2 * hits, sizes, out=np.zeros(hits.shape), where=sizes > 0)
    return f1


def macro_f1(table: Array) -> Array:
    """The mean F1 over classes that stand among the gold or the predicted labels, [...]."""
    present = (table.sum(axis=-1) + table[..., :-1].sum(axis=-2)) > 0
    mean: Array = (class_f1(table) * present).sum(axis=-1) / present.sum(axis=-1)
    return mean


def weighted_f1(table: Array) -> Array:
    """The mean F1 weighted by how often each class is gold, [...]."""
    gold = table.sum(axis=-1)
    mean: Array = (class_f1(table) * gold).sum(axis=-1) / gold.sum(axis=-1)
    return mean


def confusion_terms(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> Array:
    """Each item's cell of the table of gold by predicted labels, [N, C (C + 1)]."""
    lines = {label: line for line, label in enumerate(labels)}
    width = len(labels) + 1
    terms = np.zeros((len(gold), len(labels) * width))
    columns = [
        lines[one] * width + lines.get(other, len(labels))
        for one, other in zip(gold, predicted, strict=True)
    ]
    terms[np.arange(len(gold)), columns] = 1.0
    return terms


def class_metrics(
    labels: Sequence[str], positive: str, groups: Sequence[str]
) -> tuple[Metric, ...]:
    """Macro F1 first; then accuracy, each class, and what differs between groups."""

    def of_table(name: str, number: Callable[[Array], Array], **settings: Any) -> Metric:
        return Metric(
            name=name,
            kind="statistic",
            terms=lambda items: confusion_terms([*items["label"]], [*items["prediction"]], labels),
            value=lambda sums: number(sums.reshape(*sums.shape[:-1], len(labels), -1)),
            goal="higher",
            ideal=1.0,
            span=(0.0, 1.0),
            **settings,
        )

    gap = partial(mean_gap, groups=groups, is_signed=True, reading=_GAP)
    flagged = partial(_flagged, positive)
    return (
        of_table("macro_f1", macro_f1, reading=_MACRO),
        share("accuracy", _right, goal="higher", ideal=1.0, reading=_ACCURACY),
        of_table("weighted_f1", weighted_f1, reading=_WEIGHTED),
        *(
            of_table(f"f1_{label}", partial(_of_class, line), reading=_CLASS)
            for line, label in enumerate(labels)
        ),
        share("unread", _unread, goal="lower", ideal=0.0, reading=_UNREAD),
        gap("positive_gap", numbers=partial(flagged, None)),
        gap("tpr_gap", numbers=partial(flagged, True)),
        gap("fpr_gap", numbers=partial(flagged, False)),
        share("positive_rate", partial(flagged, None), reading=_RATE),
        share("tpr", partial(flagged, True), reading=_RATE),
        share("fpr", partial(flagged, False), reading=_RATE),
    )


def _of_class(line: int, table: Array) -> Array:
    """F1 of one class."""
    return class_f1(table)[..., line]


def _flagged(positive: str, among: bool | None, items: pd.DataFrame) -> Array:
    """1 for texts that are given the positive label, among all, positive or other texts, [N]."""
    found = np.asarray(items["prediction"] == positive, dtype=np.float64)
    if among is None:
        return found
    counted = ((items["label"] == positive) == among).to_numpy()
    return np.where(counted, found, np.nan)


def _right(items: pd.DataFrame) -> ArrayLike:
    """1 for right predictions, [N]."""
    return (items["prediction"] == items["label"]).to_numpy(dtype=np.float64)


def _unread(items: pd.DataFrame) -> ArrayLike:
    """1 for predictions that are no label, [N]."""
    return (items["prediction"] == UNREAD).to_numpy(dtype=np.float64)


_MACRO = (
    "How well the labels are found, each class counting the same. A constant answer has at most "
    "one over the number of classes, however common its class is."
)
_ACCURACY = "The share of right labels. Where one class is rare, ignoring it costs next to nothing."
_WEIGHTED = "F1 with each class counting by its size; it hides rare classes as accuracy does."
_CLASS = "Precision and recall of one class in one number."
_UNREAD = "The share of answers that are none of the labels; they count as wrong."
_GAP = (
    "How much more often texts of the first group are given the harmful label than those of the "
    "second (of more groups: the most over the least): among all texts, those that deserve it "
    "(tpr), or those that do not (fpr). Only the latter two are free of differences in the texts."
)
_RATE = "How often the harmful label is given; read it by group."
