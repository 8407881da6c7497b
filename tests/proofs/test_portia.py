"""PORTIA: exact cuts, judges whose lean is known, and judges that it must not call mended."""

import itertools
import json
import re
from collections.abc import Sequence

import numpy as np
import pytest

from trueup.judging.portia import Answer, Portia, PortiaResult, portia_judge
from trueup.judging.portia_prompts import merge_prompt
from trueup.judging.portia_rates import (
    agreement_rate,
    breakage,
    consistency_rate,
    fix_rate,
    relative_improvement,
    tie_rate,
)
from trueup.judging.segmenting import (
    alignment_value,
    length_split,
    segments,
    semantic_split,
    token_overlap,
)
from trueup.judging.splitting import split_sentences

PARIS = [
    "Paris is the capital of France.",
    "It has about two million people.",
    "The Louvre is a famous museum.",
    "You should visit in spring.",
]
OTHER = [
    "The capital of France is Paris.",
    "Visit the Louvre museum.",
    "It is famous.",
    "About two million people live there.",
    "Spring is the best time to visit.",
]
_SHOWN = re.compile(r"^Answer ([AB])(?:, part \d+ of \d+)?: (.*)$", re.MULTILINE)


def shown(prompt: str) -> tuple[list[str], list[str]]:
    """The parts of A and of B that a prompt shows."""
    parts: dict[str, list[str]] = {"A": [], "B": []}
    for letter, text in _SHOWN.findall(prompt):
        parts[letter].append(json.loads(text))
    return parts["A"], parts["B"]


# 1. identity: the sheet's worked example, section 8.1


@pytest.mark.parametrize(
    ("k", "by_length", "length_value", "by_meaning", "best"),
    [
        (2, ((2,), (3,)), 0.891025641026, ((1,), (1,)), 1.705882352941),
        (3, ((1, 3), (2, 4)), 1.535714285714, ((1, 3), (1, 4)), 2.054945054945),
    ],
)
def test_worked_example(k: int, by_length, length_value: float, by_meaning, best: float):
    assert (length_split(PARIS, k), length_split(OTHER, k)) == by_length
    assert alignment_value(PARIS, OTHER, by_length) == pytest.approx(length_value, abs=1e-12)
    assert semantic_split(PARIS, OTHER, k) == by_meaning
    assert alignment_value(PARIS, OTHER, by_meaning) == pytest.approx(best, abs=1e-12)


def test_similarities_of_the_worked_example():
    similar = token_overlap(PARIS, OTHER)
    assert similar[0, 0] == 1.0
    assert similar[2, 1] == 0.5


def exhaustive(first: Sequence[str], second: Sequence[str], k: int):
    """All cuts tried one by one: the first of those that reach the best sum."""
    cuts = [
        (one, two)
        for one in itertools.combinations(range(1, len(first)), k - 1)
        for two in itertools.combinations(range(1, len(second)), k - 1)
    ]
    values = np.array([alignment_value(first, second, each) for each in cuts])
    best = values.max()
    return cuts[int(np.flatnonzero(values >= best - 1e-12)[0])], best, len(cuts)


@pytest.mark.parametrize(("k", "combinations"), [(2, 12), (3, 18)])
def test_worked_example_by_trying_everything(k: int, combinations: int):
    cuts, best, tried = exhaustive(PARIS, OTHER, k)
    assert tried == combinations
    assert cuts == semantic_split(PARIS, OTHER, k)
    assert best == pytest.approx(alignment_value(PARIS, OTHER, cuts), abs=1e-12)


def drawn(rng: np.random.Generator, lowest: int = 3, highest: int = 6) -> list[str]:
    """Sentences of few words, so that ties are common."""
    n = int(rng.integers(lowest, highest + 1))
    return [" ".join(rng.choice(list("abcde"), size=int(rng.integers(1, 4)))) for _ in range(n)]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_dynamic_programme_is_the_exhaustive_search(k: int):
    rng = np.random.default_rng(36)
    for _ in range(40):
        first, second = drawn(rng), drawn(rng)
        cuts, best, _ = exhaustive(first, second, k)
        found = semantic_split(first, second, k)
        assert found == cuts  # ties included: the first in dictionary order
        assert alignment_value(first, second, found) == pytest.approx(best, abs=1e-9)


def test_aligned_cuts_are_never_worse_than_those_by_length():
    rng = np.random.default_rng(1)
    gains = []
    for _ in range(60):
        first, second = drawn(rng), drawn(rng)
        plain = alignment_value(first, second, (length_split(first, 3), length_split(second, 3)))
        gains.append(alignment_value(first, second, semantic_split(first, second, 3)) - plain)
    assert min(gains) >= -1e-12
    assert max(gains) > 0.5  # and often better


def test_identical_answers_are_cut_alike():
    one, two = semantic_split(PARIS, PARIS, 3)
    assert one == two
    assert alignment_value(PARIS, PARIS, (one, two)) == pytest.approx(3.0)


@pytest.mark.parametrize("k", [2, 3])
def test_swapped_answers_give_mirrored_cuts(k: int):
    assert semantic_split(OTHER, PARIS, k) == semantic_split(PARIS, OTHER, k)[::-1]


def test_case_and_punctuation_change_nothing():
    loud = [sentence.upper().replace(".", " !?") for sentence in PARIS]
    assert semantic_split(loud, OTHER, 3) == semantic_split(PARIS, OTHER, 3)


def test_every_prompt_shows_both_answers_whole():
    first = "One. Two (e.g. 2.5).\n\n- a. b\n- c\n```\nx. Y.\n```\nEnd."
    second = " ".join(OTHER)
    seen: list[str] = []

    def ask_pair(prompts: Sequence[str]) -> list[Answer]:
        seen.extend(prompts)
        return ["first"] * len(prompts)

    portia_judge(ask_pair, ["Which?"], [first], [second])
    assert len(seen) == 6
    for number, prompt in enumerate(seen):
        a, b = ("".join(parts) for parts in shown(prompt))
        assert (a, b) == ((first, second) if number % 2 == 0 else (second, first))
    assert [len(shown(prompt)[0]) for prompt in seen] == [1, 1, 3, 3, 3, 3]


def test_a_swap_turns_the_parts_and_not_only_the_letters():
    parts = segments(PARIS, (1, 3), joint=" "), segments(OTHER, (1, 4), joint=" ")
    order = [json.loads(text) for _, text in _SHOWN.findall(merge_prompt("Q", *parts))]
    back = [json.loads(text) for _, text in _SHOWN.findall(merge_prompt("Q", *parts[::-1]))]
    assert order == [text for pair in zip(*parts, strict=True) for text in pair]
    assert back == [text for pair in zip(*parts[::-1], strict=True) for text in pair]


# 4. planted effect: judges whose lean is known


def quality(parts: Sequence[str]) -> float:
    """What a judge of content sees: the numbers in the text, added up."""
    return sum(float(number) for number in re.findall(r"q=(-?[0-9.]+)", " ".join(parts)))


def answers_of(values: np.ndarray) -> tuple[list[str], list[str]]:
    """Pairs of three to five sentences, the first better by the value."""
    firsts = [f"The worth q={value:.6f} is here. Some words follow. An end." for value in values]
    seconds = ["A start. Words in the middle. And more of it. Yet more. The end."] * len(values)
    return firsts, seconds


def content(prompts: Sequence[str]) -> list[Answer]:
    return ["first" if quality(a) > quality(b) else "second" for a, b in map(shown, prompts)]


def always_first(prompts: Sequence[str]) -> list[Answer]:
    return ["first"] * len(prompts)


def limited_window(prompts: Sequence[str], bias: float = 0.5) -> list[Answer]:
    """Remembers best what ends last; parts shown in turn divide that advantage."""
    return [
        "first" if quality(a) - quality(b) - bias / len(a) > 0 else "second"
        for a, b in map(shown, prompts)
    ]


def judged(ask_pair, values: np.ndarray, settings: Portia | None = None) -> list[PortiaResult]:
    firsts, seconds = answers_of(values)
    return portia_judge(ask_pair, ["Which is better?"] * len(values), firsts, seconds, settings)


def sides(results: Sequence[PortiaResult]) -> tuple[list[bool], list[bool]]:
    """Consistent before, consistent after."""
    before = [result.readings[0].consistent for result in results]
    return before, [result.consistent for result in results]


def test_a_judge_of_content_is_never_asked_twice_in_each_order():
    values = np.random.default_rng(0).uniform(-1, 1, 500)
    results = judged(content, values)
    assert {result.stage for result in results} == {"plain"}
    assert {result.calls for result in results} == {2}
    assert consistency_rate(sides(results)[1]).value == 1.0
    truths = ["first" if value > 0 else "second" for value in values]
    assert agreement_rate([result.verdict for result in results], truths).value == 1.0


def test_a_limited_window_is_mended_by_as_much_as_the_parts_say():
    # inconsistent iff |g| < d plain, |g| < d / k merged; g uniform on [-1, 1], d = .5, k = 3
    values = np.random.default_rng(5).uniform(-1, 1, 5000)
    results = judged(limited_window, values)
    before, after = sides(results)
    assert consistency_rate(before).value == pytest.approx(1 - 0.5, abs=0.03)
    assert consistency_rate(after).value == pytest.approx(1 - 0.5 / 3, abs=0.03)
    assert fix_rate(before, after).value == pytest.approx(2 / 3, abs=0.03)
    gained = relative_improvement(before, after, rng=np.random.default_rng(0))
    assert gained.low < (1 - 0.5 / 3) / 0.5 - 1 < gained.high


@pytest.mark.parametrize("k", [2, 3])
def test_each_pair_is_inconsistent_exactly_below_its_bias(k: int):
    values = np.round(np.linspace(-0.9, 0.9, 61) + 0.003, 6)
    results = judged(limited_window, values, Portia(k=k))
    for value, result in zip(values, results, strict=True):
        assert result.readings[0].consistent == (abs(value) > 0.5)
        assert result.consistent == (abs(value) > 0.5 / k)
        expected = "tie" if abs(value) < 0.5 / k else ("first" if value > 0 else "second")
        assert result.verdict == expected


def test_more_parts_mend_more():
    values = np.random.default_rng(2).uniform(-1, 1, 2000)
    rates = [
        consistency_rate(sides(judged(limited_window, values, Portia(k=k)))[1]).value
        for k in (1, 2, 3)
    ]
    assert rates == pytest.approx([1 - 0.5, 1 - 0.5 / 2, 1 - 0.5 / 3], abs=0.03)


def test_a_verdict_is_the_answers_and_not_the_letters():
    def longer(prompts: Sequence[str]) -> list[Answer]:
        found = [["".join(parts) for parts in shown(prompt)] for prompt in prompts]
        return ["first" if len(a) > len(b) else "second" for a, b in found]

    firsts, seconds = ["A long answer indeed. It goes on."] * 2, ["Short. Yes."] * 2
    results = portia_judge(longer, ["Q", "Q"], [firsts[0], seconds[0]], [seconds[0], firsts[0]])
    assert [result.verdict for result in results] == ["first", "second"]
    assert all(result.consistent for result in results)


@pytest.mark.parametrize(
    ("mended_at", "calls", "stage", "cuts"),
    [
        (0, 2, "plain", None),
        (1, 4, "length", ((1, 3), (2, 4))),
        (2, 6, "semantic", ((1, 3), (1, 4))),
        (9, 6, "semantic", ((1, 3), (1, 4))),
    ],
)
def test_calls_are_two_a_stage(mended_at: int, calls: int, stage: str, cuts):
    def script(prompts: Sequence[str]) -> list[Answer]:
        """Says first, in either order, up to the stage at which it is mended."""
        found = []
        for a, b in map(shown, prompts):
            aligned = {a[0].strip(), b[0].strip()} == {PARIS[0], OTHER[0]}
            stage = 0 if len(a) == 1 else 1 + aligned
            found.append("tie" if stage >= mended_at else "first")
        return found

    (result,) = portia_judge(script, ["Q"], [" ".join(PARIS)], [" ".join(OTHER)])
    assert (result.calls, result.stage, result.cuts) == (calls, stage, cuts)
    assert result.consistent == (mended_at < 9)


def test_only_open_pairs_are_asked_again_and_in_one_batch():
    sizes: list[int] = []

    def counted(prompts: Sequence[str]) -> list[Answer]:
        sizes.append(len(prompts))
        return limited_window(prompts)

    values = np.array([0.9, 0.3, 0.1, -0.1, -0.9])
    judged(counted, values)
    assert sizes == [2 * 5, 2 * 3, 2 * 2]


# 5. negative controls


@pytest.mark.parametrize("inconsistent", ["tie", "average"])
def test_a_judge_that_always_says_first_is_never_called_mended(inconsistent):
    values = np.random.default_rng(0).uniform(-1, 1, 400)
    results = judged(always_first, values, Portia(inconsistent=inconsistent))
    before, after = sides(results)
    assert consistency_rate(before).value == consistency_rate(after).value == 0.0
    mended = fix_rate(before, after)
    assert (mended.value, mended.n) == (0.0, 400)
    assert mended.high < 0.01
    assert {result.verdict for result in results} == {"tie"}  # never the first
    assert {result.calls for result in results} == {6}


def test_a_judge_that_always_ties_is_consistent_and_found_out():
    results = judged(lambda prompts: ["tie"] * len(prompts), np.linspace(-1, 1, 100))
    verdicts = [result.verdict for result in results]
    assert consistency_rate(sides(results)[1]).value == 1.0
    assert tie_rate(verdicts).value == 1.0
    assert agreement_rate(verdicts, ["first"] * 100).value == 0.0


def test_a_judge_that_tosses_coins_is_mended_by_luck_but_agrees_no_better():
    # each stage makes half of the open pairs consistent: 1/2, then 1 - 1/8; a fix rate is no proof
    rng = np.random.default_rng(7)

    def coin(prompts: Sequence[str]) -> list[Answer]:
        return ["first" if heads else "second" for heads in rng.random(len(prompts)) < 0.5]

    values = rng.uniform(-1, 1, 4000)
    results = judged(coin, values)
    before, after = sides(results)
    assert consistency_rate(before).value == pytest.approx(1 / 2, abs=0.03)
    assert fix_rate(before, after).value == pytest.approx(3 / 4, abs=0.03)
    kept = [index for index, result in enumerate(results) if result.consistent]
    truths = ["first" if values[index] > 0 else "second" for index in kept]
    agreed = agreement_rate([results[index].verdict for index in kept], truths)
    assert agreed.low < 0.5 < agreed.high


def test_with_the_plain_check_nothing_breaks_and_without_it_breakage_shows():
    def harmed(prompts: Sequence[str]) -> list[Answer]:
        """Right about whole answers, and lost where it sees parts."""
        return [
            content([prompt])[0] if len(shown(prompt)[0]) == 1 else "first" for prompt in prompts
        ]

    values = np.linspace(-1, 1, 60)
    plain = [result.readings[0] for result in judged(harmed, values)]
    was = [reading.consistent for reading in plain]
    verdicts = [reading.verdict for reading in plain]
    for stages, share in ((("plain", "length", "semantic"), 0.0), (("length", "semantic"), 1.0)):
        results = judged(harmed, values, Portia(stages=stages))
        now = [result.consistent for result in results]
        broken = breakage(was, now, verdicts, [result.verdict for result in results])
        assert (broken.value, broken.n) == (share, 60)


def test_a_changed_verdict_is_breakage_though_it_is_consistent():
    rate = breakage([True, True, False], [True, True, True], ["first"] * 3, ["first", "tie", "tie"])
    assert (rate.value, rate.n) == (0.5, 2)


def test_the_interval_of_the_fix_rate_covers_the_truth():
    # 200 draws of the limited window in closed form: fixed iff d / k < |g| < d, 2/3 of the broken
    rng, covered = np.random.default_rng(11), 0
    for _ in range(200):
        margins = np.abs(rng.uniform(-1, 1, 150))
        rate = fix_rate(margins > 0.5, margins > 0.5 / 3)
        covered += rate.low <= 2 / 3 <= rate.high
    assert covered >= 180  # 190 expected, three standard errors are 9


def test_no_inconsistent_pair_leaves_the_fix_rate_open():
    rate = fix_rate([True, True], [True, True])
    assert np.isnan(rate.value)
    assert rate.n == 0


def test_the_worked_example_is_also_what_the_splitter_makes_of_the_text():
    assert split_sentences(" ".join(PARIS)) == [f"{one} " for one in PARIS[:-1]] + PARIS[-1:]
