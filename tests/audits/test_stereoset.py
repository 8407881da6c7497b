import json
from pathlib import Path

import pytest

from tests.audits.planted_models import random_bert, random_llama
from trueup.audits import probes_of, read_data
from trueup.audits.probability.stereoset import StereoSet
from trueup.audits.probability.stereoset_file import read_stereoset
from trueup.errors import UserError

ROW = {
    "context": "the man is BLANK .",
    "stereotype": "old",
    "anti_stereotype": "very young",
    "unrelated": "blue",
}
TEXTS = ["the man is old very young blue ."]


def sentence(text: str, label: str) -> dict:
    return {"id": text[:4], "sentence": text, "gold_label": label, "labels": []}


def item(context: str, more: str, less: str, none: str, **changes) -> dict:
    return {
        "id": "abc",
        "bias_type": "gender",
        "target": "mother",
        "context": context,
        "sentences": [
            sentence(none, "unrelated"),
            sentence(less, "anti-stereotype"),
            sentence(more, "stereotype"),
        ],
        **changes,
    }


def official(tmp_path: Path, *items: dict) -> Path:
    file = tmp_path / "dev.json"
    data = {"intersentence": [{"id": "never read"}], "intrasentence": list(items)}
    file.write_text(json.dumps({"version": "1.1", "data": data}), encoding="utf-8")
    return file


def test_the_official_file_is_read(tmp_path: Path):
    file = official(
        tmp_path,
        item(
            "A mother is BLANK.", "A mother is warm.", "A mother is very cold.", "A mother is oval."
        ),
    )
    [row] = read_data(StereoSet(), file).rows
    assert (row["id"], row["target"], row["bias_type"]) == ("abc", "mother", "gender")
    fills = [row[name] for name in ("stereotype", "anti_stereotype", "unrelated")]
    assert fills == ["warm", "very cold", "oval"]


def test_a_sentence_that_differs_elsewhere_gives_the_word_at_the_blank(tmp_path: Path):
    file = official(
        tmp_path,
        item("A mother is BLANK.", "a mother is warm!", "A mother is cold.", "A mother is oval."),
    )
    [row] = read_data(StereoSet(), file).rows
    assert row["stereotype"] == "warm"


@pytest.mark.parametrize("change", [{"sentences": []}, {"context": "no place"}, {"target": None}])
def test_an_item_that_cannot_be_read_is_named(tmp_path: Path, change: dict):
    broken = {**item("A BLANK b.", "A x b.", "A y b.", "A z b."), **change}
    if change == {"target": None}:
        del broken["target"]
    with pytest.raises(UserError, match=r"dev.json: intrasentence item 1 cannot be read"):
        read_data(StereoSet(), official(tmp_path, broken))


@pytest.mark.parametrize("content", ["[1, 2]", "{}", '{"data": []}', "no json"])
def test_another_json_file_is_not_the_official_one(tmp_path: Path, content: str):
    file = tmp_path / "other.json"
    file.write_text(content, encoding="utf-8")
    assert read_stereoset(file) is None
    assert read_stereoset(tmp_path / "rows.csv") is None


@pytest.mark.parametrize("context", ["no place", "BLANK and BLANK"])
def test_a_context_without_one_blank_is_refused(context: str):
    with pytest.raises(UserError, match="row 1: 'context' must hold BLANK once"):
        StereoSet().probes([{**ROW, "context": context}])


def test_an_empty_fill_is_refused():
    with pytest.raises(UserError, match="row 1: a fill is empty"):
        StereoSet().probes([{**ROW, "unrelated": " "}])


def test_terms_are_clusters_and_rows_without_one_stand_alone():
    rows = [{**ROW, "target": "man"}, ROW, {**ROW, "id": "z"}]
    probes = probes_of(StereoSet(), read_data(StereoSet(), rows))
    assert [probe.cluster for probe in probes] == ["man", "", ""]
    assert [probe.labels["target"] for probe in probes] == ["man", "2", "z"]


def test_work_is_a_row_per_sentence_and_the_fill_through_the_head():
    model = random_bert(TEXTS)
    StereoSet().measure(model, StereoSet().probes([ROW]))
    assert (model.work.trunk_tokens, model.work.head_rows) == (7 + 8 + 7, 1 + 2 + 1)


def test_the_published_form_needs_a_row_per_piece():
    model = random_bert(TEXTS)
    StereoSet(score="published").measure(model, StereoSet().probes([ROW]))
    assert (model.work.trunk_tokens, model.work.head_rows) == (7 + 2 * 8 + 7, 4)


def test_notes_tell_the_flaws_and_the_terms():
    items = StereoSet().measure(random_llama(TEXTS), StereoSet().probes([ROW]))
    notes = " ".join(StereoSet().notes(items))
    assert "1 target terms" in notes
    assert "Blodgett" in notes
