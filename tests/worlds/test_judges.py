"""Planted judges: what is planted is what they do, as functions and in words."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from trueup.errors import UserError
from trueup.judging.injections import inject
from trueup.judging.judge_items import item_of
from trueup.judging.judge_prompts import control, messages
from trueup.worlds.judges import (
    UNREADABLE,
    PlantedJudge,
    expected_agreement,
    planted_rows,
    reading_of_prompt,
    worth,
)

GAPS = ("+1.0", "+0.0", "-1.0")
ITEM = item_of(planted_rows([0.5])[0], "row 1", random.Random(0))  # right: +0.5, wrong: 0


@pytest.mark.parametrize(
    ("judge", "verdict"),
    [
        (PlantedJudge(), "first"),
        (PlantedJudge(position=-0.6), "second"),
        (PlantedJudge(position=-0.4), "first"),
        (PlantedJudge(tie_width=0.5), "tie"),
        (PlantedJudge(tie_width=0.4), "first"),
        (PlantedJudge(always=1), "second"),
        (PlantedJudge(quality=lambda text: -worth(text)), "second"),
        (PlantedJudge(unreadable=1.0), None),
    ],
)
def test_the_margin_decides(judge: PlantedJudge, verdict: str | None):
    assert judge(["q"], ["worth +0.500"], ["worth +0.000"]) == [verdict]


def test_length_is_liked_by_the_hundred_characters():
    padded = "worth +0.000" + "x" * 100
    assert PlantedJudge(length=0.4)(["q"], ["worth +0.500"], [padded]) == ["first"]
    assert PlantedJudge(length=0.6)(["q"], ["worth +0.500"], [padded]) == ["second"]


@pytest.mark.parametrize("cue", ["bandwagon", "authority", "distraction", "reflection"])
@pytest.mark.parametrize("target", ["wrong", "correct"])
def test_cues_are_found_in_the_text_and_about_the_right_answer(cue: str, target: str):
    for seed in range(30):  # every wording
        made = inject(ITEM, cue, target, random.Random(seed))
        assert reading_of_prompt(made.text).cued == ((cue, made.cued),)
    assert reading_of_prompt(control(ITEM).text).cued == ()


@pytest.mark.parametrize("cue", ["bandwagon", "authority", "distraction", "reflection"])
def test_a_cue_moves_the_judge_that_follows_it_and_no_other(cue: str):
    prompt = messages(inject(ITEM, cue, "wrong", random.Random(0)).text)
    right, wrong = "AB"[ITEM.answer], "AB"[1 - ITEM.answer]
    assert PlantedJudge(cues={cue: 0.6}).ask([prompt]) == [wrong]
    assert PlantedJudge(cues={cue: 0.4}).ask([prompt]) == [right]
    others = {"bandwagon", "authority", "distraction", "reflection"} - {cue}
    assert PlantedJudge(cues=dict.fromkeys(others, 9.0)).ask([prompt]) == [right]


def test_an_authority_counts_in_a_lone_text_too():
    texts = "worth +0.500", "worth +0.000 (Professor X, University of Y)"
    assert PlantedJudge(cues={"authority": 0.6})(["q"], texts[:1], texts[1:]) == ["second"]


def test_words_and_verdicts_agree_whatever_the_leaning():
    gaps = np.random.default_rng(0).normal(size=50)
    judge = PlantedJudge(position=0.2, length=3.0)
    rows = planted_rows(gaps.tolist())
    firsts, seconds = [row["chosen"] for row in rows], [row["rejected"] for row in rows]
    prompts = [
        f"Answer A: {json.dumps(first)}\nAnswer B: {json.dumps(second)}"
        for first, second in zip(firsts, seconds, strict=True)
    ]
    said = {"A": "first", "B": "second"}
    assert [said[text] for text in judge.ask(prompts)] == judge(prompts, firsts, seconds)


def test_a_random_judge_draws_from_the_sigmoid():
    judge = PlantedJudge(is_random=True)
    draws = judge(
        [str(number) for number in range(4000)], ["worth +0.500"] * 4000, ["worth +0.000"] * 4000
    )
    # three standard errors: 3 * sqrt(0.25 / 4000)
    assert draws.count("first") / 4000 == pytest.approx(1 / (1 + np.exp(-0.5)), abs=0.024)


def test_many_answers_are_drawn_from_the_softmax():
    gaps = zip("ABC", GAPS, strict=True)
    prompt = "\n".join(f'Answer {letter}: "worth {gap}"' for letter, gap in gaps)
    said = [one.text for one in PlantedJudge(is_random=True).sample([prompt], n=4000)[0]]
    chances = np.exp([float(gap) for gap in GAPS])
    for letter, chance in zip("ABC", chances / chances.sum(), strict=True):
        assert said.count(letter) / 4000 == pytest.approx(chance, abs=0.024)


def test_the_same_seed_draws_the_same_and_another_one_anew():
    judge = PlantedJudge(is_random=True)
    prompts = [f'Answer A: "{number}"\nAnswer B: "b"' for number in range(100)]
    first, again = (judge.sample(prompts, n=2, seed=1) for _ in range(2))
    assert first == again
    other = judge.sample(prompts, n=2, seed=2)
    assert first != other
    assert first != replace(judge, seed=1).sample(prompts, n=2, seed=1)
    assert [one for one, _ in first] != [two for _, two in first]


@pytest.mark.parametrize("extra", ["system", "earlier", "later"])
def test_heed_takes_the_leanings_away_where_more_than_the_question_is_said(extra: str):
    made = inject(ITEM, "bandwagon", "wrong", random.Random(0))
    asked = messages(made.text)
    turn = {"role": "user", "content": "mind the cues"}
    prompt = {
        "system": [{**turn, "role": "system"}, *asked],
        "earlier": [turn, {"role": "assistant", "content": "yes"}, *asked],
        "later": [*asked, {"role": "assistant", "content": "B"}, turn],
    }[extra]
    led, right = "AB"[made.cued], "AB"[ITEM.answer]
    judge = PlantedJudge(cues={"bandwagon": 1.0}, heed=1.0)
    assert judge.ask([asked, prompt]) == [led, right]
    assert replace(judge, heed=0.0).ask([prompt]) == [led]
    assert replace(judge, heed=0.4).ask([prompt]) == [led]  # 1.0 * 0.6 is above the gap of 0.5
    assert replace(judge, heed=0.6).ask([prompt]) == [right]


def test_a_prompt_without_answers_gets_none():
    assert PlantedJudge().ask(["hello"]) == [UNREADABLE]


def test_expected_agreement_by_hand():
    # p = 1/2 agrees half the time with anything; p = 3/4 with itself: 9/16 + 1/16
    assert expected_agreement([0.0], [5.0]) == 0.5
    assert expected_agreement([np.log(3)], [np.log(3)]) == pytest.approx(10 / 16)


@pytest.mark.parametrize("settings", [{"tie_width": -1.0}, {"heed": 1.1}, {"unreadable": -0.1}])
def test_settings_out_of_range_are_refused(settings: dict):
    with pytest.raises(UserError):
        PlantedJudge(**settings)
