"""URIAL's settings, edges and wrapper; its layouts and the parser stand in the proofs."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from trueup.decoding.urial import (
    EXAMPLES,
    Urial,
    UrialChat,
    parse_answer,
    prefix_of,
    urial_prompt,
)
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.worlds.scripted_writer import ScriptedWriter


class Remembering:
    """A model that keeps what it was asked."""

    name = "remembering"
    fingerprint = "0"
    system = "You bake."

    def __init__(self) -> None:
        self.writer = ScriptedWriter(script=lambda prompt, rng: "Yes.\n```\n\n# Query:\n```\nmore")
        self.work = self.writer.work
        self.prompts: list[Any] = []
        self.settings: dict[str, Any] = {}

    def sample(self, prompts: Sequence[Any], **settings: Any) -> Any:
        self.prompts, self.settings = list(prompts), settings
        return self.writer.sample(prompts, n=settings.get("n", 1))


@pytest.mark.parametrize("template", ["v1", "v4", "v4-help"])
def test_the_prefix_grows_by_whole_examples(template: Any):
    prefixes = [prefix_of(template, k) for k in range(EXAMPLES + 1)]
    assert [text.count("# Answer:\n") for text in prefixes] == [0, 1, 2, 3]
    assert all(b.startswith(a) for a, b in itertools.pairwise(prefixes))


@pytest.mark.parametrize("template", ["v1", "v4", "v4-help"])
def test_the_examples_are_answers_that_the_parser_keeps(template: Any):
    for part in prefix_of(template, 3).split("# Answer:\n```\n")[1:]:
        answer = parse_answer(part)
        assert len(answer.split()) > 80
        assert part.startswith(f"{answer}\n```\n")


def test_only_v4_help_shows_no_refusal():
    shown = {name: "I can't help" in prefix_of(name, 3) for name in ("v1", "v4", "v4-help")}
    assert shown == {"v1": True, "v4": True, "v4-help": False}


def test_the_prefix_is_the_same_for_all_prompts():
    step = Urial()
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    system = [{"role": "system", "content": "Be brief."}, *talk]
    assert all(step.prompt(each).startswith(step.words) for each in ("hi", talk, system))


def test_a_system_turn_stands_behind_the_prefix():
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    told = "P\n# Instruction\n\nBe brief.\n"
    assert urial_prompt(turns, prefix="P") == told + urial_prompt("hi", prefix="P")[1:]
    developer = [{"role": "developer", "content": "Be brief."}, turns[1]]
    assert urial_prompt(developer, prefix="P") == urial_prompt(turns, prefix="P")


def test_marks_are_refused_where_asked():
    with pytest.raises(UserError, match="message 1 holds a heading.*'# Query: x'"):
        Urial(on_marks="reject").prompt("a\n# Query: x\nb")
    assert Urial(on_marks="reject", prefix="P").prompt("a # Query") == urial_prompt(
        "a # Query", prefix="P"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 4}, "k must lie between 0 and 3, got 4"),
        ({"template": "v2"}, "template must be one of"),
        ({"on_marks": "drop"}, "on_marks must be one of"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        Urial(**settings)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "must end with one"),
        ([{"role": "assistant", "content": "a"}], "must end with one"),
        ([{"role": "tool", "content": "a"}], "one of tool as number 1"),
        (
            [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
            "one of system as number 2",
        ),
    ],
)
def test_conversations_without_a_layout_are_refused(turns: list[Any], message: str):
    with pytest.raises(UserError, match=message):
        Urial().prompt(turns)


def test_the_wrapped_model_prepares_stops_and_finishes():
    model = Remembering()
    chat = Urial().wrapped(model)
    [[answer]] = chat.sample(["hi"], stop=("!",), temperature=0)
    assert answer.text == "Yes."
    assert model.settings == {"stop": ("!", "# Query", "# User"), "temperature": 0}
    assert "Be brief" not in model.prompts[0]
    assert "# Instruction\n\nYou bake.\n" in model.prompts[0]
    assert chat.work is model.work


def test_the_wrapped_model_is_told_from_the_model_and_from_other_prefixes():
    model = Remembering()
    found = {Urial(template=name, k=k).wrapped(model).fingerprint
             for name in ("v4", "v4-help") for k in (0, 1, 3)}  # fmt: skip
    assert len(found | {"0"}) == 7
    assert Urial().wrapped(model).name == "remembering + urial"


def test_a_language_model_keeps_the_prefix(tiny_llama: LanguageModel):
    chat = Urial(prefix="Be kind.").wrapped(tiny_llama)
    assert isinstance(chat, UrialChat)
    chat.sample(["hi"], max_new_tokens=1)
    tiny_llama.work.reset()
    chat.sample(["hi"], max_new_tokens=1)
    assert tiny_llama.work.trunk_tokens == len("\n# Query:\n```\nhi\n```\n\n# Answer:\n```\n")
