"""Programmatic constraints as rewards, and their sources."""

import pytest

from trueup.decoding.constraints import Keywords, Matches, MaxWords, Predicates, read_constraint
from trueup.decoding.rewards import opened_reward
from trueup.errors import UserError


def score(constraint, *texts, prompt="p"):
    return constraint([prompt] * len(texts), texts)


def test_soft_coverage_is_the_share_of_words_there():
    found = score(Keywords(words=("dog", "park")), "A dog ran.", "The Dog in the PARK", "none")
    assert found == [0.5, 1.0, 0.0]


def test_hard_coverage_is_all_or_nothing():
    found = score(Keywords(words=("dog", "park"), mode="hard"), "A dog ran.", "dog, park")
    assert found == [0.0, 1.0]


@pytest.mark.parametrize("text", ["dogs", "hotdog", "dogged"])
def test_other_forms_and_parts_of_words_do_not_count(text):
    assert score(Keywords(words=("dog",)), text) == [0.0]


def test_words_with_marks_are_matched_as_they_are():
    assert score(Keywords(words=("C++", "a.b")), "I like c++ and axb") == [0.5]


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_no_words_are_all_there(mode):
    assert score(Keywords(words=(), mode=mode), "text") == [1.0]


def test_words_may_differ_by_prompt():
    keywords = Keywords(words={"a": ["dog"], "b": ["cat"]})
    assert keywords(["a", "b"], ["dog", "dog"]) == [1.0, 0.0]
    with pytest.raises(UserError, match="no words for the prompt 'c'"):
        score(keywords, "dog", prompt="c")


def test_length_is_kept_or_missed_by_so_many_words():
    texts = ("one two", "one two three", "")
    assert score(MaxWords(limit=2), *texts) == [1.0, 0.0, 1.0]
    assert score(MaxWords(limit=1, mode="soft"), *texts) == [-1.0, -2.0, 0.0]


def test_a_pattern_is_found_or_absent():
    assert score(Matches(pattern=r"\d+"), "a 12", "b") == [1.0, 0.0]
    assert score(Matches(pattern=r"\d+", absent=True), "a 12", "b") == [0.0, 1.0]


def test_predicates_give_the_share_that_holds():
    checks = Predicates([str.isupper, lambda text: "A" in text])
    assert score(checks, "AB", "Ab", "cd") == [1.0, 0.5, 0.0]
    assert score(Predicates([]), "x") == [1.0]


@pytest.mark.parametrize(
    ("source", "constraint"),
    [
        ("keywords:dog, park", Keywords(words=("dog", "park"))),
        ("all-keywords:dog", Keywords(words=("dog",), mode="hard")),
        ("max-words:12", MaxWords(limit=12)),
        ("regex:a:b", Matches(pattern="a:b")),
        ("no-regex:x", Matches(pattern="x", absent=True)),
    ],
)
def test_sources_name_constraints(source, constraint):
    assert read_constraint(source) == constraint
    assert opened_reward(source) == constraint


def test_other_sources_are_other_rewards():
    assert read_constraint("words") is None
    assert opened_reward("words")(["p"], ["one two"]) == [2.0]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Matches(pattern="("), "regex: .* got '\\('"),
        (lambda: Keywords(words="dog"), "list of words"),
        (lambda: MaxWords(limit=-1), "limit must be at least 0"),
        (lambda: read_constraint("max-words:many"), "whole number, got 'many'"),
    ],
)
def test_wrong_constraints_are_refused(make, what):
    with pytest.raises(UserError, match=what):
        make()
