"""The defence as a step of a chain: the judging family's own, before the model."""

from types import SimpleNamespace

import pytest

from trueup.decoding.prompt_defense import PromptDefense
from trueup.errors import UserError
from trueup.judging import prompt_defense as judging
from trueup.worlds.scripted_writer import ScriptedWriter

WRITER = ScriptedWriter(script=lambda prompt, rng: "Done.")


@pytest.mark.parametrize("where", ["system", "prefix", "suffix"])
def test_the_step_prepares_as_the_defence_does(where):
    given = ["Bake bread.", [{"role": "user", "content": "Hello."}]]
    expected = [judging.PromptDefense(where=where).prepared(prompt) for prompt in given]
    assert PromptDefense(where=where).prepare(given, WRITER) == expected


def test_the_model_s_own_system_turn_stays():
    step, model = PromptDefense(text="Be fair."), SimpleNamespace(system="You bake.")
    [turns] = step.prepare(["Hi."], model)
    assert turns[0] == {"role": "system", "content": "You bake.\n\nBe fair."}


def test_the_answer_stays_whole():
    assert PromptDefense().finish(" A\n```\n# Query: b ") == " A\n```\n# Query: b "


def test_an_unknown_place_is_refused():
    with pytest.raises(UserError, match="where must be one of"):
        PromptDefense(where="above")
