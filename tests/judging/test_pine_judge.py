"""A judge that reads both answers as a set says the same in both orders."""

import numpy as np
import pytest

from tests.tiny_models import make_tiny
from trueup.errors import UserError
from trueup.judging.judges import LetterJudge, in_both_orders
from trueup.judging.pine_judge import PineJudge
from trueup.models import LanguageModel, load

COUNT = 12
QUESTIONS = [f"{n}?" for n in range(COUNT)]
FIRSTS = [f"answer {n}" for n in range(COUNT)]
SECONDS = [f"it may be {n * n}" for n in range(COUNT)]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A tiny model with room for a judge's question."""
    loaded = load(make_tiny("llama", tmp_path_factory.mktemp("judge") / "llama"), device="cpu")
    loaded.tokenizer.model_max_length = 1024
    loaded.model.config.max_position_embeddings = 1024
    return loaded


def test_both_orders_have_one_verdict(lm: LanguageModel):
    table = in_both_orders(PineJudge(model=lm), QUESTIONS, FIRSTS, SECONDS)
    assert table["is_consistent"].all()
    assert table["decided"].isin(["first", "second"]).all()


def test_the_probability_is_that_of_the_first(lm: LanguageModel):
    judge = PineJudge(model=lm)
    given = judge.probabilities(QUESTIONS, FIRSTS, SECONDS)
    swapped = judge.probabilities(QUESTIONS, SECONDS, FIRSTS)
    np.testing.assert_allclose(given, 1 - swapped, atol=1e-12)
    assert np.ptp(given) > 1e-3


def test_a_plain_judge_of_the_same_model_leans(lm: LanguageModel):
    """Negative control: without pine the same letters are read otherwise in the other order."""
    judge = LetterJudge(model=lm)
    given = judge.probabilities(QUESTIONS, FIRSTS, SECONDS)
    swapped = judge.probabilities(QUESTIONS, SECONDS, FIRSTS)
    assert np.abs(given - (1 - swapped)).max() > 1e-2


def test_equal_answers_and_near_ones_are_ties(lm: LanguageModel):
    assert PineJudge(model=lm)(["?"], ["same"], ["same"]) == ["tie"]
    assert set(PineJudge(model=lm, tie_width=0.5)(QUESTIONS, FIRSTS, SECONDS)) == {"tie"}
    with pytest.raises(UserError, match="tie_width must lie between 0 and 0.5"):
        PineJudge(model=lm, tie_width=0.6)


def test_a_chat_template_opens_and_closes_the_question(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}<assistant>"
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    ids, a, b = PineJudge(model=lm)._question("Why?", "x", "y")
    told = [lm.tokenizer.decode(part) for part in (ids.prefix, *ids.docs, ids.suffix, [a, b])]
    assert told[0].startswith("<user>")
    assert told[1:3] == ['Answer A: "x"\n', 'Answer B: "y"\n']
    assert told[3].endswith("<assistant>")
    assert told[4] == "AB"


def test_too_long_a_question_says_by_how_much(lm: LanguageModel):
    with pytest.raises(UserError, match="prompt 2 with both answers has .* the judge reads 1024"):
        PineJudge(model=lm)(["?", "?" * 1024], ["a", "a"], ["b", "b"])
