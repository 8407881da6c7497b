from importlib.metadata import EntryPoint

import numpy as np
import pandas as pd
import pytest

from tests.audits.planted_models import PlantedMaskedModel, toy_logits, word_tokenizer
from trueup import audits
from trueup.audits import AUDITS, Association, Perplexity, Probe, audit, chunks
from trueup.audits.protocol import average, causal, share, slices_by
from trueup.errors import UserError


def probes(count: int) -> list[Probe]:
    return [Probe(id=str(number)) for number in range(count)]


def test_chunks_keep_the_order_and_lose_nothing():
    parts = chunks(probes(10), 4)
    assert [len(part) for part in parts] == [4, 4, 2]
    assert [probe.id for part in parts for probe in part] == [str(n) for n in range(10)]


def test_slices_are_all_and_every_name():
    items = pd.DataFrame({"group": ["b", "a", "b|c", ""]})
    slices = slices_by(items, "group")
    assert list(slices) == ["all", "a", "b", "c"]
    assert slices["b"].tolist() == [True, False, True, False]


def test_a_name_that_all_items_share_is_no_slice():
    items = pd.DataFrame({"group": ["a", "a"], "kind": ["x", "y"]})
    assert list(slices_by(items, "group", "kind")) == ["all", "x", "y"]


def test_a_name_of_two_columns_is_told_apart():
    items = pd.DataFrame({"group": ["a", "b"], "kind": ["b", "c"]})
    assert list(slices_by(items, "group", "kind")) == ["all", "a", "group=b", "kind=b", "c"]


def test_sums_of_parts_give_the_number_of_the_whole(rng: np.random.Generator):
    items = pd.DataFrame({"x": rng.normal(size=20)})
    metric = average("x", lambda table: table["x"])
    parts = metric.terms(items[:7]).sum(axis=0) + metric.terms(items[7:]).sum(axis=0)
    assert metric.value(parts) == pytest.approx(items["x"].mean(), abs=1e-12)


def test_a_metric_without_ideal_or_goal_has_no_verdict():
    assert not average("x", lambda table: table["x"]).has_verdict
    assert share("x", lambda table: table["x"], ideal=0.5).has_verdict
    assert share("x", lambda table: table["x"], goal="higher").has_verdict


@pytest.mark.parametrize("name", AUDITS)
def test_every_audit_carries_its_name_and_says_what_it_wants(name: str):
    made = audit(name)
    assert made.name == name
    assert made.wants
    assert made.columns
    assert all(len({"all"} & {metric.name}) == 0 for metric in made.metrics)


def test_settings_are_parsed():
    assert audit("bbq", {"score": "sum", "level": "0.9"}).level == 0.9  # type: ignore[attr-defined]


def test_an_instance_stays_unless_a_field_is_changed():
    mine = Association(end=" ")
    assert audit(mine) is mine
    changed = audit(mine, {"level": "0.9"})
    assert changed == Association(end=" ", level=0.9)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("crows", {}, "no audit 'crows'; did you mean 'crows-pairs'"),
        ("bbq", {"scor": 1}, "bbq has no field 'scor'; known: prompt, blank, score, level"),
        ("bbq", {"score": "best"}, "score"),
        ("bbq", {"prompt": "{question}"}, "bbq.prompt must hold {context}"),
        ("association", {"level": 1.0}, "level must lie between"),
        ("crows-pairs", {"ties": "full"}, "ties"),
    ],
)
def test_bad_names_and_settings_are_refused(name: str, settings: dict, message: str):
    with pytest.raises(UserError, match=r".") as caught:
        audit(name, settings)
    assert message in str(caught.value)


def test_a_masked_model_is_refused_where_a_causal_one_is_needed():
    model = PlantedMaskedModel(word_tokenizer(["a"], is_masked=True), toy_logits)
    with pytest.raises(UserError, match="perplexity needs a causal language model"):
        causal(model, Perplexity.name)


@pytest.fixture
def other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package that brings one audit that loads and one that does not."""
    points = [
        EntryPoint("theirs", "trueup.audits.probability.perplexity:Perplexity", "trueup.audits"),
        EntryPoint("broken", "trueup.audits.probability.perplexity:Nothing", "trueup.audits"),
    ]
    monkeypatch.setattr(audits, "entry_points", lambda group: points)


@pytest.mark.usefixtures("other_package")
def test_other_packages_add_audits():
    assert audit("theirs", {"level": "0.9"}) == Perplexity(level=0.9)


@pytest.mark.usefixtures("other_package")
def test_an_audit_that_cannot_be_loaded_is_named():
    with pytest.raises(UserError, match=r"audit 'broken': .* cannot be loaded"):
        audit("broken")
