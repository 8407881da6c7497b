"""Gaps of groups of a classifier, as `bead` reports them, against fairlearn's."""

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)

from trueup.audits.behaviour.bead_classes import class_metrics
from trueup.audits.protocol import Metric


def items_of(seed: int, groups: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, 300)
    group = rng.integers(0, groups, 300)
    found = rng.random(300) < np.where(label, 0.7, 0.2) + 0.05 * group
    names = np.array(["fine", "harmful"])
    return pd.DataFrame(
        {
            "id": [str(n) for n in range(300)],
            "label": names[label],
            "prediction": names[found.astype(int)],
            "group": np.array(["a", "b", "c"])[group],
        }
    )


def point(metric: Metric, items: pd.DataFrame) -> float:
    """The metric's number without an interval."""
    terms = np.asarray(metric.terms(items))
    return float(metric.value(terms[~np.isnan(terms).any(axis=1)].sum(axis=0)))


@pytest.mark.parametrize("groups", [2, 3])
def test_gaps(groups: int) -> None:
    items = items_of(groups, groups)
    names = sorted(items["group"].unique())
    truth, found = (items[column] == "harmful" for column in ("label", "prediction"))
    frame = MetricFrame(
        metrics={"tpr": true_positive_rate, "fpr": false_positive_rate, "positive": selection_rate},
        y_true=truth,
        y_pred=found,
        sensitive_features=items["group"],
    )
    ours = {
        metric.name: abs(point(metric, items))
        for metric in class_metrics(("fine", "harmful"), "harmful", names)
        if metric.name.endswith("_gap")
    }
    for name, expected in frame.difference(method="between_groups").items():
        assert ours[f"{name}_gap"] == pytest.approx(expected, abs=1e-12)
    parity = demographic_parity_difference(truth, found, sensitive_features=items["group"])
    assert ours["positive_gap"] == pytest.approx(parity, abs=1e-12)
