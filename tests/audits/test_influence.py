"""Influence: what a number would be without an item."""

import numpy as np
import pandas as pd
import pytest

from trueup.audits import CrowsPairs, Perplexity
from trueup.audits.influence import driving_items


def pairs(scores: list[float]) -> pd.DataFrame:
    """Items of crows-pairs with these scores."""
    names = [f"p{number}" for number in range(len(scores))]
    return pd.DataFrame(
        {
            "id": names,
            "group": "race",
            "cluster": "",
            "direction": "stereo",
            "input": [f"text {name}" for name in names],
            "score": scores,
        }
    )


def test_change_is_the_number_minus_the_number_without_the_item():
    items = driving_items(CrowsPairs(), pairs([1.0, 1.0, -1.0]), most=1)
    assert [(item.id, item.score) for item in items] == [("p1", 1.0), ("p2", -1.0)]
    assert items[0].change == pytest.approx(2 / 3 - 1 / 2)
    assert items[1].change == pytest.approx(2 / 3 - 1)
    assert items[0].text == "text p1"


def test_an_item_without_influence_is_left_out():
    assert driving_items(CrowsPairs(), pairs([1.0, 1.0, 1.0])) == []


def test_a_statistic_without_an_item_is_the_statistic_of_the_others():
    items = pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "group": "",
            "cluster": "",
            "input": ["x", "y", "z"],
            "nll": [10.0, 2.0, 3.0],
            "tokens": [4.0, 2.0, 3.0],
            "score": [2.5, 1.0, 1.0],
        }
    )
    found = {item.id: item.change for item in driving_items(Perplexity(), items)}
    assert found["a"] == pytest.approx(np.exp(15 / 9) - np.exp(5 / 5))
    assert found["b"] == pytest.approx(np.exp(15 / 9) - np.exp(13 / 7))
    assert list(found) == ["a", "c", "b"]


def test_one_item_alone_drives_nothing():
    assert driving_items(CrowsPairs(), pairs([1.0])) == []
