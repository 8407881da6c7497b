import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from trueup.audits.estimates import clusters_of, estimate, generator
from trueup.audits.few_units import jackknife
from trueup.audits.protocol import Metric, average, share, slices_by
from trueup.stats import Estimate, Labels, mean, proportion
from trueup.stats.resampling import mean_of_sums


@dataclass(frozen=True)
class Table:
    """An audit of whatever stands in its items."""

    metrics: tuple[Metric, ...]
    name: str = "table"
    level: float = 0.95

    def slices(self, items: pd.DataFrame) -> dict:
        return slices_by(items, "group")


SHARE = Table((share("share", lambda items: items["x"], ideal=0.5),))
MEAN = Table((average("mean", lambda items: items["x"], ideal=0.0),))
RATIO = Metric(
    name="ratio",
    kind="statistic",
    terms=lambda items: items[["x", "y"]].to_numpy(float),
    value=lambda sums: sums[..., 0] / sums[..., 1],
)


def table(x: list, *, group: str = "", cluster: list | None = None, **columns: list):
    size = len(x)
    ids = [str(number) for number in range(size)]
    return pd.DataFrame(
        {"id": ids, "group": [group] * size, "cluster": cluster or [""] * size, "x": x, **columns}
    )


def only(rows: list[Estimate]) -> Estimate:
    assert len(rows) == 1
    return rows[0]


def test_a_share_has_wilsons_interval():
    row = only(estimate(SHARE, table([1] * 8 + [0] * 2)))
    # sheet 91, vector 1: 8/10
    assert (row.value, row.n) == (0.8, 10)
    assert row.low == pytest.approx(0.49016247, abs=1e-8)
    assert row.high == pytest.approx(0.94331785, abs=1e-8)
    assert (row.audit, row.ideal, row.slice) == ("table", 0.5, "all")


def test_a_mean_has_students_interval():
    d = [0.061, -0.012, 0.083, 0.054, 0.065, -0.017, 0.072, 0.028, 0.039, 0.090]
    row = only(estimate(MEAN, table(d)))
    expected = mean(d, metric="mean")
    assert (row.value, row.low, row.high) == (expected.value, expected.low, expected.high)


def test_items_without_a_number_do_not_count():
    row = only(estimate(SHARE, table([1, 0, math.nan, 1])))
    assert (row.n, row.value) == (3, pytest.approx(2 / 3, abs=1e-12))


def test_no_items_is_undefined_and_says_n():
    row = only(estimate(SHARE, table([math.nan])))
    assert row.n == 0
    assert math.isnan(row.value)
    assert math.isnan(row.low)


def test_one_item_has_no_interval_for_its_mean():
    row = only(estimate(MEAN, table([0.3])))
    assert (row.n, row.value) == (1, 0.3)
    assert math.isnan(row.low)
    assert math.isnan(row.high)


def test_a_slice_without_items_is_left_out():
    items = pd.concat([table([1, 0], group="a"), table([math.nan], group="b")])
    assert [row.slice for row in estimate(SHARE, items)] == ["all", "a"]


def test_an_unsliced_metric_is_told_for_all_items_only():
    audit = Table((share("share", lambda items: items["x"], sliced=False),))
    items = pd.concat([table([1, 0], group="a"), table([1, 1], group="b")])
    assert [row.slice for row in estimate(audit, items)] == ["all"]


def test_estimating_again_gives_the_same_numbers(rng: np.random.Generator):
    items = table(list(rng.normal(size=40)), y=[1.0] * 40)
    assert estimate(Table((RATIO,)), items) == estimate(Table((RATIO,)), items)


def test_a_new_slice_changes_no_other(rng: np.random.Generator):
    items = table(list(rng.normal(size=40)), y=[1.0] * 40, group="a")
    sliced = items.assign(group=["a"] * 20 + ["b"] * 20)
    assert estimate(Table((RATIO,)), items)[0] == estimate(Table((RATIO,)), sliced)[0]


def test_a_given_generator_is_used(rng: np.random.Generator):
    items = table(list(rng.normal(size=40)), y=[1.0] * 40)
    first, second = (estimate(Table((RATIO,)), items, rng=rng)[0] for _ in range(2))
    assert first.value == second.value
    assert first.low != second.low


def test_names_seed_the_generator():
    assert generator("a", "b").random() == generator("a", "b").random()
    assert generator("a", "b").random() != generator("ab", "").random()


def test_items_of_one_cluster_are_not_independent(rng: np.random.Generator):
    centres = rng.normal(size=40)
    x = list(np.repeat(centres, 10) + 0.01 * rng.normal(size=400))
    cluster = [str(number) for number in np.repeat(np.arange(40), 10)]
    apart, together = (only(estimate(MEAN, table(x, cluster=names))) for names in (None, cluster))
    # the ten items of a cluster are nearly equal, so the true width is sqrt(10) times the naive
    widening = (together.high - together.low) / (apart.high - apart.low)
    assert 2.5 < widening < 3.6
    assert "40 clusters" in together.method


def test_a_slice_that_is_one_cluster_takes_its_items():
    items = table([0.1, 0.2, 0.4], cluster=["nurse"] * 3)
    assert only(estimate(MEAN, items)).method == "Student t"


def test_items_without_a_cluster_stand_alone():
    items = table([1, 0, 1, 1], cluster=["a", "a", "", ""])
    codes = clusters_of(items)
    assert codes is not None
    assert len(set(codes.tolist())) == 3
    assert clusters_of(table([1, 0])) is None


def test_clusters_that_all_agree_count_as_one_item_each():
    items = table([1] * 40, cluster=[str(number) for number in np.repeat(np.arange(4), 10)])
    row = only(estimate(SHARE, items))
    expected = proportion(4, 4)
    assert (row.value, row.n) == (1.0, 40)
    assert (row.low, row.high) == (expected.low, expected.high)
    assert "4 units" in row.method


def test_a_few_clusters_take_the_jackknife():
    x = [0.1, 0.3, 0.2, 0.6, 0.5, 0.1]
    row = only(estimate(MEAN, table(x, cluster=["a", "a", "b", "b", "c", "c"])))
    # equal clusters: Student's interval of the three cluster means .2, .4, .3
    expected = mean([0.2, 0.4, 0.3])
    assert row.value == pytest.approx(0.3, abs=1e-12)
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert row.method == "jackknife of 3 clusters, Student t"


def test_bounds_stay_inside_the_span():
    x = [1.0] * 9 + [0.0]
    row = only(estimate(SHARE, table(x, cluster=["a", "b"] * 5)))
    assert row.high == 1.0
    assert row.low < 0.9


def test_a_mean_is_cut_to_its_span_and_an_undefined_bound_stays():
    audit = Table((average("lean", lambda items: items["x"], span=(-0.5, 0.5)),))
    row = only(estimate(audit, table([0.5, -0.4, 0.3])))
    assert (row.low, row.high) == (-0.5, 0.5)
    assert math.isnan(only(estimate(audit, table([0.5]))).low)


@pytest.mark.parametrize("units", [1, 3])
def test_the_jackknife_of_equal_units_is_undefined(units: int):
    terms = np.ones((units, 2))
    row = jackknife(terms, mean_of_sums, None, Labels(metric="x"))
    assert row.value == 1.0
    assert math.isnan(row.low)
    assert "undefined" in row.method


def test_ties_make_a_share_of_halves():
    row = only(estimate(SHARE, table([1, 0.5, 0, 1])))
    assert row.value == 0.625
    assert row.method == "Student t"


@pytest.mark.parametrize("kind", ["mean", "clustered mean"])
def test_unbiased_items_raise_no_alarm(kind: str):
    rng = np.random.default_rng(5)
    cluster = [str(number) for number in np.repeat(np.arange(12), 5)]
    alarms = 0
    for _ in range(400):
        effects = np.repeat(rng.normal(size=12), 5) if kind != "mean" else 0.0
        x = list(rng.normal(size=60) + effects)
        row = only(estimate(MEAN, table(x, cluster=cluster if kind != "mean" else None)))
        alarms += not row.low <= 0 <= row.high
    # nominal 20 of 400; three standard errors of a binomial are 13
    assert 7 <= alarms <= 33
