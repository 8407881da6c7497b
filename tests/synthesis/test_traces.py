"""Rows for BVPO: which samples become a pair, and which never do."""

import math

import pytest

from trueup.errors import UserError
from trueup.synthesis.traces import TracedSample, answer_after_trace, traced_rows


def thought(trace: str, answer: str, reward: float | None) -> TracedSample:
    return TracedSample(text=f"<think>{trace}</think>{answer}", reward=reward)


def plain(text: str, reward: float | None) -> TracedSample:
    return TracedSample(text=text, reward=reward)


THINKING = [thought("a", "good", 2.0), thought("b", "fair", 1.0), thought("c", "bad", -1.0)]
PLAIN = [plain("meh", 0.5), plain("fine", 0.7), plain("poor", 0.1)]
CUT = TracedSample(text="<think>and so on and on", reward=None)


def one_row(
    thinking: list[TracedSample], no_thinking: list[TracedSample]
) -> dict[str, str | None] | None:
    rows = traced_rows(prompts=["why?"], thinking=[thinking], no_thinking=[no_thinking])
    return rows[0] if rows else None


def test_best_and_worst_answers_of_each_kind_make_the_pairs() -> None:
    assert one_row(THINKING, PLAIN) == {
        "prompt": "why?",
        "chosen": "<think>a</think>good",
        "rejected": "<think>c</think>bad",
        "chosen_no_think": "fine",
        "rejected_no_think": "poor",
    }


def test_order_of_samples_changes_nothing() -> None:
    assert one_row(THINKING[::-1], PLAIN[::-1]) == one_row(THINKING, PLAIN)


def test_turned_rewards_turn_the_pair() -> None:
    turned = [TracedSample(text=s.text, reward=-(s.reward or 0)) for s in THINKING]
    row, back = one_row(THINKING, PLAIN), one_row(turned, PLAIN)
    assert row is not None
    assert back is not None
    assert (back["chosen"], back["rejected"]) == (row["rejected"], row["chosen"])


def test_traces_stay_as_they_were_generated() -> None:
    odd = thought("\n\n two  spaces \n", "\n\nyes ", 9.0)
    row = one_row([odd, *THINKING], PLAIN)
    assert row is not None
    assert row["chosen"] == odd.text


@pytest.mark.parametrize("text", ["<think>half a thou", "<think>done</think>", "<think>x</think> "])
def test_a_sample_without_an_answer_is_never_chosen_nor_rejected(text: str) -> None:
    for reward in (None, 100.0, -100.0):
        assert one_row([TracedSample(text=text, reward=reward), *THINKING], PLAIN) == one_row(
            THINKING, PLAIN
        )


def test_a_blank_plain_answer_is_dropped() -> None:
    assert one_row(THINKING, [plain(" \n", -100.0), *PLAIN]) == one_row(THINKING, PLAIN)


def test_ties_make_no_pair() -> None:
    equal = [thought("a", "one", 1.0), thought("b", "two", 1.0)]
    row = one_row(equal, PLAIN)
    assert row is not None
    assert (row["chosen"], row["rejected"]) == (None, None)
    assert row["chosen_no_think"] == "fine"


def test_the_first_of_several_best_is_taken() -> None:
    row = one_row([*THINKING, thought("d", "good too", 2.0)], PLAIN)
    assert row is not None
    assert row["chosen"] == "<think>a</think>good"


def test_one_answer_makes_no_pair() -> None:
    row = one_row(THINKING, [PLAIN[0]])
    assert row is not None
    assert (row["chosen_no_think"], row["rejected_no_think"]) == (None, None)


def test_a_prompt_with_neither_pair_makes_no_row() -> None:
    rows = traced_rows(
        prompts=["first", "second"], thinking=[[CUT, CUT], THINKING], no_thinking=[[], PLAIN]
    )
    assert [row["prompt"] for row in rows] == ["second"]


def test_another_end_of_trace_is_honoured() -> None:
    samples = [plain("hm [/T] yes", 1.0), plain("hm [/T] no", 0.0), plain("hm </think> never", 5.0)]
    (row,) = traced_rows(prompts=["p"], thinking=[samples], no_thinking=[[]], end_of_trace="[/T]")
    assert (row["chosen"], row["rejected"]) == ("hm [/T] yes", "hm [/T] no")


def test_the_answer_is_what_follows_the_last_trace() -> None:
    assert answer_after_trace("<think>a</think> b </think> c\n") == "c"
    assert answer_after_trace("no trace at all") is None


@pytest.mark.parametrize("reward", [None, math.nan, math.inf])
def test_an_answer_without_a_finite_reward_is_refused(reward: float | None) -> None:
    with pytest.raises(UserError, match=r"^thinking\[0\]: the reward of an answer must be a"):
        one_row([*THINKING, thought("d", "hello", reward)], PLAIN)


def test_unequal_counts_are_refused() -> None:
    with pytest.raises(UserError, match=r"equally many, got \(2, 1, 1\)"):
        traced_rows(prompts=["a", "b"], thinking=[THINKING], no_thinking=[PLAIN])
