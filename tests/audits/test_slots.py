import numpy as np
import pytest

from tests.audits.planted_models import random_bert
from tests.tiny_models import make_tokenizer
from trueup.audits.probability.slots import check_template, fill, target_logps, words_of
from trueup.calibration.scripted_likelihoods import ScriptedMaskedModel
from trueup.errors import UserError
from trueup.models import MaskedLanguageModel

TEXTS = ["the nurse pilot is was kind rude he she"]


@pytest.mark.parametrize(
    "template",
    ["the [TARGET] is [ATTRIBUTE].", "[ATTRIBUTE] is the [TARGET]", "[TARGET][ATTRIBUTE]"],
)
def test_filled_words_stand_where_the_spans_say(template: str):
    filled = fill(template, "old nurse", "kind")
    assert filled.text[slice(*filled.target)] == "old nurse"
    assert filled.text[slice(*filled.attribute)] == "kind"
    assert filled.text == template.replace("[TARGET]", "old nurse").replace("[ATTRIBUTE]", "kind")


@pytest.mark.parametrize(
    "template", ["the [TARGET]", "[ATTRIBUTE]", "[TARGET] [TARGET] [ATTRIBUTE]"]
)
def test_a_template_without_both_slots_is_refused(template: str):
    with pytest.raises(UserError, match=r"t.csv:3: 'template' must hold \[.*\] once, got '"):
        check_template(template, "t.csv:3")


@pytest.mark.parametrize("value", ["", "he|", "he|he", None, []])
def test_words_must_be_there_and_differ(value: object):
    with pytest.raises(UserError, match="row 2: 'a' needs at least 1 different words"):
        words_of(value, "a", "row 2")


def test_words_are_stripped_and_may_be_a_list():
    assert words_of(" he | him", "a", "here") == words_of(["he", "him "], "a", "here")


def test_the_prior_is_read_once_per_template():
    model = random_bert(TEXTS)
    asked = [("the [TARGET] is [ATTRIBUTE]", word, ("he", "she")) for word in ("kind", "rude")]
    target_logps(model, asked)
    # two attributes and one prior; <s> the _ is _ </s>; one position through the head each
    assert (model.work.trunk_tokens, model.work.head_rows) == (3 * 6, 3)


def test_two_templates_have_two_priors():
    model = random_bert(TEXTS)
    target_logps(
        model, [(f"the [TARGET] {verb} [ATTRIBUTE]", "kind", ("he",)) for verb in ("is", "was")]
    )
    assert model.work.head_rows == 4


def test_the_prior_does_not_know_the_attribute():
    model = random_bert(TEXTS)
    asked = [("[TARGET] is [ATTRIBUTE]", word, ("he", "she")) for word in ("kind", "rude")]
    told, prior = target_logps(model, asked)
    np.testing.assert_array_equal(prior[0], prior[1])
    assert not np.allclose(told[0], told[1], atol=1e-3)


def test_pieces_of_both_words_are_masked_each_at_its_place():
    tokenizer = make_tokenizer()
    seen = []

    class Spy(MaskedLanguageModel):
        def __init__(self) -> None:
            self.tokenizer, self.mask_id = tokenizer, int(tokenizer.mask_token_id)

        @property
        def max_length(self) -> int:
            return 64

        def masked_logps(self, rows):
            seen.extend(rows)
            return [np.zeros(len(places)) for _, places, _ in rows]

    target_logps(Spy(), [("[TARGET] is [ATTRIBUTE]", "bad", ("he",))])
    told, prior = (tokenizer.decode(ids) for ids, _, _ in seen)
    assert told == "<s><mask><mask> is bad"
    assert prior == "<s><mask><mask> is<mask><mask><mask>".replace("is<", "is <")
    assert [places for _, places, _ in seen] == [[1, 2], [1, 2]]
    assert [tokenizer.decode(targets) for _, _, targets in seen] == ["he", "he"]


def test_a_scripted_model_gives_its_script_back():
    model = ScriptedMaskedModel(TEXTS, lambda words, place: {"he": 0.3, "she": 0.1})
    told, _ = target_logps(model, [("[TARGET] is [ATTRIBUTE]", "kind", ("he", "she"))])
    np.testing.assert_allclose(told[0], np.log([0.3, 0.1]), atol=1e-12)
