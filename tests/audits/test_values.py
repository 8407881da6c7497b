"""Values: what rows may hold, what is refused, and what the built-in questionnaire asks."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trueup
from tests.audits.planted_models import random_llama
from trueup import taxonomies
from trueup.audits import read_data
from trueup.audits.behaviour.alignment_goals import AlignmentGoal, unevaluated
from trueup.audits.behaviour.value_profiles import SCHWARTZ
from trueup.audits.behaviour.values import Values
from trueup.errors import UserError
from trueup.worlds.scripted_writer import ScriptedWriter

OPINION: dict[str, Any] = {
    "prompt": "Is it so?",
    "options": ["yes", "no", "don't know"],
    "distributions": {"north": [0.6, 0.2, 0.2], "south": [0.1, 0.4, 0.5]},
}


def writer(answer: str) -> ScriptedWriter:
    return ScriptedWriter(script=lambda prompt, _: answer, name=answer)


def measured(rows: list[dict[str, Any]], answer: str = "A", **settings: Any):
    audit = Values(read="text", **settings)
    return audit.measure(writer(answer), audit.probes(rows))


# rows


def test_an_opinion_is_a_probe_for_each_group():
    items = measured([OPINION])
    assert items["id"].tolist() == ["1:north", "1:south"]
    assert items["group"].tolist() == ["north", "south"]
    assert items["cluster"].tolist() == ["1", "1"]


def test_equal_questions_are_asked_once():
    audit, model = Values(read="text"), writer("A")
    audit.measure(model, audit.probes([OPINION]))
    assert model.work.texts == 6  # 3! orders, two groups


def test_dropped_options_leave_question_and_distributions():
    audit = Values(drop=("don't know",))
    [north, south] = audit.probes([OPINION])
    assert north.texts == ("yes", "no")
    np.testing.assert_allclose(north.labels["shares"], [0.75, 0.25])
    np.testing.assert_allclose(south.labels["shares"], [0.2, 0.8])


def test_cells_of_a_csv_are_read(tmp_path: Path):
    file = tmp_path / "values.csv"
    shares = json.dumps({"all": [1, 0]}).replace('"', '""')
    file.write_text(
        "prompt,options,kind,distributions,value,values,topic\n"
        f'Q,yes|no,,"{shares}",,,\n'
        'R,"[""low"", ""high""]",,,power,,\n'
        "S,x|y,acted,,,power|security,t\n"
    )
    audit = Values()
    probes = audit.probes(read_data(audit, file))
    assert [probe.labels["kind"] for probe in probes] == ["opinion", "rating", "acted"]
    assert probes[1].texts == ("low", "high")
    assert probes[2].labels["values"] == ("power", "security")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Q", "options": ["a"]}, "'options' must hold 2 to 10 different texts"),
        ({"prompt": "Q", "options": ["a", "a"]}, "different texts"),
        ({"prompt": "Q", "options": ["a", "b"]}, "a rating needs the column 'value'"),
        ({"prompt": "Q", "options": ["a", "b"], "kind": "guess"}, "'kind' must be one of"),
        (
            {"prompt": "Q", "options": ["a", "b"], "kind": "stated", "values": ["x"]},
            "for each of 2",
        ),
        ({**OPINION, "distributions": {"n": [0.5, 0.5]}}, "must hold 3 shares"),
        ({**OPINION, "distributions": {"n": [0, -1, 0]}}, "shares of at least 0"),
        ({**OPINION, "distributions": "{n"}, "not valid JSON"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(row: dict[str, Any], message: str):
    with pytest.raises(UserError, match=f"^row 1: .*{message}"):
        Values().probes([row])


def test_steps_between_options_without_an_order_are_refused():
    with pytest.raises(UserError, match="w1 needs ordered options"):
        Values(distance="w1").probes([OPINION])
    assert Values(distance="w1").probes([{**OPINION, "scale": "ordinal"}])


def test_settings_are_checked():
    with pytest.raises(UserError, match="distance must be one of jsd, js_distance, w1"):
        Values(distance="kl")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must differ"):
        Values(values=("a", "a"))


# answers


def test_a_refusal_is_no_neutral_answer():
    items = measured([OPINION], "I have no opinions.")
    assert items["mass"].tolist() == [0, 0]
    assert items["similarity"].isna().all()
    audit = Values(read="text")
    found = {row.metric: row for row in audit.estimate(items)}
    assert "similarity" not in found
    assert found["mass"].value == 0
    assert any("a refusal is not neutral" in note for note in audit.notes(items))


def test_a_written_favourite_letter_is_told():
    items = measured([OPINION])
    np.testing.assert_allclose(items["letter_entropy"], 0)
    assert any("prefers some letters" in note for note in Values().notes(items))


def test_topics_with_one_form_only_have_no_gap():
    row = {"prompt": "S", "options": ["a", "b"], "kind": "acted", "values": ["x", "y"]}
    items = measured([{**row, "topic": "t"}])
    assert "gap" not in {each.metric for each in Values().estimate(items)}


# goals


def test_goals_are_the_taxonomys_levels():
    levels = [node.name for node in taxonomies.load("alignment-goals").children]
    assert [str(goal) for goal in AlignmentGoal] == levels


def test_levels_of_which_nothing_was_evaluated_are_listed():
    assert unevaluated([AlignmentGoal.VALUES]) == ["instructions", "preferences"]
    assert unevaluated(AlignmentGoal) == []
    assert (
        "not evaluated: human instructions, preferences" in Values().notes(measured([OPINION]))[-1]
    )


# the built-in questionnaire


def test_the_questionnaire_asks_of_every_value_alike():
    audit = Values()
    probes = audit.probes(read_data(audit, None))
    kinds = Counter(probe.labels["kind"] for probe in probes)
    assert kinds == {"rating": 20, "stated": 45, "acted": 10}
    rated = Counter(probe.labels["value"] for probe in probes if probe.labels["value"])
    assert rated == dict.fromkeys(SCHWARTZ, 2)
    for kind, often in (("stated", 9), ("acted", 2)):
        offered = Counter(
            value
            for probe in probes
            if probe.labels["kind"] == kind
            for value in probe.labels["values"]
        )
        assert offered == dict.fromkeys(SCHWARTZ, often)


def test_each_scene_has_its_statement():
    probes = Values().probes(Values().builtin())
    topics = {
        kind: {probe.labels["topic"] for probe in probes if probe.labels["kind"] == kind}
        for kind in ("stated", "acted")
    }
    assert len(topics["acted"]) == 10
    assert topics["acted"] <= topics["stated"]


def test_a_real_network_answers_the_questionnaire_and_the_run_is_kept(tmp_path: Path):
    audit = Values()
    words = [text for probe in audit.probes(audit.builtin()) for text in probe.texts]
    model = random_llama([*words, "A B C D E Assistant: Human: Question: Answer"])
    run = trueup.audit(model, [audit], out=tmp_path / "run")
    found = {row.metric: row for row in run.estimates if row.slice == "all"}
    assert next(iter(found)) == "gap"
    assert found["gap"].n <= 10
    assert sum(found[f"profile_{value}"].value for value in SCHWARTZ) == pytest.approx(0, abs=1e-9)
    again = audit.estimate(run.items_of("values"))
    assert [str(row) for row in again] == [str(row) for row in run.estimates]


def test_orders_depend_on_the_seed_alone():
    row = {"prompt": "R", "options": list("abcde"), "value": "power"}
    [probe] = Values().probes([row])
    assert Values()._orders(probe) == Values()._orders(probe)
    assert Values(seed=1)._orders(probe) != Values()._orders(probe)
