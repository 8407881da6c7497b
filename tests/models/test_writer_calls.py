"""Writers by name, and answers that fit."""

from pathlib import Path

import pytest

from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.models.endpoint import Endpoint
from trueup.models.scripted_server import ScriptedServer
from trueup.models.writer_calls import fitted_answers, opened_writer, room_of
from trueup.worlds.scripted_writer import ScriptedWriter


def test_a_folder_is_a_model_loaded_once(tiny_model_folder: Path):
    found = opened_writer(str(tiny_model_folder))
    assert isinstance(found, LanguageModel)
    assert opened_writer(str(tiny_model_folder)) is found


def test_a_url_with_a_name_is_an_endpoint():
    with ScriptedServer() as server:
        found = opened_writer(f"{server.url}#small")
        assert isinstance(found, Endpoint)
        assert found.name == "small"
        assert fitted_answers(found, ["Hello"], max_new_tokens=8) == ["Hello"]


def test_a_writer_is_itself():
    writer = ScriptedWriter(script=lambda prompt, rng: "x")
    assert opened_writer(writer) is writer
    assert room_of(writer, "y" * 10_000) is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://localhost:1/v1", r"Give URL#NAME"),
        ("http://localhost:1/v1#", r"Give URL#NAME"),
        ("./nowhere", "no such model folder"),
    ],
)
def test_a_name_of_nothing_is_refused(source: str, message: str):
    with pytest.raises(UserError, match=message):
        opened_writer(source)


def test_an_answer_ends_where_the_context_does(tiny_llama: LanguageModel):
    long, full = "a" * 250, "b" * 300
    assert room_of(tiny_llama, long) == 256 - 251
    short, cut, none = fitted_answers(tiny_llama, ["Hi", long, full], max_new_tokens=12)
    assert none is None
    assert (short, cut) == (
        tiny_llama.sample(["Hi"], max_new_tokens=12, temperature=0)[0][0].text,
        tiny_llama.sample([long], max_new_tokens=5, temperature=0)[0][0].text,
    )


def test_no_prompt_is_no_answer(tiny_llama: LanguageModel):
    assert fitted_answers(tiny_llama, [], max_new_tokens=12) == []
