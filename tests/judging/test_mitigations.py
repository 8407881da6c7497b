"""Mitigations wrap a judge: what is added to its prompts, and which answer counts."""

from collections import Counter
from collections.abc import Sequence

import pytest

from trueup.data.messages import Prompt
from trueup.judging.injections import CUES
from trueup.judging.judge_prompts import messages
from trueup.judging.mitigations import example_questions, examples, mitigated, prepared
from trueup.judging.verdicts import parsed_letter
from trueup.worlds.judges import reading_of_prompt


class Listener:
    """A judge that answers from a list and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.heard: list[Prompt] = []

    def __call__(self, prompts: Sequence[Prompt]) -> list[str]:
        self.heard += prompts
        return [self.answers.pop(0) for _ in prompts]


def roles(prompt: Prompt) -> list[str]:
    assert not isinstance(prompt, str)
    return [turn["role"] for turn in prompt]


def test_without_mitigation_nothing_changes():
    ask = Listener("A")
    assert mitigated(ask, "none")(["which?"]) == ["A"]
    assert ask.heard == ["which?"]


def test_a_system_prompt_stands_behind_the_prompts_own():
    own = messages("which?", "Be brief.")
    helped = prepared(own, "system")
    assert roles(helped) == ["system", "user"]
    assert helped[0]["content"].startswith("Be brief.\n\n")
    assert helped[1] == own[1]
    assert roles(prepared("which?", "system")) == ["system", "user"]


def test_examples_stand_between_system_and_question():
    helped = prepared(messages("which?", "Be brief."), "examples")
    assert roles(helped) == ["system", *["user", "assistant"] * 6, "user"]
    assert helped[-1]["content"] == "which?"


def test_examples_show_every_cue_and_are_answered_right_as_often_first_as_second():
    turns = examples()
    shown = [name for turn in turns[::2] for name, _ in reading_of_prompt(turn["content"]).cued]
    assert sorted(shown) == sorted(set(CUES) - {"placebo"})
    verdicts = Counter(parsed_letter(turn["content"]) for turn in turns[1::2])
    assert verdicts == {"A": 3, "B": 3}
    assert len(example_questions()) == 6


def test_no_cue_of_an_example_is_for_its_right_answer():
    turns = examples()
    for asked, said in zip(turns[::2], turns[1::2], strict=True):
        right = "AB".index(parsed_letter(said["content"]) or "")
        assert right not in [place for _, place in reading_of_prompt(asked["content"]).cued]


def test_the_second_answer_counts_and_the_first_is_shown():
    ask = Listener("<think>hm</think>The answer is A", "Answer: B")
    assert mitigated(ask, "reflection")(["which?"]) == ["Answer: B"]
    assert roles(ask.heard[1]) == ["user", "assistant", "user"]
    assert ask.heard[1][1]["content"] == "The answer is A"


def test_an_empty_first_answer_is_shown_as_none():
    ask = Listener("<think>too long", "A")
    mitigated(ask, "reflection")(["which?"])
    assert ask.heard[1][1]["content"] == "(no answer)"


@pytest.mark.parametrize("mitigation", ["system", "examples", "reflection"])
def test_the_prompt_that_is_given_stays_as_it_is(mitigation: str):
    own = messages("which?", "Be brief.")
    mitigated(Listener("A", "B"), mitigation)([own])
    assert own == messages("which?", "Be brief.")
