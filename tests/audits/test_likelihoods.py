import numpy as np
import pytest

from tests.audits.planted_models import (
    PlantedMaskedModel,
    PlantedModel,
    random_bert,
    random_llama,
    word_tokenizer,
)
from tests.tiny_models import make_tokenizer
from trueup.audits.probability.likelihoods import variant_logps, variant_token_means, word_logps
from trueup.errors import UserError
from trueup.models import LanguageModel

PAIRS = [
    ("the nurse said that he left", "the nurse said that she left"),
    ("he left", "she left at once"),
    ("the nurse", "the nurse left"),
    ("we left", "we left"),
]
TEXTS = [text for pair in PAIRS for text in pair]


def test_differences_are_those_of_whole_log_likelihoods():
    model = random_llama(TEXTS)
    whole = model.text_logps(PAIRS)
    part = variant_logps(model, PAIRS)
    np.testing.assert_allclose(part[:, 0] - part[:, 1], whole[:, 0] - whole[:, 1], atol=1e-5)


def test_equal_variants_are_equally_likely():
    logps = variant_logps(random_llama(TEXTS), PAIRS)
    assert logps[3, 0] == logps[3, 1]


def test_the_common_beginning_is_read_once():
    model = random_llama(TEXTS)
    variant_logps(model, PAIRS[:1])
    # <s> the nurse said that | he (left) | she (left): 5 + 1 + 1; heads 1 + 1 + 1
    assert (model.work.trunk_tokens, model.work.head_rows) == (7, 3)


def test_three_variants_share_one_beginning():
    model = random_llama(TEXTS)
    logps = variant_logps(model, [("the nurse left", "the nurse said", "the nurse that")])
    assert logps.shape == (1, 3)
    assert (model.work.trunk_tokens, model.work.head_rows) == (3, 1)


def without_opening(model: LanguageModel) -> LanguageModel:
    """The same weights behind a tokenizer that has no opening token at all."""
    tokenizer = make_tokenizer(add_bos=False)
    tokenizer.bos_token = tokenizer.eos_token = None
    return LanguageModel(model.model, tokenizer, name="bare")


def test_without_an_opening_token_the_first_token_is_not_scored(tiny_llama: LanguageModel):
    model = without_opening(tiny_llama)
    assert model.encoder.context() == []
    [[first, second]] = variant_logps(model, [("abc", "xbc")])
    for text, logp in (("abc", first), ("xbc", second)):
        assert logp == pytest.approx(float(model.text_logps([text])[0]), abs=1e-5)


def test_without_an_opening_token_one_token_cannot_be_scored(tiny_llama: LanguageModel):
    with pytest.raises(UserError, match="text of one token"):
        variant_logps(without_opening(tiny_llama), [("a", "b")])


def test_a_planted_likelihood_comes_back():
    model = PlantedModel(TEXTS, lambda words: {"he": 0.3, "she": 0.1})
    [[he, she]] = variant_logps(model, PAIRS[:1])
    assert he - she == pytest.approx(np.log(3), abs=1e-12)


def test_a_word_is_scored_in_its_place():
    text = "the nurse said that he left"
    model = random_bert(TEXTS)
    start = text.index("he left")
    [logp] = word_logps(model, [(text, start, start + 2)])
    [sentence] = model.sentences([text])
    masked = list(sentence.ids)
    masked[5] = model.mask_id
    [[expected]] = model.masked_logps([(masked, [5], [sentence.ids[5]])])
    assert logp == pytest.approx(expected, abs=1e-6)


def test_words_of_one_place_share_a_row():
    tokenizer = word_tokenizer(TEXTS, is_masked=True)
    model = PlantedMaskedModel(tokenizer, lambda ids: np.zeros((len(ids), len(tokenizer))))
    logps = word_logps(model, [("nurse said he", 10, 13), ("nurse said she", 10, 14)])
    assert len(model.rows) == 1
    np.testing.assert_allclose(logps, -np.log(len(tokenizer)), atol=1e-12)


def test_the_blank_before_a_word_is_not_masked():
    tokenizer = make_tokenizer()
    model = PlantedMaskedModel(tokenizer, lambda ids: np.zeros((len(ids), len(tokenizer))))
    word_logps(model, [("a he", 1, 4)])
    [(ids, places, targets)] = model.rows
    assert places == [3, 4]  # <s> a blank h e
    assert tokenizer.decode(targets) == "he"
    assert ids.count(model.mask_id) == 2


def test_means_are_told_where_lengths_differ_only():
    model = random_llama(TEXTS)
    sums, means = variant_token_means(model, PAIRS)
    np.testing.assert_allclose(sums, variant_logps(model, PAIRS), atol=1e-5)
    assert np.isnan(means).all(axis=1).tolist() == [True, False, False, True]
    for line in (1, 2):
        expected = [part.mean() for part in model.text_token_logps(PAIRS[line])]
        np.testing.assert_allclose(means[line], expected, atol=1e-5)


def test_hidden_words_are_masked_and_not_scored():
    tokenizer = word_tokenizer(TEXTS, is_masked=True)
    model = PlantedMaskedModel(tokenizer, lambda ids: np.zeros((len(ids), len(tokenizer))))
    text = "the nurse said that he left"
    word_logps(model, [(text, 20, 22), (text, 20, 22)], [None, (4, 9)])
    assert [tokenizer.decode(ids) for ids, _, _ in model.rows] == [
        "<s> the nurse said that <mask> left </s>",
        "<s> the <mask> said that <mask> left </s>",
    ]
    assert [places for _, places, _ in model.rows] == [[5], [5]]
