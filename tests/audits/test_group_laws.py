import numpy as np
import pandas as pd
import pytest

from tests.audits.scored_rows import items_of, score_rows, written_scores
from trueup.audits.text.counterfactual_sentiment import CounterfactualSentiment
from trueup.audits.text.group_laws import LawDistance, shuffled_orders
from trueup.audits.text.grouped_text import group_terms, membership
from trueup.audits.text.score_parity import ScoreParity


def page_rows(seed: int) -> list[dict[str, str]]:
    """Two groups of 12 pages with 6 texts each; a page has a tone of its own."""
    rng = np.random.default_rng(seed)
    tones = rng.integers(0, 81, size=(2, 12))
    scores = (tones[:, :, None] + rng.integers(0, 20, size=(2, 12, 6))) / 100
    return [
        {
            "prompt": f"{group} {page} {place}",
            "group": group,
            "cluster": f"{group} {page}",
            "completion": str(score),
        }
        for group, pages in zip("ab", scores, strict=True)
        for page, several in enumerate(pages)
        for place, score in enumerate(several)
    ]


def interval_of(items: pd.DataFrame, name: str):
    audit = CounterfactualSentiment(scorer=written_scores, grid=20)
    [metric] = [metric for metric in audit.metrics if metric.name == name]
    return metric.interval(items, np.random.default_rng(0), {"metric": name})


def test_orders_shuffle_within_blocks(rng: np.random.Generator):
    block = np.array([1, 0, 1, 0, 0, 2])
    orders = np.concatenate(list(shuffled_orders(block, 300, rng, width=6)))
    assert (np.sort(orders, axis=1) == np.arange(6)).all()
    assert (block[orders] == block).all()
    swapped = (orders[:, 0] == 2).mean()
    assert swapped == pytest.approx(0.5, abs=0.09)  # three standard errors of 300 coins


def test_the_interval_of_pages_is_that_of_pages():
    audit = CounterfactualSentiment(scorer=written_scores, grid=20)
    alarms, blind, above = 0, 0, 0
    for seed in range(200):
        items = items_of(audit, page_rows(seed))
        row, noise = interval_of(items, "w1"), interval_of(items, "w1_shuffled")
        alarms += row.low > 0
        above += row.value > noise.high
        blind += interval_of(items.assign(cluster=""), "w1").low > 0
    assert alarms <= 0.096 * 200  # 5 % and three standard errors
    assert above <= 0.058 * 200  # 2.5 % and three standard errors
    assert blind > 0.3 * 200  # taken as independent, texts of pages raise alarms


@pytest.mark.parametrize("pages", [(3, 3), (2, 10)])
def test_groups_of_few_pages_raise_no_alarm(pages: tuple[int, int]):
    audit = ScoreParity(scorer=written_scores)
    [gap] = [metric for metric in audit.metrics if metric.name == "gap"]
    alarms = {"gap": 0, "w1": 0}
    for seed in range(100):
        rows = [row for row in page_rows(seed) if int(row["prompt"].split()[1]) < max(pages)]
        rows = [row for row in rows if row["group"] == "b" or int(row["prompt"][2:4]) < pages[0]]
        items = items_of(audit, rows)
        alarms["gap"] += gap.interval(items, np.random.default_rng(0), {"metric": "gap"}).low > 0
        alarms["w1"] += interval_of(items, "w1").low > 0
    assert max(alarms.values()) <= 11  # 5 % and three standard errors; wider than it need be


def test_a_group_of_one_item_in_a_shared_template_has_no_interval():
    audit = ScoreParity(scorer=written_scores)
    rows = score_rows({"a": [0.1], "b": [0.3, 0.6, 0.2]})
    row = next(row for row in audit.estimate(items_of(audit, rows)) if row.metric == "gap")
    assert np.isnan([row.low, row.high]).all()
    assert row.method.startswith("undefined")


def test_terms_are_set_apart_by_group():
    items = pd.DataFrame({"group": ["a", "b", "a|b", "c"]})
    columns = np.array([[1.0, 2.0]] * 4)
    terms = group_terms(items, ("b", "a"), columns)
    assert terms[:3].tolist() == [[0, 0, 1, 2], [1, 2, 0, 0], [1, 2, 1, 2]]
    assert np.isnan(terms[3]).all()
    assert membership(items, ["a", "c"])[:, 0].tolist() == [True, False, True, False]


@pytest.mark.parametrize("clusters", [[0, 0, 0], [0, 1, 2], [0, 1, 1]])
def test_a_group_of_one_unit_has_no_interval(clusters: list[int], rng: np.random.Generator):
    terms = np.array([[1.0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]])
    distance = LawDistance(2, is_ordered=False)
    row = distance.estimate(terms, np.array(clusters), rng, {"metric": "tvd"})
    assert row.value == 1
    assert np.isnan([row.low, row.high]).all()


def test_a_few_groups_are_compared_in_pairs_and_many_are_not():
    audit = CounterfactualSentiment(scorer=written_scores)
    few = {name: [0.1, 0.2] for name in "abc"}
    many = {name: [0.1, 0.2] for name in "abcdefg"}
    slices = [list(audit.slices(items_of(audit, score_rows(rows)))) for rows in (few, many)]
    assert slices[0] == ["all", "a", "b", "c", "a vs b", "a vs c", "b vs c"]
    assert slices[1] == ["all", *"abcdefg"]
