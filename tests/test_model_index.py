import math
from pathlib import Path

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from trueup.api import AuditRun
from trueup.api.model_index import model_index
from trueup.audits import CrowsPairs
from trueup.errors import UserError
from trueup.stats import Estimate


def estimate(metric: str = "share", part: str = "all", value: float = 0.625) -> Estimate:
    return Estimate(
        audit="crows-pairs", metric=metric, slice=part, value=value, low=0.5, high=math.nan,
        n=40, ideal=0.5, method="Wilson",
    )  # fmt: skip


def run(*estimates: Estimate) -> AuditRun:
    return AuditRun(
        model="/models/tiny",
        model_hash="abc",
        audits=(CrowsPairs(),),
        estimates=list(estimates),
        tables={"crows-pairs": pd.DataFrame({"id": ["1"]})},
        arguments={},
        data=["/data/crows.csv"],
        data_hash="123",
    )


def test_hub_reads_back_every_number():
    text = model_index(run(estimate(), estimate("log_ratio", value=-0.25)))
    (index,) = yaml.safe_load(text)["model-index"]
    name, results = model_index_to_eval_results([index])
    assert name == "tiny"
    assert [(each.metric_type, each.metric_value) for each in results] == [
        ("share", 0.625), ("log_ratio", -0.25)
    ]  # fmt: skip
    assert results[0].task_type == "text-generation"
    assert results[0].dataset_type == "crows-pairs"
    assert results[0].dataset_name == "crows-pairs (crows.csv)"
    assert results[0].dataset_args == {"data_hash": "123"}


def test_every_number_keeps_its_interval_and_n():
    (index,) = yaml.safe_load(model_index(run(estimate())))["model-index"]
    (result,) = index["results"]
    (metric,) = result["metrics"]
    assert metric["name"] == "share 0.625 [0.500, undefined], n=40"
    assert metric["args"] == {
        "metric": "share", "slice": "all", "low": 0.5, "level": 0.95, "n": 40, "ideal": 0.5,
        "method": "Wilson",
    }  # fmt: skip  # a bound that is undefined is not told


def test_card_with_the_index_is_one_that_the_hub_loads(tmp_path: Path):
    (tmp_path / "README.md").write_text(f"---\n{model_index(run(estimate()))}\n---\n# Tiny\n")
    card = ModelCard.load(tmp_path / "README.md")
    assert isinstance(card.data, ModelCardData)
    assert card.data.eval_results is not None
    assert [each.metric_value for each in card.data.eval_results] == [0.625]


def test_slices_are_told_where_they_are_asked_for():
    several = run(estimate(), estimate(part="age", value=0.5))
    assert model_index(several).count("value:") == 1
    text = model_index(several, slices=True, name="other", task="fill-mask")
    (index,) = yaml.safe_load(text)["model-index"]
    assert index["name"] == "other"
    assert index["results"][0]["task"] == {"type": "fill-mask"}
    names = [metric["name"] for metric in index["results"][0]["metrics"]]
    assert names[1] == "share, age 0.500 [0.500, undefined], n=40"


def test_undefined_numbers_are_left_out_and_nothing_else_is_refused():
    assert "log_ratio" not in model_index(run(estimate(), estimate("log_ratio", value=math.nan)))
    with pytest.raises(UserError, match="no number is defined"):
        model_index(run(estimate(value=math.nan)))
