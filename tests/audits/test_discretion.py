"""Discretion: who is asked what, in which order, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trueup
from tests.audits.planted_models import random_llama
from trueup.audits import read_data
from trueup.audits.behaviour.discretion import Discretion, _own_words
from trueup.audits.behaviour.lettered_answers import letter_masses
from trueup.calibration.scripted_likelihoods import Named, ScriptedModel
from trueup.errors import UserError
from trueup.judging.judge_prompts import laid_out, messages
from trueup.models import LanguageModel
from trueup.models.endpoint import connect
from trueup.models.no_model import NoModel
from trueup.models.scripted_server import ScriptedServer
from trueup.models.work import Work
from trueup.worlds.scripted_writer import ScriptedWriter

GIVEN = ("helpful", "kind")
ROW: dict[str, Any] = {"prompt": "Well?", "chosen": "yes", "rejected": "no"}


def voting(likes: dict[str, str], first: str = "") -> ScriptedModel:
    """Prefers a response by the principle's word in the question, or the one shown first."""

    def following(words: Sequence[str]) -> Named:
        if words[-1:] != [":"]:
            return {}
        liked = next((text for word, text in likes.items() if word in words), first)
        if not liked:
            return {"A": 0.1, "B": 0.1, "C": 0.7}
        letter = "A" if liked == "first" or words.index(liked) < words.index(_other(liked)) else "B"
        return {one: 0.8 if one == letter else 0.05 for one in "ABC"}

    texts = ["Assistant: A B C yes no", *likes, "Which response is better"]
    return ScriptedModel(texts, following)


def _other(text: str) -> str:
    return "no" if text == "yes" else "yes"


@pytest.fixture
def principles(tmp_path: Path) -> str:
    file = tmp_path / "principles.csv"
    file.write_text("name,text\nmercy,Show mercyword.\ntruth,Tell truthword.\nsilence,Be still.\n")
    return str(file)


def test_the_model_is_asked_for_what_the_data_do_not_hold(principles: str):
    audit = Discretion(principles=principles)
    model = voting({"mercyword": "no", "truthword": "yes", "neither": "yes"})
    items = audit.measure(model, audit.probes([ROW]))
    found = items.iloc[0]
    assert (found["principle:mercy"], found["principle:truth"]) == (-1, 1)
    assert found["preference"] == 1 or np.isnan(found["preference"])
    assert found["kind"] == "conflict"


def test_a_principle_that_prefers_the_first_place_does_not_speak(principles: str):
    audit = Discretion(principles=principles)
    items = audit.measure(voting({"mercyword": "yes"}, first="first"), audit.probes([ROW]))
    found = items.iloc[0]
    assert found["principle:mercy"] == 1
    assert np.isnan(found["principle:truth"])
    assert found["preference"] == 0  # depends on the order
    assert found["kind"] == "consensus"
    # in one order the place alone would have been a preference
    once = Discretion(principles=principles, both_orders=False)
    assert once.measure(voting({}, first="first"), once.probes([ROW]))["preference"][0] == 1


def test_prompt_and_responses_are_read_once_for_all_principles():
    long = {"prompt": "w " * 60, "chosen": "yes", "rejected": "no"}
    audit = Discretion(both_orders=False)
    texts = [long["prompt"], "yes no A B C", *audit._texts().values()]
    model = random_llama(texts)
    audit.measure(model, audit.probes([long]))
    spent = model.work.as_dict()["trunk_tokens"]
    model.work = Work()
    requests = [
        laid_out(long["prompt"], ("yes", "no"), form).text
        for form in (
            *(
                _own_words()["ask"]["principle"].format(principle=t)
                for t in audit._texts().values()
            ),
            _own_words()["ask"]["preference"],
        )
    ]
    for request in requests:
        model.score([messages(request)], [["A", "B", "C"]])
    apart = model.work.as_dict()["trunk_tokens"]
    # the 60 words are read twice, for the principles and for the annotator, and not 13 times
    assert spent <= apart - 11 * 60


def test_written_answers_and_letters_agree(principles: str):
    def script(prompt: str, _: Any) -> str:
        if "mercyword" not in prompt:
            return "I would rather not say."
        return "A" if prompt.index("no") > prompt.index('\\"yes') else "B"

    audit = Discretion(principles=principles, read="text")
    model = ScriptedWriter(script=script, name="writer")
    items = audit.measure(model, audit.probes([ROW]))
    assert items["principle:mercy"][0] == 1
    assert np.isnan(items["principle:truth"][0])
    assert np.isnan(items["preference"][0])


@pytest.mark.network
def test_an_endpoint_is_read_by_its_likeliest_tokens():
    with ScriptedServer(lambda request, index: "A") as server:
        endpoint = connect(server.url, "scripted", cache=False)
        audit = Discretion(given=GIVEN)
        # the double's likeliest tokens are "A0" to "A19": no letter has any mass
        masses = letter_masses(endpoint, ["Which?"], ["ABC"], audit, "test")
        spoken = Discretion(given=GIVEN, read="text")
        read = letter_masses(endpoint, ["Which?"], ["ABC"], spoken, "test")
    assert masses[0].tolist() == [0, 0, 0]
    assert read[0].tolist() == [1, 0, 0]


def test_likelihoods_of_whole_responses_can_be_the_preference(tiny_llama: LanguageModel):
    audit = Discretion(given=GIVEN, annotate="likelihood")
    rows = [{**ROW, "helpful": 1, "kind": -1}, {**ROW, "chosen": "yess", "helpful": 1, "kind": 1}]
    items = audit.measure(tiny_llama, audit.probes(rows))
    scores = tiny_llama.score(["Well?"] * 2, [["yes", "no"], ["yess", "no"]]).logps
    assert items["preference"].tolist() == [np.sign(one - two) for one, two in scores]


def test_given_preferences_ask_no_model_and_empty_ones_are_none(tmp_path: Path):
    file = tmp_path / "pairs.csv"
    file.write_text(
        "prompt,chosen,rejected,helpful,kind,preference,human,group\n"
        "q,yes,no,1,1,-1,,a\nq,yes,no,1,,,,a\nq,yes,no,1,-1,1,-1,b\n"
    )
    audit = Discretion(given=GIVEN)
    items = audit.measure(NoModel(), audit.probes(read_data(audit, file)))
    np.testing.assert_array_equal(items["preference"], [-1, np.nan, 1])
    assert items["human"].tolist() == [1, 1, -1]
    assert items["kind"].tolist() == ["consensus", "consensus", "conflict"]
    found = {(row.metric, row.slice): row for row in audit.estimate(items)}
    assert found["arbitrariness", "all"].value == 1.0
    assert found["arbitrariness", "a"].n == 1
    assert found["discrepancy", "all"].value == 1.0


def test_a_dialogue_without_a_prompt_column_is_split():
    talk = "\n\nHuman: Well?\n\nAssistant:"
    audit = Discretion(given=GIVEN)
    [probe] = audit.probes(
        [{"chosen": f"{talk} yes", "rejected": f"{talk} no", "helpful": 1, "kind": 1}]
    )
    assert probe.prompt == talk
    assert probe.texts == (" yes", " no")


def test_an_own_oracle_is_told(principles: str):
    audit = Discretion(principles=principles)
    items = audit.measure(voting({}, first="yes"), audit.probes([ROW]))
    assert any("its own oracle" in note for note in audit.notes(items))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "helpful": 2, "kind": 1}, r"row 1: 'helpful' must be 1, -1, 0 or empty, got 2"),
        ({**ROW, "helpful": 1}, "no column for the principle 'kind'"),
        ({**ROW, "helpful": 1, "kind": 1, "human": "x"}, "'human' must be 1, -1"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(row: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        Discretion(given=GIVEN).probes([row])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"given": ("one",)}, "two principles or more"),
        ({"annotate": "guess"}, "annotate must be one of"),
        ({"read": "mind"}, "read must be one of"),
        ({"level": 2.0}, "level must lie"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        Discretion(**settings)


def test_a_model_without_letters_is_refused():
    audit = Discretion(given=GIVEN)
    with pytest.raises(UserError, match="set read=text"):
        audit.measure(NoModel(), audit.probes([{**ROW, "helpful": 1, "kind": 1}]))


def test_a_run_folder_holds_it(tmp_path: Path):
    rows = [
        {**ROW, "id": i, "helpful": one, "kind": two, "preference": pref}
        for i, (one, two, pref) in enumerate([(1, 1, 1), (1, -1, 1), (-1, 1, 1), (None, 1, -1)] * 4)
    ]
    audit = Discretion(given=GIVEN)
    run = trueup.audit(NoModel(), [audit], data=rows, out=tmp_path / "run")
    again = audit.estimate(run.items_of("discretion"))
    assert [str(row) for row in again] == [str(row) for row in run.estimates]
    assert next(row.metric for row in run.estimates if row.slice == "all") == "arbitrariness"


def test_real_pairs_are_read(shared_data: Path):
    audit = Discretion()
    probes = audit.probes(read_data(audit, shared_data / "hh_harmless_pairs.jsonl"))
    assert len(probes) == 1000
    assert all(probe.labels["human"] == 1 for probe in probes)
