import json
import math

import numpy as np
import pandas as pd
import pytest

from tests.audits.test_estimates import MEAN, RATIO, SHARE, Table, table
from trueup.audits.comparison import ComparisonRow, compare_audits, compare_items, unpaired
from trueup.audits.protocol import average
from trueup.errors import UserError
from trueup.stats import adjust


def moved(items: pd.DataFrame, x: list) -> pd.DataFrame:
    return items.assign(x=x)


def mcnemar_table() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sheet 91, vector 2: 59 right twice, 6 only after, 16 only before, 80 wrong twice."""
    before = table([1] * 59 + [0] * 6 + [1] * 16 + [0] * 80)
    return before, moved(before, [1] * 59 + [1] * 6 + [0] * 16 + [0] * 80)


def test_a_share_is_tested_by_exact_mcnemar():
    [row] = compare_items(SHARE, *mcnemar_table())
    assert row.p_value == pytest.approx(0.05247879, abs=1e-8)
    assert row.delta == pytest.approx(-0.06211180, abs=1e-8)
    assert row.n_pairs == 161
    assert row.verdict == "no evidence"


def test_a_mean_is_tested_by_sign_flips():
    d = [0.061, -0.012, 0.083, 0.054, 0.065, -0.017, 0.072, 0.028, 0.039, 0.090]
    before = table([0.0] * 10)
    [row] = compare_items(MEAN, before, moved(before, d))
    assert row.p_value == pytest.approx(10 / 1024, abs=1e-12)  # sheet 91, vector 3
    assert (row.before, row.after) == (0.0, pytest.approx(np.mean(d), abs=1e-12))
    assert row.verdict == "worse"


def test_coming_nearer_to_the_ideal_is_better():
    before = table([0.3, 0.32, 0.28, 0.31, 0.29, 0.3, 0.33, 0.27])
    after = moved(before, [0.1, 0.11, 0.08, 0.12, 0.1, 0.09, 0.1, 0.11])
    assert compare_items(MEAN, before, after)[0].verdict == "improved"
    assert compare_items(MEAN, after, before)[0].verdict == "worse"


def test_a_lean_to_the_other_side_of_the_same_size_is_neither():
    before = table([0.3, 0.5] * 8)
    after = moved(before, [-0.3, -0.5] * 8)
    [row] = compare_items(MEAN, before, after)
    assert row.p_adjusted < 0.05
    assert row.verdict == "no evidence"


def test_a_change_that_does_not_matter_has_no_verdict():
    before = table([0.3, 0.32, 0.28, 0.31, 0.29, 0.3, 0.33, 0.27])
    after = moved(before, [0.1, 0.11, 0.08, 0.12, 0.1, 0.09, 0.1, 0.11])  # by 0.199 on average
    for smallest, verdict in ((0.19, "improved"), (0.21, "no evidence")):
        [row] = compare_audits([(MEAN, before, after)], smallest=smallest)
        assert row.p_adjusted < 0.05
        assert row.verdict == verdict


@pytest.mark.parametrize(("goal", "verdict"), [("lower", "worse"), ("higher", "improved")])
def test_a_goal_has_a_direction(goal: str, verdict: str):
    audit = Table((average("x", lambda items: items["x"], goal=goal),))
    before = table([0.0] * 12)
    after = moved(before, [1.0, 1.1, 0.9] * 4)
    assert compare_items(audit, before, after)[0].verdict == verdict


def test_a_statistic_is_tested_by_swaps():
    before = table([1.0] * 12, y=[2.0] * 12)
    after = moved(before, [2.0] * 12)
    audit = Table((RATIO,))
    [row] = compare_items(Table((metric_with_ideal(),)), before, after)
    assert compare_items(audit, before, after) == []
    assert (row.before, row.after, row.delta) == (0.5, 1.0, 0.5)
    assert row.p_value == pytest.approx(2 / 2**12, abs=1e-12)
    assert row.verdict == "improved"


def metric_with_ideal():
    return RATIO.__class__(**{**vars(RATIO), "ideal": 1.0})


def test_runs_are_paired_by_id_in_any_order():
    before, after = mcnemar_table()
    shuffled = after.sample(frac=1, random_state=0)
    assert compare_items(SHARE, before, shuffled) == compare_items(SHARE, before, after)


def test_items_of_one_run_only_are_dropped_and_counted():
    before, after = mcnemar_table()
    assert unpaired(before, after) == 0
    assert unpaired(before[:150], after[20:]) == 31
    assert compare_items(SHARE, before[:150], after[20:])[0].n_pairs == 130


def test_runs_without_a_shared_item_are_refused():
    before, after = mcnemar_table()
    with pytest.raises(UserError, match="table: the runs share no item, got ids like '0' and"):
        compare_items(SHARE, before[:5], after[5:])


def test_clusters_flip_whole(rng: np.random.Generator):
    cluster = [str(number) for number in np.repeat(np.arange(8), 20)]
    before = table([0] * 160, cluster=cluster)
    after = moved(before, [1] * 80 + [0] * 80)
    [row] = compare_items(SHARE, before, after)
    # four of eight clusters moved, all one way: 2 / 2^4
    assert row.p_value == pytest.approx(2 / 2**4, abs=1e-12)
    alone = compare_items(SHARE, before.assign(cluster=""), after)[0]
    assert alone.p_value < 1e-10


def test_p_values_are_adjusted_over_the_whole_family():
    before, after = mcnemar_table()
    grouped = before.assign(group=["a", "b"] * 80 + ["a"])
    rows = compare_items(SHARE, grouped, after)
    assert [row.slice for row in rows] == ["all", "a", "b"]
    raw = [row.p_value for row in rows]
    assert [row.p_adjusted for row in rows] == pytest.approx(list(adjust(raw)), abs=1e-12)
    together = compare_audits([(SHARE, grouped, after), (SHARE, before, after)])
    assert [row.p_adjusted for row in together] == pytest.approx(
        list(adjust([*raw, raw[0]])), abs=1e-12
    )


def test_ties_fall_back_to_sign_flips():
    before = table([0.5, 0, 1, 1])
    [row] = compare_items(SHARE, before, moved(before, [1, 0, 1, 0.5]))
    assert row.test.startswith("sign flip")


def test_equal_runs_are_no_evidence():
    before, _ = mcnemar_table()
    [row] = compare_items(SHARE, before, before)
    assert (row.delta, row.p_value, row.verdict) == (0.0, 1.0, "no evidence")


def test_models_that_differ_by_chance_are_rarely_called_different():
    rng = np.random.default_rng(3)
    calls = 0
    for _ in range(300):
        before = table(list(rng.integers(0, 2, size=80)))
        after = moved(before, list(rng.integers(0, 2, size=80)))
        calls += compare_items(SHARE, before, after)[0].verdict != "no evidence"
    # at most the nominal 15 of 300, plus three standard errors
    assert calls <= 26


def test_rows_have_the_schema_of_compare_json():
    [row] = compare_items(SHARE, *mcnemar_table())
    keys = "audit metric slice before after delta low high p_value p_adjusted n_pairs test verdict"
    assert " ".join(row.as_dict()) == keys
    assert json.loads(json.dumps(row.as_dict()))["n_pairs"] == 161


def test_the_printed_row_never_says_p_is_0():
    row = ComparisonRow(
        audit="a",
        metric="share",
        slice="all",
        before=0.7,
        after=0.5,
        delta=-0.2,
        low=-0.3,
        high=-0.1,
        p_value=1e-9,
        p_adjusted=1e-9,
        n_pairs=9,
        test="",
        verdict="improved",
    )
    assert str(row) == "share  all  0.700 -> 0.500 [-0.300, -0.100]  p < 1e-4  n=9  improved"


def test_an_undefined_test_is_no_evidence():
    audit = Table((metric_with_ideal(),))
    before = table([0.0, 0.0], y=[0.0, 0.0])
    [row] = compare_items(audit, before, before)
    assert math.isnan(row.p_value)
    assert row.verdict == "no evidence"
