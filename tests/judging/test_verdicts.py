import math

import pytest

from trueup.judging.verdicts import (
    mirrored,
    parsed_grade,
    parsed_letter,
    parsed_verdict,
    points,
    without_reasoning,
)

SHEET = [  # sheet 23, section 7.4
    ("A", "A"),
    ("The answer is B.", "B"),
    ("A better choice is B", "B"),
    ("I think B is a good answer", "B"),
    ("<think>A looks right</think>\n\nB", "B"),
    ("Both", None),
    ("", None),
]
FURTHER = [
    ("Answer: **B**", "B"),
    ("[[A]]", "A"),
    (r"So it is \boxed{B}", "B"),
    ("(B)", "B"),
    ("Option B.", "B"),
    ("The correct option is **A**.", "A"),
    ("B. Because A is verbose.", "B"),
    ("A is better than B", "A"),
    ("A is better than B, but overall B is more helpful", "B"),
    ("Reasoning: A is long.\nTherefore, B.", "B"),
    ("I prefer Answer A over Answer B", "A"),
    ("Both A and B are good. The answer is A", "A"),
    ("Final verdict: B\n\nThank you!", "B"),
    ("B\nA is worse", "B"),
    ("Response B is better than response A", "B"),
    ("A looks fine to me</think>B", "B"),
    ("<think>B is better", None),  # cut before its end
    ("b", None),
    ("A cat sat down.", None),
    ("As a judge I cannot say", None),
    ("A or B", None),
    ("Answer: A or B", None),
    ("A and B", None),
    ("Neither A nor B is good", None),
    ("I don't think A is better", None),
    ("The answer is not A but that one", None),
    ("B is worse than A", None),
    ("Answer: C", None),
    ("The answer is A. On second thought: the answer is C.", None),
]


@pytest.mark.parametrize(("answer", "letter"), SHEET + FURTHER)
def test_the_last_explicit_statement_counts(answer: str, letter: str | None):
    assert parsed_letter(answer) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("The answer is J.", "J"),
        ("I", "I"),
        ("I think that the answer is D", "D"),
        ("The answer is I think D", None),
    ],
)
def test_of_ten_letters_the_pronoun_is_none(answer: str, letter: str | None):
    assert parsed_letter(answer, "ABCDEFGHIJ") == letter


PROMPT = 'Question: "Why?"\nAnswer A: "It is so."\nAnswer B: "It is not."\n\nReply with A.'


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        (PROMPT, None),
        (f"{PROMPT}\nB", "B"),
        ('Answer B: "It is not."', "B"),  # one answer quoted is an answer
        ('Answer A: "It is so."\nAnswer B: "It is not."', None),
        ("Reply with A.", None),
    ],
)
def test_echoes_of_the_prompt_are_not_read(answer: str, letter: str | None):
    assert parsed_letter(answer, prompt=PROMPT) == letter


def test_a_tie_is_read_only_where_it_is_allowed():
    assert [parsed_verdict(text, ties=True) for text in ("A", "B", "C", "It is a tie.")] == [
        "first",
        "second",
        "tie",
        "tie",
    ]
    assert parsed_verdict("C") is parsed_verdict("tie") is None


def test_what_cannot_be_read_is_no_tie():
    assert parsed_verdict("Both are good.", ties=True) is None


def test_the_other_order_turns_a_verdict_round():
    assert [mirrored(each) for each in ("first", "second", "tie", None)] == [
        "second",
        "first",
        "tie",
        None,
    ]


def test_points_leave_unread_verdicts_open():
    *read, unread = points(["first", "tie", "second", None]).tolist()
    assert read == [1.0, 0.5, 0.0]
    assert math.isnan(unread)


def test_reasoning_ends_at_its_last_mark():
    assert without_reasoning("<think>a</think>b<THINK>c</THINK> d") == " d"


@pytest.mark.parametrize(
    ("answer", "grade"),
    [
        ("7", 7.0),
        ("Score: 7", 7.0),
        ("**Rating:** [[8]]", 8.0),
        ("I give it 7 out of 10", 7.0),
        ("7/10", 7.0),
        ("Score: 7/10", 7.0),
        ("4.5", 4.5),
        ("Score: 3. No: the score is 6", 6.0),
        ("<think>3</think>9", 9.0),
        ("7/5", None),  # of another scale
        ("Score: 11", None),
        ("Score: -3", None),
        ("between 3 and 4", None),
        ("seven", None),
        ("", None),
    ],
)
def test_a_grade_is_an_explicit_number_on_the_scale(answer: str, grade: float | None):
    assert parsed_grade(answer, 1, 10) == grade
