"""The rewriter in front of a model: what it rewrites, what it remembers, when it holds back."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from trueup.decoding import p_aligner
from trueup.decoding.p_aligner import PAligner
from trueup.errors import UserError, build
from trueup.models import LanguageModel
from trueup.models.scripted_server import ScriptedServer
from trueup.synthesis.principles import read_principles
from trueup.synthesis.rewrite_forms import read_form
from trueup.worlds.scripted_writer import ScriptedWriter, Written

FORM = read_form()
SERVED = ScriptedWriter(script=lambda prompt, rng: "an answer, and no rewrite")


@dataclass(frozen=True, kw_only=True, eq=False)
class Rewriter:
    """Puts `tail` behind what stands between the request's marks, and keeps what it was asked."""

    tail: str = " Please."
    asked: list[str] = field(default_factory=list)

    def sample(self, prompts: Any, **settings: Any) -> list[list[Written]]:
        assert settings["temperature"] == 0
        self.asked.extend(turn["content"] for [turn] in prompts)
        return [[Written(self._answer(turn["content"]))] for [turn] in prompts]

    def _answer(self, request: str) -> str:
        inside = request.partition(FORM.prompt_start)[2].rpartition(FORM.prompt_end)[0]
        return f"{FORM.answer}\n{FORM.start}\n{inside.strip()}{self.tail}\n{FORM.end}"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_a_text_is_rewritten_whole():
    step = PAligner(rewriter=Rewriter())
    assert step.prepare(["Sing.", "Dance."], SERVED) == ["Sing. Please.", "Dance. Please."]
    assert step.finish(" as it is\n") == " as it is\n"


def test_of_messages_the_user_s_last_turn_is_rewritten_and_nothing_else_changes():
    given = [
        {"role": "system", "content": "Be brief."},
        user("Hello."),
        {"role": "assistant", "content": "Hi."},
        user("Sing."),
        {"role": "tool", "content": "a tool's result"},
    ]
    before = [dict(turn) for turn in given]
    rewriter = Rewriter()
    [found] = PAligner(rewriter=rewriter).prepare([given], SERVED)
    assert found == [*given[:3], user("Sing. Please."), given[4]]
    assert given == before
    assert len(rewriter.asked) == 1
    assert "Hello." not in rewriter.asked[0]


def test_of_a_dialogue_in_one_text_the_human_s_last_turn_is_rewritten():
    given = "\n\nHuman: Hello.\n\nAssistant: Hi.\n\nHuman: Sing. \n\nAssistant:"
    [found] = PAligner(rewriter=Rewriter()).prepare([given], SERVED)
    assert found == given.replace("Sing.", "Sing. Please.")


@pytest.mark.parametrize(
    "text", ["\n\nHuman: Sing.", "Sing.\n\nAssistant:", "\n\nHuman: a\n\nAssistant: b"]
)
def test_any_other_text_is_no_dialogue(text: str):
    rewriter = Rewriter()
    [found] = PAligner(rewriter=rewriter).prepare([text], SERVED)
    assert found == f"{text.strip()} Please."


def test_a_rewrite_adds_no_turns_to_a_dialogue():
    given = "\n\nHuman: Sing.\n\nAssistant:"
    rewriter = Rewriter(tail="\n\nAssistant: No.\n\nHuman: Why?")
    assert PAligner(rewriter=rewriter).prepare([given], SERVED) == [given]


def test_a_text_of_very_many_turns_hangs_nothing():
    """A pattern that backtracks would never come back from this one, which a user may well send."""
    given = "\n\nHuman: a" * 50_000
    step = PAligner(rewriter=Rewriter(tail=" b"))
    assert step.prepare([given], SERVED) == [f"{given.strip()} b"]


@pytest.mark.parametrize(
    "answer",
    [
        "Sing. Please.",  # no marks
        f"{FORM.start}\nSing.",  # cut before its end
        FORM.response(" "),
        FORM.response("No rewrite."),
        FORM.response("word " * 402),
        "",
    ],
)
def test_where_no_rewrite_will_do_the_prompt_stays(answer: str):
    step = PAligner(rewriter=ScriptedWriter(script=lambda prompt, rng: answer))
    given = ["Sing.", [user("Sing.")]]
    assert step.prepare(given, SERVED) == given
    assert step.prepare(given, SERVED)[1] is given[1]


def test_the_limit_on_added_words_counts_from_the_raw_text():
    step = PAligner(rewriter=Rewriter(tail=" a b c"), max_extra_words=3)
    assert step.prepare(["Sing."], SERVED) == ["Sing. a b c"]
    assert replace(step, max_extra_words=2).prepare(["Sing."], SERVED) == ["Sing."]


def test_blank_turns_are_not_asked_about():
    rewriter = Rewriter()
    assert PAligner(rewriter=rewriter).prepare(["", " \n", [user("")]], SERVED) == [
        "", " \n", [user("")],
    ]  # fmt: skip
    assert rewriter.asked == []


def test_equal_prompts_are_rewritten_once():
    rewriter = Rewriter()
    step = PAligner(rewriter=rewriter)
    step.prepare(["Sing.", "Sing.", [user("Sing.")], "Dance."], SERVED)
    step.prepare(["Dance.", "Sing.", "Jump."], SERVED)
    assert len(rewriter.asked) == 3


def test_the_memo_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(p_aligner, "REMEMBERED", 2)
    rewriter = Rewriter()
    step = PAligner(rewriter=rewriter)
    for text in ("a", "b", "c", "b", "c", "a"):
        assert step.prepare([text], SERVED) == [f"{text} Please."]
    assert len(rewriter.asked) == 4


def test_the_served_model_rewrites_where_no_other_is_given_each_its_own():
    step = PAligner()
    one, two = Rewriter(), Rewriter(tail=" Now.")
    assert step.prepare(["Sing."], one) == ["Sing. Please."]
    assert step.prepare(["Sing."], two) == ["Sing. Now."]
    assert step.prepare(["Sing."], SERVED) == ["Sing."]


def test_marks_in_a_prompt_come_back_as_they_were():
    text = f"What does {FORM.end} mean? {FORM.prompt_end} Say yes. {FORM.start}"
    assert PAligner(rewriter=Rewriter()).prepare([text], SERVED) == [f"{text} Please."]


def test_a_step_rewriter_is_asked_for_its_principle():
    phrase = read_principles()[0].phrase
    rewriter = Rewriter()
    PAligner(rewriter=rewriter, principle="clarify").prepare(["Sing."], SERVED)
    PAligner(rewriter=rewriter).prepare(["Sing."], SERVED)
    assert [phrase in asked for asked in rewriter.asked] == [True, False]


def test_a_local_rewriter_is_asked_for_no_more_than_its_context_holds(
    tiny_llama: LanguageModel, tmp_path: Path
):
    """1,024 new tokens do not fit in a context of 256; a text that fills it is not sent at all."""
    step = PAligner(rewriter=tiny_llama, form=short_form(tmp_path))
    before = tiny_llama.work.as_dict()["trunk_tokens"]
    assert step.prepare(["q" * 400], SERVED) == ["q" * 400]
    assert tiny_llama.work.as_dict()["trunk_tokens"] == before
    assert step.prepare(["r" * 200], SERVED) == ["r" * 200]  # a random model writes no marks
    assert before < tiny_llama.work.as_dict()["trunk_tokens"] <= before + 256


def short_form(folder: Path) -> str:
    path = folder / "form.toml"
    path.write_text(
        '[teacher]\nsystem = ""\nask = "$prompt $phrase"\n[rewriter]\nask = "$prompt"\n'
        'principle = "$phrase"\nanswer = ""\nunchanged = ""\n'
        '[marks]\nprompt_start = "<q>"\nprompt_end = "</q>"\nstart = "<r>"\nend = "</r>"\n'
    )
    return str(path)


def test_settings_may_be_texts(tiny_model_folder: Path, tmp_path: Path):
    settings = {
        "rewriter": str(tiny_model_folder),
        "max_new_tokens": "16",
        "temperature": "0.5",
        "form": short_form(tmp_path),
    }
    step = build("p-aligner", PAligner, settings)
    assert (step.max_new_tokens, step.temperature) == (16, 0.5)
    assert step.prepare(["Sing."], SERVED) == ["Sing."]


def test_the_rewriter_may_be_behind_an_endpoint():
    def script(request: Any, index: int) -> str:
        return FORM.response("Sing, please.")

    with ScriptedServer(script) as server:
        step = build("p-aligner", PAligner, {"rewriter": f"{server.url}#small"})
        assert step.prepare([[user("Sing.")]], SERVED) == [[user("Sing, please.")]]
        [request] = server.requests
    assert request["temperature"] == 0
    assert request["messages"] == FORM.rewriter_prompt("Sing.")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_extra_words": -1}, "max_extra_words must be at least 0"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"principle": "clarity"}, "did you mean 'clarify'"),
        ({"principle": "clarify", "principles": "none.toml"}, "none.toml: cannot be read"),
        ({"form": "none.toml"}, "none.toml: cannot be read"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        PAligner(**settings)


def test_a_conversation_without_a_user_is_refused():
    with pytest.raises(UserError, match="needs a user's turn"):
        PAligner(rewriter=Rewriter()).prepare([[{"role": "system", "content": "x"}]], SERVED)


def test_a_rewriter_that_is_not_there_is_told():
    with pytest.raises(UserError, match="no such model folder"):
        PAligner(rewriter="./nowhere").prepare(["Sing."], SERVED)
