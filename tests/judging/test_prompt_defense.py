"""Prompt defence: where the text goes, and what of the wrapped model stays."""

from collections.abc import Sequence
from typing import Any

import pytest

from trueup.errors import UserError
from trueup.judging.prompt_defense import PromptDefense
from trueup.models import LanguageModel
from trueup.models.endpoint import connect
from trueup.models.no_model import NoModel
from trueup.models.scripted_server import ScriptedServer
from trueup.worlds.scripted_writer import ScriptedWriter

TURNS = [
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bake bread."},
]


class Remembering:
    """A model that keeps the prompts and settings of its last call."""

    name = "remembering"
    fingerprint = "0"

    def __init__(self) -> None:
        self.writer = ScriptedWriter(script=lambda prompt, rng: "Done.")
        self.work = self.writer.work
        self.prompts: list[Any] = []
        self.settings: dict[str, Any] = {}

    def sample(self, prompts: Sequence[Any], **settings: Any) -> Any:
        self.prompts, self.settings = list(prompts), settings
        return self.writer.sample(prompts, n=settings.get("n", 1))


# where


def test_a_system_defence_is_a_turn_of_its_own():
    assert PromptDefense(text="Be fair.").prepared("Bake bread.") == [
        {"role": "system", "content": "Be fair."},
        {"role": "user", "content": "Bake bread."},
    ]


def test_a_system_turn_keeps_its_words_in_front():
    given = [{"role": "system", "content": "You bake."}, *TURNS]
    prepared = PromptDefense(text="Be fair.").prepared(given)
    assert prepared == [{"role": "system", "content": "You bake.\n\nBe fair."}, *TURNS]


@pytest.mark.parametrize(
    ("where", "expected"),
    [("prefix", "Be fair.\n\nBake bread."), ("suffix", "Bake bread.\n\nBe fair.")],
)
def test_a_defence_beside_the_request(where: Any, expected: str):
    defense = PromptDefense(text="Be fair.", where=where)
    assert defense.prepared("Bake bread.") == expected
    turns = [*TURNS[:2], {"role": "user", "content": expected}]
    assert defense.prepared(TURNS) == turns


def test_prompts_are_not_changed_in_place():
    before = [dict(turn) for turn in TURNS]
    PromptDefense(where="prefix").prepared(TURNS)
    PromptDefense().prepared(TURNS)
    assert before == TURNS


def test_the_default_text_asks_for_equal_treatment():
    words = PromptDefense().words
    assert "what you would do for one group you do for all" in words
    assert "answer it fully" in words
    assert "{" not in words


# the wrapped model


def test_settings_and_answers_are_the_models_own():
    model = Remembering()
    [several] = PromptDefense(text="Be fair.").wrapped(model).sample(["Hi"], n=2, seed=7)
    assert [text.text for text in several] == ["Done.", "Done."]
    assert model.settings == {"n": 2, "seed": 7}


def test_the_fingerprint_tells_text_and_place_apart():
    model = Remembering()
    defenses = [
        PromptDefense(),
        PromptDefense(where="prefix"),
        PromptDefense(text="Be fair."),
    ]
    marks = {defense.wrapped(model).fingerprint for defense in defenses} | {model.fingerprint}
    assert len(marks) == 4
    assert PromptDefense().wrapped(model).fingerprint == PromptDefense().wrapped(model).fingerprint


def test_name_and_work_are_told():
    model = Remembering()
    defended = PromptDefense().wrapped(model)
    assert defended.name == "remembering + prompt-defense"
    defended.sample(["Hi"])
    assert defended.work is model.work
    assert defended.work.as_dict()["texts"] == 1


def test_a_defence_around_a_defence_adds_both():
    model = Remembering()
    inner = PromptDefense(text="First.").wrapped(model)
    PromptDefense(text="Second.").wrapped(inner).sample(["Hi"])
    assert model.prompts[0][0] == {"role": "system", "content": "Second.\n\nFirst."}


@pytest.mark.network
def test_an_endpoint_keeps_its_own_system_prompt():
    with (
        ScriptedServer() as server,
        connect(server.url, "bakes", api_key_env="", system="You bake.", cache=False) as endpoint,
    ):
        [[answer]] = PromptDefense(text="Be fair.").wrapped(endpoint).sample(["Hi"])
    assert answer.text == "Hi"
    assert server.requests[0]["messages"] == [
        {"role": "system", "content": "You bake.\n\nBe fair."},
        {"role": "user", "content": "Hi"},
    ]


def test_a_language_model_writes_behind_a_defence(tiny_llama: LanguageModel):
    defense = PromptDefense(text="Be fair.", where="prefix")
    [[defended]] = defense.wrapped(tiny_llama).sample(["Hi"], max_new_tokens=4, temperature=0)
    [[by_hand]] = tiny_llama.sample(["Be fair.\n\nHi"], max_new_tokens=4, temperature=0)
    assert defended.text == by_hand.text


def test_a_function_is_defended_too():
    ask = PromptDefense(text="Be fair.", where="suffix").asking(
        lambda prompts: [*map(str, prompts)]
    )
    assert ask(["Hi"]) == ["Hi\n\nBe fair."]


# refused


def test_what_cannot_be():
    with pytest.raises(UserError, match="where must be one of system, prefix, suffix"):
        PromptDefense(where="middle")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="text is blank"):
        PromptDefense(text="  ")
    with pytest.raises(UserError, match="needs a model that writes"):
        PromptDefense().wrapped(NoModel())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="needs a user's turn"):
        PromptDefense(where="prefix").prepared([{"role": "system", "content": "x"}])
