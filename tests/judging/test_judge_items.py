"""From rows to questions: both kinds of data, and every row that is refused."""

import random
from pathlib import Path

import pytest

from tests.audits.planted_models import random_bert
from trueup.audits.behaviour.judge_bias import JudgeBias
from trueup.audits.sources import probes_of, read_data
from trueup.errors import UserError
from trueup.judging.judge_items import item_of

PAIR = {"question": "why?", "chosen": "good", "rejected": "bad"}
FACT = {"question": "which?", "options": ["x", "y", "z"], "answer": "B"}


def item(row: dict):
    return item_of(row, "row 1", random.Random(0))


def test_a_pair_is_shown_in_a_drawn_order():
    made = [item_of(PAIR, "row 1", random.Random(seed)) for seed in range(100)]
    assert {one.options[one.answer] for one in made} == {"good"}
    assert 30 < sum(one.answer for one in made) < 70


@pytest.mark.parametrize("options", [["x", "y", "z"], "x|y|z", '["x", "y", "z"]', "x | y | z"])
@pytest.mark.parametrize("answer", ["B", "y"])
def test_options_keep_their_order(options, answer: str):
    made = item({**FACT, "options": options, "answer": answer})
    assert made.options == ("x", "y", "z")
    assert made.answer == 1
    assert made.is_fact


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "q"}, "needs 'chosen'"),
        ({**PAIR, **FACT}, "needs 'chosen'"),
        ({"question": "q", "chosen": "a"}, "needs 'chosen'"),
        ({**PAIR, "rejected": "good"}, "alike"),
        ({**FACT, "answer": "D"}, "'answer' must be one of A, B, C"),
        ({**FACT, "options": ["B", "y", "z"]}, "'answer' must be"),  # letter B or the text B
        ({**FACT, "options": ["x"], "answer": "A"}, "2 to 10"),
        ({**FACT, "options": list("abcdefghijk")}, "2 to 10"),
        ({**FACT, "options": "[1, 2"}, "not valid JSON"),
    ],
)
def test_a_row_without_a_question_to_judge_is_refused(row: dict, what: str):
    with pytest.raises(UserError, match=what) as error:
        item(row)
    assert str(error.value).startswith("row 1: ")


def test_the_audit_reads_a_csv_file(tmp_path: Path):
    path = tmp_path / "facts.csv"
    path.write_text("question,options,answer,group\nwhich?,x|y,A,maths\nwho?,v|w,B,art\n")
    audit = JudgeBias()
    probes = probes_of(audit, read_data(audit, path))
    assert len({probe.id for probe in probes}) == len(probes) == 2 * 11
    assert {probe.group for probe in probes} == {"maths", "art"}
    assert {probe.cluster for probe in probes} == {"1", "2"}


def test_an_error_names_the_place(tmp_path: Path):
    path = tmp_path / "facts.csv"
    path.write_text("question,options,answer\nwhich?,x|y,A\nwho?,v|w,C\n")
    audit = JudgeBias()
    with pytest.raises(UserError, match=r"facts\.csv:3: 'answer'"):
        probes_of(audit, read_data(audit, path))


def test_a_question_of_the_worked_examples_is_refused():
    row = {**PAIR, "question": "What is seven times eight?"}
    with pytest.raises(UserError, match="worked examples"):
        JudgeBias(mitigation="examples").probes([row])
    JudgeBias().probes([row])


@pytest.mark.parametrize(
    "settings",
    [
        {"biases": ()},
        {"biases": ("charm",)},
        {"targets": ("last",)},
        {"mitigation": "prayer"},
        {"read": "mind"},
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"level": 1.0},
        {"read": "letters", "mitigation": "reflection"},
    ],
)
def test_wrong_settings_are_refused(settings: dict):
    with pytest.raises(UserError):
        JudgeBias(**settings)


def test_a_model_that_cannot_answer_is_refused_by_name():
    audit = JudgeBias()
    masked = random_bert(["why good bad"])
    with pytest.raises(UserError, match="judge-bias needs a model that answers with text"):
        audit.measure(masked, audit.probes([PAIR]))
