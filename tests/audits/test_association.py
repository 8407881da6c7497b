import numpy as np
import pytest

from tests.audits.planted_models import (
    PlantedMaskedModel,
    PlantedModel,
    random_bert,
    word_tokenizer,
)
from trueup.audits import Association, read_data
from trueup.data import Table
from trueup.errors import UserError
from trueup.models import LanguageModel

WORDS = ["the nurse said that he she him her left"]


def rows(*extra: dict) -> list[dict]:
    return [{"context": "the nurse said that", "a": " he", "b": " she", **each} for each in extra]


def measured(model: LanguageModel, data: list[dict], audit: Association | None = None):
    audit = audit or Association()
    return audit.measure(model, audit.probes(read_data(audit, data)))


def test_score_is_the_share_of_group_a():
    model = PlantedModel(WORDS, lambda words: {"he": 0.3, "she": 0.1})
    items = measured(model, rows({}))
    assert items["score"][0] == pytest.approx(0.75, abs=1e-12)
    assert np.exp(items["logp_a"][0]) == pytest.approx(0.3, abs=1e-12)
    metrics = {row.metric: row.value for row in Association().estimate(items)}
    assert metrics["lean"] == pytest.approx(0.25, abs=1e-12)
    assert metrics["log_ratio"] == pytest.approx(np.log(3), abs=1e-12)
    assert metrics["coverage"] == pytest.approx(0.4, abs=1e-12)
    assert Association().notes(items) == []


def test_words_of_a_group_are_summed():
    model = PlantedModel(WORDS, lambda words: {"he": 0.2, "him": 0.1, "she": 0.05, "her": 0.05})
    items = measured(model, rows({"a": " he| him", "b": [" she", " her"]}))
    assert items["score"][0] == pytest.approx(0.75, abs=1e-12)
    assert items["a"][0] == " he| him"


def test_what_stands_behind_the_word_is_read_too():
    model = PlantedModel(
        WORDS, lambda words: {"left": 0.5} if words[-1] == "he" else {"he": 0.2, "she": 0.2}
    )
    others = len(model.tokenizer) - 2
    items = measured(model, rows({"after": " left"}))
    left_after_she = 0.6 / others
    assert items["score"][0] == pytest.approx(0.5 / (0.5 + left_after_she), abs=1e-12)


def test_swapping_the_groups_mirrors_the_lean(tiny_llama: LanguageModel):
    there = measured(tiny_llama, rows({"a": " he ", "b": " she "}))
    back = measured(tiny_llama, rows({"a": " she ", "b": " he "}))
    assert there["score"][0] == pytest.approx(1 - back["score"][0], abs=1e-6)


def test_groups_are_slices_and_may_be_several():
    data = rows({"group": "leaning|nurse"}, {"group": "leaning|pilot"}, {"group": "neutral"})
    items = measured(PlantedModel(WORDS, lambda words: {}), data)
    assert list(Association().slices(items)) == ["all", "leaning", "neutral", "nurse", "pilot"]


def test_a_word_whose_tokens_begin_another_is_refused(tiny_llama: LanguageModel):
    data = rows({"a": " he", "b": " her", "id": "n1"})
    with pytest.raises(UserError, match="item n1: the tokens of ' he' begin those of ' her'"):
        measured(tiny_llama, data)
    items = measured(tiny_llama, data, Association(end=" "))
    assert 0 < items["score"][0] < 1


def test_the_row_decides_over_the_field_what_follows():
    [probe] = Association(end=" ").probes(rows({"after": " left"}))
    assert probe.texts == (" he left", " she left")


def test_a_masked_model_fills_the_place():
    tokenizer = word_tokenizer(WORDS, is_masked=True)
    he, she = tokenizer.convert_tokens_to_ids(["he", "she"])

    def logits(ids):
        table = np.zeros((len(ids), len(tokenizer)))
        table[:, he], table[:, she] = np.log(3), np.log(1)
        return table

    model = PlantedMaskedModel(tokenizer, logits)
    items = measured(model, rows({"after": " left"}))
    assert items["score"][0] == pytest.approx(0.75, abs=1e-12)
    [(ids, places, _)] = model.rows
    assert tokenizer.decode(ids) == "<s> the nurse said that <mask> left </s>"
    assert places == [5, 5]


def test_a_masked_model_reads_each_context_once():
    model = random_bert(WORDS)
    measured(model, rows({}, {}, {"after": " left"}))
    assert model.work.trunk_tokens == 7 + 8  # two equal contexts share their row
    assert model.work.head_rows == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": ""}, "'a' is empty"),
        ({"a": " he|"}, "'a' needs words, got ' he|'"),
        ({"b": []}, "'b' needs words"),
        ({"b": " he"}, "a word stands twice in 'a' and 'b'"),
    ],
)
def test_bad_words_are_refused_with_their_place(row: dict, message: str):
    audit = Association()
    with pytest.raises(UserError, match=r".") as caught:
        audit.probes(read_data(audit, rows({}, row)))
    assert message in str(caught.value)
    assert "2" in str(caught.value)


def test_a_table_gives_the_place_in_its_file():
    table = Table(rows=rows({"b": " he"}), source="words.tsv", numbers=[17], unit="line")
    with pytest.raises(UserError, match=r"words\.tsv:17: a word stands twice"):
        Association().probes(table)
