"""Injections: one span and nothing else, the same again for the same seed (sheet 23, 7.3)."""

import random
import re
from difflib import SequenceMatcher

import pytest

from trueup.errors import UserError
from trueup.judging.injections import CUES, TARGETS, cued_option, inject, moved
from trueup.judging.judge_prompts import JudgeItem, control, texts
from trueup.worlds.judges import reading_of_prompt

PAIR = JudgeItem(question="Why?", options=("It is so.\nAlways.", "It is not."), answer=1)
TEN = JudgeItem(
    question="How many?",
    options=tuple(f"{number} of them" for number in range(10)),
    answer=4,
    is_fact=True,
    subject="physics",
)
ITEMS = pytest.mark.parametrize("item", [PAIR, TEN], ids=["pair", "ten"])
EVERY_CUE = pytest.mark.parametrize("cue", CUES)
EVERY_TARGET = pytest.mark.parametrize("target", TARGETS)


@ITEMS
@EVERY_CUE
@EVERY_TARGET
def test_removing_the_span_gives_the_control_byte_for_byte(item, cue, target):
    made = inject(item, cue, target, random.Random(1))
    end = made.start + len(made.span)
    assert made.text[made.start : end] == made.span
    assert made.span.strip()
    assert made.text[: made.start] + made.text[end:] == control(item).text


@ITEMS
@EVERY_CUE
def test_a_diff_finds_one_insertion(item, cue):
    made = inject(item, cue, "wrong", random.Random(2))
    steps = SequenceMatcher(None, control(item).text, made.text, autojunk=False).get_opcodes()
    assert [step[0] for step in steps if step[0] != "equal"] == ["insert"]


@ITEMS
@EVERY_CUE
def test_the_answers_keep_their_order_and_letters(item, cue):
    made = inject(item, cue, "wrong", random.Random(3))
    letters = re.findall(r'^Answer ([A-J]): "', made.text, flags=re.MULTILINE)
    assert "".join(letters) == item.letters
    for place, (before, after) in enumerate(
        zip(item.options, reading_of_prompt(made.text).options, strict=True)
    ):
        is_lengthened = cue in ("authority", "placebo") and place == made.cued
        assert after.startswith(before)
        assert (after == before) is not is_lengthened


@ITEMS
def test_the_wrong_answer_is_never_the_right_one(item):
    drawn = {cued_option(item, "wrong", random.Random(seed)) for seed in range(200)}
    assert drawn == set(range(len(item.options))) - {item.answer}
    assert cued_option(item, "correct", random.Random(0)) == item.answer
    assert cued_option(item, "last", random.Random(0)) == len(item.options) - 1


@ITEMS
@EVERY_CUE
def test_the_same_seed_gives_the_same_prompt(item, cue):
    first, again = (inject(item, cue, "wrong", random.Random("seed")) for _ in range(2))
    assert first == again


def test_every_source_can_be_drawn():
    spans = {inject(PAIR, "authority", "wrong", random.Random(seed)).span for seed in range(400)}
    assert len(spans) == len(texts("inject")["authority"]) == 13


@ITEMS
@pytest.mark.parametrize("target", ["wrong", "correct"])
def test_the_placebo_has_its_authoritys_place_and_length(item, target):
    for seed in range(20):
        cued, filled = (
            inject(item, cue, target, random.Random(seed)) for cue in ("authority", "placebo")
        )
        assert (cued.start, len(cued.span), cued.cued) == (
            filled.start,
            len(filled.span),
            filled.cued,
        )
        assert reading_of_prompt(filled.text).cued == ()


def test_the_survey_is_of_students_where_facts_are_asked():
    assert "90% of physics students" in inject(TEN, "bandwagon", "wrong", random.Random(0)).span
    assert "90% of people" in inject(PAIR, "bandwagon", "wrong", random.Random(0)).span


def test_what_stands_behind_the_answers_shares_them_as_a_prefix():
    for cue in ("bandwagon", "distraction"):
        made = inject(PAIR, cue, "wrong", random.Random(0))
        assert made.start == control(PAIR).close


@ITEMS
@pytest.mark.parametrize("to", ["first", "last"])
def test_moving_the_right_answer_keeps_the_others_in_order(item, to):
    shown = moved(item, to)
    assert shown.options[shown.answer] == item.options[item.answer]
    assert shown.answer == (0 if to == "first" else len(item.options) - 1)
    others = [
        [option for place, option in enumerate(one.options) if place != one.answer]
        for one in (item, shown)
    ]
    assert others[0] == others[1]


def test_unknown_cues_and_targets_are_refused():
    with pytest.raises(UserError, match="cue must be one of"):
        inject(PAIR, "charm", "wrong", random.Random(0))
    with pytest.raises(UserError, match="target must be one of"):
        inject(PAIR, "bandwagon", "second", random.Random(0))
