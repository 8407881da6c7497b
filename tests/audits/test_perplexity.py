import math

import numpy as np
import pytest

from tests.audits.planted_models import PlantedModel, random_llama
from trueup.audits import Perplexity, compare_items, read_data
from trueup.errors import UserError

TEXTS = ["the road is long", "it rains", "the sea"]


def measured(model, texts=TEXTS, **columns):
    audit = Perplexity()
    rows = [{"text": text, **columns} for text in texts]
    return audit.measure(model, audit.probes(read_data(audit, rows)))


def test_tokens_are_pooled_over_texts():
    model = random_llama(TEXTS)
    items = measured(model)
    [row] = Perplexity().estimate(items)
    logps = np.concatenate(model.text_token_logps(TEXTS))
    assert row.value == pytest.approx(math.exp(-logps.mean()), abs=1e-5)
    assert (row.n, row.ideal) == (3, None)
    assert items["tokens"].tolist() == [4.0, 2.0, 2.0]


def test_a_lower_perplexity_is_better():
    likely = PlantedModel(TEXTS, lambda words: dict.fromkeys(("the", "is", "it", "long"), 0.2))
    texts = ["the is it long", "is long it", "long the", "it the is"] * 3
    plain = PlantedModel(TEXTS, lambda words: {})
    before, after = measured(plain, texts), measured(likely, texts)
    assert compare_items(Perplexity(), before, after)[0].verdict == "improved"
    assert compare_items(Perplexity(), after, before)[0].verdict == "worse"


def test_groups_are_slices():
    items = measured(random_llama(TEXTS)).assign(group=["a", "a", "b"])
    assert [row.slice for row in Perplexity().estimate(items)] == ["all", "a", "b"]


def test_a_text_beyond_the_context_is_named():
    model = PlantedModel(TEXTS, lambda words: {})
    model.max_length_given = 4
    with pytest.raises(UserError, match="text 1 has 4 tokens, but the model reads 3; split it"):
        measured(model)


def test_one_text_has_no_interval():
    [row] = Perplexity().estimate(measured(random_llama(TEXTS), TEXTS[:1]))
    assert row.n == 1
    assert math.isnan(row.low)
    assert "undefined" in row.method


def test_the_note_counts_tokens():
    assert Perplexity().notes(measured(random_llama(TEXTS))) == ["8 tokens of 3 texts"]
