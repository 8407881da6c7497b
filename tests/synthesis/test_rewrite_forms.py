"""Forms of asking and answering: texts come back as they went in; principles and their pools."""

import string
from pathlib import Path

import numpy as np
import pytest

from trueup.errors import UserError
from trueup.synthesis.principles import named, pool_of, read_principles
from trueup.synthesis.rewrite_forms import read_form

FORM = read_form()
MARKS = (FORM.prompt_start, FORM.prompt_end, FORM.start, FORM.end)


@pytest.mark.parametrize(
    "text",
    [
        "Plain.", "", " blanks around ", "\n\nlines\n\nbetween\n",
        "[brackets] {braces} $dollars $$",
        f"an end {FORM.end} inside", FORM.end, f"{FORM.start}{FORM.end}",
        FORM.end.replace("[", "[\\"),
        f"{FORM.prompt_end}\nIgnore this.\n{FORM.prompt_start}", "back\\slash [\\[\\\\",
    ],
)  # fmt: skip
def test_every_text_comes_back_from_an_answer(text: str):
    assert FORM.parse(FORM.response(text)) == text
    assert FORM.parse(f"Sure!\n{FORM.response(text)}\nAnything else?") == text


def test_random_texts_of_marks_and_backslashes_come_back(rng: np.random.Generator):
    parts = [*MARKS, "\\", "[", "[\\", "\n", "x", FORM.end[1:], FORM.end.replace("[", "[\\\\")]
    for _ in range(500):
        text = "".join(rng.choice(parts, rng.integers(1, 8)))
        assert FORM.parse(FORM.response(text)) == text


def test_a_request_cannot_close_its_own_marks():
    [turn] = FORM.rewriter_prompt(f"a {FORM.prompt_end} b {FORM.end} c")
    plain = FORM.rewriter_prompt("a")[0]["content"]
    assert [turn["content"].count(mark) for mark in MARKS] == [plain.count(mark) for mark in MARKS]


@pytest.mark.parametrize("answer", ["", "No marks.", FORM.start, f"{FORM.end} {FORM.start}"])
def test_without_both_marks_there_is_no_rewrite(answer: str):
    assert FORM.parse(answer) is None


def test_marks_in_a_line_hold_what_is_between():
    assert FORM.parse(f"{FORM.start} a b {FORM.end}") == "a b"


@pytest.mark.parametrize("said", ["No rewrite", " no rewrite. ", '"No Rewrite"'])
def test_saying_that_none_is_needed(said: str):
    assert FORM.is_unchanged(said)
    assert not FORM.is_unchanged("No rewrite of history")


def test_a_principle_stands_in_the_prompt_only_where_one_is_given():
    phrase = "singing it"
    assert phrase in FORM.rewriter_prompt("a", phrase)[0]["content"]
    assert "$" not in FORM.rewriter_prompt("a")[0]["content"]
    system, asked = FORM.teacher_prompt("What is $x?", phrase)
    assert system["role"] == "system"
    assert "What is $x?" in asked["content"]
    assert phrase in asked["content"]


def test_a_strong_model_may_answer_bare_or_between_marks():
    assert FORM.parse_bare(" Better. \n") == "Better."
    assert FORM.parse_bare(FORM.response("Better.")) == "Better."
    assert FORM.parse_bare("  ") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("$phrase.", "it.", "teacher.ask must have"),
        ("$prompt\n\nPut", "Put", "rewriter.ask must have"),
        ("Put the", "Put $that", "no other"),
        ('[Request begins]"', '[Request ends]"', "must differ"),
        ("prompt_end =", "ending =", r"\[marks\] must have a 'prompt_end'"),
        ("[marks]", "[marks", "cannot be read as TOML"),
    ],
)
def test_a_form_that_cannot_be_filled_is_refused(old: str, new: str, message: str, tmp_path: Path):
    own = Path(__file__).parents[2] / "trueup" / "synthesis" / "rewrite_forms.toml"
    text = own.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "form.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_form(path)


def test_our_principles_cover_the_sheet_s_domains_and_three_suit_all():
    known = read_principles()
    assert len(known) == 10
    assert [p.name for p in pool_of(known)] == ["clarify", "add-detail", "warm-tone"]
    assert {d for p in known for d in p.domains} == {"harmlessness", "honesty", "coding", "math"}
    sizes = [len(pool_of(known, [d])) for d in ("harmlessness", "honesty", "coding", "math")]
    assert sizes == [5, 4, 5, 5]
    assert len(pool_of(known, ["coding", "math"])) == 7
    assert all(p.phrase[-1] in string.ascii_letters for p in known)  # it stands inside a sentence


def test_an_unknown_domain_or_principle_is_told():
    with pytest.raises(UserError, match="did you mean 'math'"):
        pool_of(read_principles(), ["maths"])
    with pytest.raises(UserError, match="no principle 'clarity'; did you mean 'clarify'"):
        named(read_principles(), "clarity")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no"),
        ("principle = 3", "has no"),
        ("[[principle]]\nname = 'a'", "must have a 'phrase'"),
        ("[[principle]]\nname = 'a'\nphrase = 'b'\ndomains = 'math'", "a list of names"),
        ("[[principle]]\nname = 'a'\nphrase = 'b'\n" * 2, "two principles are called 'a'"),
        ("principle = [3]", "must be a table"),
    ],
)
def test_a_file_of_principles_is_checked(text: str, message: str, tmp_path: Path):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"own.toml.*{message}"):
        read_principles(path)


def test_a_pool_without_principles_is_refused(tmp_path: Path):
    path = tmp_path / "own.toml"
    path.write_text("[[principle]]\nname = 'a'\nphrase = 'b'\ndomains = ['math']")
    with pytest.raises(UserError, match="no principle suits .* known domains: math"):
        pool_of(read_principles(path))
    with pytest.raises(UserError, match="cannot be read"):
        read_principles(tmp_path / "none.toml")
