"""Guide-Align as a step: where guidelines go, what stays, and data without them."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.decoding.guide_world import Bag, World
from tests.tiny_models import make_tiny
from trueup.decoding.bi_encoder import BiEncoder
from trueup.decoding.guide_align import GuideAlign
from trueup.decoding.guideline_writing import words
from trueup.decoding.guidelines import GuidelineLibrary
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.worlds.scripted_writer import ScriptedWriter

WORLD = World()
WRITER = ScriptedWriter(script=lambda prompt, rng: " Done. ")


def step(**settings: Any) -> GuideAlign:
    bag = Bag(WORLD.words)
    library = GuidelineLibrary(WORLD.every_rule(), same=1.0)
    return GuideAlign(library=library, encoder=BiEncoder(bag, bag), **settings)


ASKED = WORLD.inputs[0][0]


def test_guidelines_stand_in_the_system_turn_behind_what_is_there():
    one = step(k=2)
    [turns] = one.prepare([ASKED], SimpleNamespace(system="You bake."))
    [found] = one.guidelines([ASKED])
    told = [words()["header"], *(each.whole for each in found), words()["footer"]]
    assert turns == [
        {"role": "system", "content": "You bake.\n\n" + "\n".join(told)},
        {"role": "user", "content": ASKED},
    ]


def test_as_a_prefix_a_text_stays_a_text():
    [text] = step(k=2, where="prefix").prepare([ASKED], WRITER)
    assert text.startswith(words()["header"])
    assert text.endswith(f"{words()['footer']}\n\n{ASKED}")


def test_the_last_user_turn_is_what_is_looked_up():
    one, other = step(), WORLD.inputs[5][1]
    turns = [
        {"role": "user", "content": other},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": ASKED},
    ]
    assert one.guidelines([turns]) == one.guidelines([ASKED])
    assert one.guidelines([turns]) != one.guidelines([other])
    assert one.prepare([turns], WRITER)[0][1:] == turns


def test_without_a_guideline_the_prompt_stays_as_it_is():
    assert step(floor=1e9).prepare([ASKED], WRITER) == [ASKED]


def test_library_and_encoder_may_be_folders(tmp_path):
    encoder = make_tiny("bert", tmp_path / "bert")
    GuidelineLibrary(["Be kind: Speak gently.", "Cite: Name sources."]).save(tmp_path / "library")
    one = GuideAlign(library=str(tmp_path / "library"), encoder=str(encoder))
    [turns] = one.prepare(["Hello"], WRITER)
    assert "Be kind: Speak gently." in turns[0]["content"]


def test_a_language_model_reads_what_is_prepared(tiny_llama: LanguageModel):
    prompts = step(k=1).prepare([ASKED], tiny_llama)
    room = tiny_llama.max_length - len(tiny_llama.encoder.prompt(prompts[0]))
    with pytest.raises(UserError, match="prompt 1 has .* tokens"):
        tiny_llama.sample(prompts, max_new_tokens=max(1, room + 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"k": 0}, "k must be at least 1"), ({"where": "suffix"}, "where must be one of")],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        step(**settings)


def test_a_conversation_without_a_user_is_refused():
    with pytest.raises(UserError, match="needs a user's turn"):
        step().prepare([[{"role": "system", "content": "x"}]], WRITER)


# distilled data


def test_distilled_rows_hold_no_guideline():
    rows = step().distil([ASKED, "  ".join(WORLD.noise[:2])], WRITER)
    assert rows == [
        {"prompt": ASKED, "completion": "Done."},
        {"prompt": "  ".join(WORLD.noise[:2]), "completion": "Done."},
    ]


def test_an_answer_that_quotes_its_guidelines_is_left_out(caplog):
    one = step()
    rule = one.guidelines([ASKED])[0][0].text
    quoting = ScriptedWriter(script=lambda prompt, rng: f"As told: {rule}")
    assert one.distil([ASKED], quoting) == []
    assert "1 answers were empty or quoted" in caplog.text


def test_worked_examples_stand_before_each_instruction():
    seen: list[Any] = []

    class Writer:
        def sample(self, prompts: list[Any], **settings: Any) -> Any:
            seen.extend(prompts)
            assert settings == {"max_new_tokens": 512, "temperature": 0, "seed": 0}
            return WRITER.sample(prompts)

    step(k=1).distil([ASKED], Writer(), shots=[("q", "a")])
    roles = [(turn["role"], turn["content"]) for turn in seen[0][1:]]
    assert roles == [("user", "q"), ("assistant", "a"), ("user", ASKED)]
