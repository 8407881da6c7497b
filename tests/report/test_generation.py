import math
import re
from pathlib import Path
from typing import Any

import pytest

import trueup
from tests.report.searches import (
    ARGUMENTS,
    POOL,
    TWO_BEAMS,
    entry,
    generate_run,
    long_trace,
    row,
    steps,
)
from tests.report.test_page import HOSTILE, parsed
from trueup.models import LanguageModel
from trueup.report import report_run
from trueup.report.wording import number

PLAIN: dict[str, Any] = {"decoder": "sample", "decoders": {}, "rewards": {}}


def page(path: Path, rows: Any, **changes: Any) -> str:
    return report_run(generate_run(path / "r", rows, **changes).path).read_text("utf-8")


def told(page: str) -> str:
    """The page's text, one space between words."""
    return " ".join(" ".join(parsed(page).data).split())


def test_the_head_says_what_was_decoded_and_how(tmp_path: Path) -> None:
    text = told(page(tmp_path, [row(1, trace=TWO_BEAMS), row(2, trace=TWO_BEAMS)]))
    for part in (
        "Completions of small",
        "What did the search choose, out of what, and what did that cost?",
        "Decoder deal (lam 0.5, num_beams 2, unit token)",
        "Rewards words",
        "Prompts 2",
        "Completions per prompt 1",
        "Data prompts.jsonl",
        "Seed 7",
        "Sampling at most 12 tokens",
    ):
        assert part in text
    assert "temperature" not in text.partition("Completions and their searches")[0]


def test_the_summary_has_means_with_intervals_endings_and_work(tmp_path: Path) -> None:
    rows = [
        row(n, score=float(n), rewards={"words": 2.0 * n}, reason=reason)
        for n, reason in enumerate(["eos", "eos", "length"], start=1)
    ]
    text = told(page(tmp_path, rows, work=63))
    half = 4.302653 / math.sqrt(3)  # Student's 97.5 % quantile of two degrees of freedom
    for part in (
        "3 completions of 3 prompts: 2 ended by the model, 1 ended at the longest length.",
        f"Mean score: 2.000, 95% interval [\N{MINUS SIGN}{half - 2:.3f}, {2 + half:.3f}]",
        f"Mean reward words: 4.000, 95% interval [\N{MINUS SIGN}{2 * half - 4:.3f}, "
        f"{4 + 2 * half:.3f}] over 3 prompts.",
        "For the 9 tokens of these completions the model read 63, 7.0 for each;",
    ):
        assert part in text


def test_several_completions_of_a_prompt_count_as_one_unit(tmp_path: Path) -> None:
    rows = [
        row(index, number=number, score=value, rewards={"words": value})
        for index, values in ((1, (1.0, 3.0)), (2, (4.0, 6.0)))
        for number, value in enumerate(values, start=1)
    ]
    text = told(page(tmp_path, rows[::-1], n=2))
    half = 12.706205 * 1.5  # the prompts' means are 2 and 5
    interval = f"[\N{MINUS SIGN}{half - 3.5:.2f}, {half + 3.5:.2f}]"
    assert f"Mean reward words: 3.500, 95% interval {interval} over 2 prompts." in text
    assert "4 completions of 2 prompts" in text
    assert "Mean score" not in text  # it says what the reward says
    assert "Other completions of this prompt" in text


def test_equal_rewards_or_one_prompt_have_no_interval(tmp_path: Path) -> None:
    text = told(page(tmp_path, [row(1), row(2)]))
    assert "Mean reward words: 1.000, without an interval, as all 2 prompts have it." in text
    text = told(page(tmp_path / "one", [row(1)]))
    assert "Mean reward words: 1.000, without an interval, as there is one prompt." in text


def test_a_search_has_a_picture_with_words_for_it(tmp_path: Path) -> None:
    whole = page(tmp_path, [row(1, trace=TWO_BEAMS)])
    label = "9 candidates in 3 steps, 6 kept; scores from"
    assert whole.count(f'aria-label="{label}') == 2
    assert f'<figcaption class="quiet">{label}' in whole
    assert "A step is one token." in whole
    text = told(whole)
    assert "the way to the completion" in text
    for line in ("1 3 2 \N{MINUS SIGN}4.000 to 1.000 a 1.000", "2 3 2", "3 3 2"):
        assert line in text


def test_the_step_table_tells_what_the_completion_gained(tmp_path: Path) -> None:
    trace = steps(
        [entry("one", 1.0, kept=True)],
        [entry("one two", 1.5, kept=True)],
        [entry("one two", 2.0, kept=True)],
    )
    text = told(page(tmp_path, [row(1, text="one two", score=2.0, trace=trace)]))
    assert "1.000 to 1.000 one 1.000" in text
    assert "1.500 to 1.500 two 1.500" in text
    assert "2.000 to 2.000 (no text) 2.000" in text


def test_a_pool_is_shown_with_its_candidates_and_their_numbers(tmp_path: Path) -> None:
    pool = steps([entry("dropped one", 0.5, degrees=11.5), entry("abc", 3.0, kept=True, degrees=0)])
    text = told(page(tmp_path, [row(1, trace=pool)], decoder="rps", decoders={}))
    assert "Candidate Score words degrees Kept" in text
    assert "abc 3.000 1.000 0.000 yes" in text
    assert "dropped one 0.500 2.000 11.50 no" in text
    assert "Sampling temperature 1, at most 12 tokens" in text
    assert "Where a search has one step" in text


def test_a_large_pool_tells_how_many_candidates_are_left_out(tmp_path: Path) -> None:
    pool = steps([entry(f"t{n}", float(n), kept=n == 39) for n in range(40)])
    text = told(page(tmp_path, [row(1, text="t39", score=39.0, trace=pool)]))
    assert "The best 12 of 40 candidates; items.parquet holds all." in text
    assert "t39 39.00" in text
    assert "t20 " not in text


def test_plain_samples_have_texts_and_no_pictures(tmp_path: Path) -> None:
    whole = page(tmp_path, [row(1, score=None, text="said <so>")], **PLAIN)
    text = told(whole)
    assert "What does the model write?" in text
    assert "completion said <so>" in text
    assert 'role="img"' not in whole
    assert "Mean" not in text
    assert "legend" not in whole.partition("</style>")[2]


def test_a_server_that_tells_no_tokens_has_no_work(tmp_path: Path) -> None:
    rows = [row(n, n_tokens=None, score=None) for n in (1, 2)]
    text = told(page(tmp_path, rows, **PLAIN, work=0))
    assert "tokens of these completions" not in text
    assert "undefined" not in text


def test_messages_and_documents_are_readable(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Why?\n\nIn two lines."},
    ]
    papers = {"prefix": "Facts: ", "docs": ["A is b.", "C is d."], "suffix": "What is A?"}
    whole = page(tmp_path, [row(1, prompt=chat), row(2, prompt=papers)])
    assert '<dt>user</dt><dd dir="auto">Why?&#10;&#10;In two lines.</dd>' in whole
    text = told(whole)
    assert "system Be short." in text
    assert "prompt Facts:" in text
    assert "document 2 C is d." in text
    assert "prompt What is A?" in text


def test_long_dialogues_and_texts_are_cut_and_say_so(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": f"turn {n}"} for n in range(9)]
    rows = [row(1, prompt=chat), row(2, prompt="b" * 400 + "e" * 1000, text="f" * 1500 + "g" * 7)]
    text = told(page(tmp_path, rows))
    assert "3 earlier parts not shown" in text
    assert "turn 2" not in text
    assert "turn 3" in text
    assert "400 characters left out " + "e" * 1000 in text
    assert "f" * 1500 + " 7 characters left out" in text


def test_the_other_prompts_are_a_table_of_at_most_a_hundred(tmp_path: Path) -> None:
    rows = [row(n, prompt=f"ask {n}", text=f"say {n}", score=n + 0.5) for n in range(1, 121)]
    text = told(page(tmp_path, rows[::-1]))
    assert "Prompt 8" in text
    assert "Prompt 9" not in text
    assert "ask 9 9 say 9 9.500" in text
    assert "ask 108 108 say 108" in text
    assert "ask 109" not in text
    assert "The first 100 of 112 completions; 12 are left out here" in text


def test_hostile_texts_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    name = "<u>reward</u>"
    trace = steps(
        [entry(HOSTILE, 1.0, kept=True, rewards={name: 1.0})],
        [entry(HOSTILE + HOSTILE, 3.0, kept=True, rewards={name: 2.0})],
    )
    pool = steps([entry(HOSTILE, 3.0, kept=True, **{name: 2.0})])
    shared: dict[str, Any] = {"text": HOSTILE, "rewards": {name: 2.0}, "reason": HOSTILE}
    chat = [{"role": HOSTILE, "content": HOSTILE}]
    rows = [
        row(1, prompt=HOSTILE, trace=trace, **shared),
        row(2, prompt=chat, trace=pool, **shared),
        *(row(n, prompt=HOSTILE, **shared) for n in range(3, 12)),
    ]
    own = {"decoder": HOSTILE, "decoders": {"x": {HOSTILE: HOSTILE}}, "rewards": {name: HOSTILE}}
    parser = parsed(page(tmp_path, rows, **own))
    assert not {"script", "img", "u"} & set(parser.seen)
    assert "".join(parser.data).count("<script>alert('x')</script>") >= 20
    assert "49" not in {word.strip() for word in parser.data}


@pytest.mark.parametrize(
    "hostile", ["\x00\x07\x1b[31m", "\ud800", "\ufffe", "\x85\u2028\u202e", ""]
)
def test_what_a_page_cannot_hold_is_replaced(tmp_path: Path, hostile: str) -> None:
    """Lone surrogates come from JSON escapes; a tokenizer gives none, but a prompt may."""
    trace = steps([entry(hostile, 1.0, kept=True)], [entry(hostile + "a", 3.0, kept=True)])
    rows = [row(1, prompt=hostile + "p", text=hostile.replace("\ud800", "x"), trace=trace)]
    rows += [row(n, prompt=[{"role": "user", "content": hostile}], text="t") for n in range(2, 11)]
    whole = page(tmp_path, rows)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", whole)
    parsed(whole)


@pytest.mark.parametrize(
    ("size", "wide"), [((200, 10, 3), "one bar for up to 3 steps"), ((12, 15, 3), "<title>")]
)
def test_pages_with_long_traces_stay_light(
    tmp_path: Path, size: tuple[int, int, int], wide: str
) -> None:
    trace, text, score = long_trace(*size)
    rows = [row(n, text=text, score=score, trace=trace, prompt="p " * 700) for n in range(1, 9)]
    rows += [row(n, prompt="p " * 300, text="t " * 300) for n in range(9, 300)]
    whole = page(tmp_path, rows)
    assert wide in whole
    assert len(whole.encode()) < 300_000


def test_a_search_that_another_package_wrote_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    odd = [{}, {"candidates": [{"text": "x"}, {"kept": True, "h": math.nan}]}]
    rows = [row(1, trace=odd), row(2, trace=[{"candidates": [{"text": "x", "h": 1}]}], score=None)]
    whole = page(tmp_path, rows)
    assert "1 candidate, 0 kept; scores from 1.000 to 1.000." in whole
    assert whole.count('role="img"') == 2


def test_an_unfinished_run_shows_what_is_there(tmp_path: Path) -> None:
    text = told(page(tmp_path, [row(2), row(1)], status="interrupted"))
    assert "The run r is interrupted: its numbers are incomplete." in text
    assert "2 completions of 2 prompts" in text
    text = told(page(tmp_path / "none", [], status="failed"))
    assert "Nothing has been written yet." in text


def test_making_the_page_again_changes_no_byte(tmp_path: Path) -> None:
    run = generate_run(tmp_path / "r", [row(1, trace=TWO_BEAMS), row(2, trace=POOL)])
    first = report_run(run.path).read_bytes()
    assert report_run(run.path).read_bytes() == first


def test_arguments_of_the_samples_are_those_that_generate_writes(
    tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    """The sample's keys are a real run's, so that the other tests stand for one."""
    run = tmp_path / "run"
    made = trueup.generate(
        tiny_llama,
        [{"prompt": "The nurse said"}, {"prompt": "He went"}],
        decoder="deal",
        reward="words",
        max_new_tokens=5,
        out=run,
    )
    whole = (run / "report.html").read_text("utf-8")
    parsed(whole)
    assert set(ARGUMENTS) - {"decoders", "rewards"} <= set(made.settings)
    for each in made.rows:
        assert f"has {number(each['score'])} at step" in whole
    assert whole.count("25 candidates in 5 steps, 5 kept") == 6  # two widths and a caption, twice
