"""BEAD: its files and columns, answers that are read or refused, tables that need no model."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trueup
from tests.audits.planted_models import random_llama
from tests.tiny_models import make_tiny
from trueup.audits import read_data
from trueup.audits.behaviour.bead import Bead
from trueup.audits.behaviour.bead_file import label_of, load_bead, question
from trueup.audits.behaviour.bead_spans import listed, spans_in, spans_in_answer
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.models.no_model import NoModel
from trueup.worlds.scripted_writer import ScriptedWriter

TEXT = "the lazy folk are so dumb"


def zero(prompts: Any, texts: Any) -> list[float]:
    return [0.0] * len(texts)


def writer(answer: str) -> ScriptedWriter:
    return ScriptedWriter(script=lambda prompt, _: answer, name=answer)


def measured(audit: Bead, rows: list[dict[str, Any]], model: Any = None):
    return audit.measure(model or NoModel(), audit.probes(rows))


# the loader, sheet 55, section 8.4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "bead" / "1-text"
    place.mkdir(parents=True)
    (place / "bias-train.csv").write_text("text,label\nx,neutral\n")
    (place / "bias-valid.csv").write_text(
        "text,label,identity_mention\na,neutral,women\nb,slightly biased,\nc,highly biased,men\n"
    )
    (place / "Bias_tokens.csv").write_text(f"text,biased_words\n{TEXT},\"['lazy', 'dumb']\"\n")
    (place / "bias-debias.csv").write_text("prompt,completion\na bad text,a text\n")
    return tmp_path / "bead"


def test_a_folder_gives_the_valid_file_of_the_task(folder: Path):
    rows = load_bead(folder)
    assert [row["text"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["group"] == "women"
    assert "group" not in rows[1]


def test_three_rows_round_trip_to_labels(folder: Path):
    audit = Bead()
    probes = audit.probes(read_data(audit, folder))
    assert [probe.labels["gold"] for probe in probes] == ["non-biased", "biased", "biased"]
    assert [probe.group for probe in probes] == ["women", "", "men"]


def test_other_tasks_find_their_files_and_columns(folder: Path):
    spans = Bead(task="spans")
    [probe] = spans.probes(read_data(spans, folder))
    assert probe.labels["gold"] == ([(4, 8, "BIAS"), (21, 25, "BIAS")], 0)
    debias = Bead(task="debias", scorer=zero)
    [probe] = debias.probes(read_data(debias, folder))
    assert probe.prompt == "a bad text"


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ("neutral", "non-biased"),
        ("Slightly Biased", "biased"),
        ("highly_biased", "biased"),
        (1, "biased"),
        (0.0, "non-biased"),
        ("perhaps", None),
    ],
)
def test_ternary_labels_are_two(given: object, label: str | None):
    assert label_of(given, "bias") == label


def test_missing_files_and_columns_are_told(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="holds no file toxic-valid or toxic-train"):
        load_bead(folder, "classification", "toxicity")
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="'text' is missing; columns: a, b"):
        load_bead(tmp_path / "odd.csv")


def test_an_unknown_label_is_told_with_its_line(tmp_path: Path):
    file = tmp_path / "own.csv"
    file.write_text("text,label\na,biased\nb,perhaps\n")
    audit = Bead()
    with pytest.raises(UserError, match=r"own.csv:3: 'label' must be one of .* got 'perhaps'"):
        audit.probes(read_data(audit, file))


def test_tags_of_another_length_are_told_with_their_row():
    row = {"text": "a b c", "label": ["O", "B-BIAS"]}
    with pytest.raises(UserError, match="row 1: there must be a tag for each of 3 tokens, got 2"):
        Bead(task="spans").probes([row])


def test_spans_without_any_label_are_refused():
    with pytest.raises(UserError, match="'label' is missing"):
        Bead(task="spans").probes([{"text": "a", "prediction": ["a"]}])


# words and tags


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("['a b', 'c']", ["a b", "c"]),
        ("a b, c", ["a b", "c"]),
        ("O B-BIAS", ["O", "B-BIAS"]),
        ("[__import__('os')]", ["[__import__('os')]"]),
        (["x"], ["x"]),
        ("", []),
        (None, []),
    ],
)
def test_cells_with_words(cell: Any, words: list[str]):
    assert listed(cell) == words


def test_words_that_do_not_stand_in_the_text_are_counted():
    assert spans_in("a b", ["b", "z"], "") == ([(2, 3, "BIAS")], 1)
    items = measured(Bead(task="spans"), [{"text": "a b", "label": ["z"], "prediction": []}])
    assert items["unmatched"].tolist() == [1]
    assert "1 biased words do not stand" in Bead(task="spans").notes(items)[1]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("- lazy\n2. dumb", ([(4, 8, "BIAS"), (21, 25, "BIAS")], 0)),
        ("None.", ([], 0)),
        ('"lazy folk"', ([(4, 13, "BIAS")], 0)),
        ("stupid", ([], 1)),
        ("", ([], 0)),
    ],
)
def test_spans_that_a_model_lists(answer: str, found: Any):
    assert spans_in_answer(TEXT, answer) == found


def test_an_invented_span_costs_precision():
    audit = Bead(task="spans")
    items = measured(audit, [{"text": TEXT, "label": ["lazy"]}], writer("lazy\nstupid"))
    found = {row.metric: row.value for row in audit.estimate(items)}
    assert (found["span_precision"], found["span_recall"]) == (0.5, 1.0)


# classification by a model


@pytest.mark.parametrize(
    ("answer", "label"),
    [("Biased.", "biased"), ("neutral", "non-biased"), ("It is biased.", ""), ("", "")],
)
def test_written_labels_are_read_strictly(answer: str, label: str):
    audit = Bead(read="text")
    items = measured(audit, [{"text": TEXT, "label": "biased"}], writer(answer))
    assert items["prediction"].tolist() == [label]


def test_labels_are_likelihoods_per_token_after_one_prompt():
    model = random_llama([TEXT, "neutral biased Assistant: Human: Text"])
    audit = Bead()
    items = measured(audit, [{"text": TEXT, "label": "biased"}], model)
    asked = [{"role": "user", "content": question("classification", TEXT, "bias")}]
    [[neutral, biased]] = model.score([asked], [["neutral", "biased"]]).logps
    assert items["prediction"][0] == ("biased" if biased > neutral else "non-biased")


def test_predictions_of_the_data_and_of_the_model_may_be_mixed():
    rows = [
        {"text": "a", "label": "biased", "prediction": "biased"},
        {"text": "b", "label": "biased"},
    ]
    model = random_llama(["a b neutral biased"])
    items = measured(Bead(), rows, model)
    assert items["prediction"][0] == "biased"
    assert items["prediction"][1] in ("biased", "non-biased")
    with pytest.raises(UserError, match="needs a causal language model"):
        measured(Bead(), rows)


# rewriting


def test_fluency_and_nearness_are_told_where_models_are_there(
    tiny_llama: LanguageModel, tmp_path: Path
):
    encoder = make_tiny("bert", tmp_path / "bert")
    audit = Bead(task="debias", scorer=zero, embedder=str(encoder))
    rows = [{"text": "one two", "prediction": "one two"}, {"text": "a b", "prediction": ""}]
    items = measured(audit, rows, tiny_llama)
    found = {row.metric: row for row in audit.estimate(items) if row.slice == "all"}
    [logps] = tiny_llama.text_token_logps(["one two"])
    assert found["perplexity"].value == pytest.approx(np.exp(-logps.mean()))
    assert found["cosine"].value == pytest.approx(1, abs=1e-6)
    assert found["cosine"].n == found["perplexity"].n == 1
    assert found["perplexity_before"].n == 2


def test_without_models_there_is_no_fluency():
    audit = Bead(task="debias", scorer=zero)
    items = measured(audit, [{"text": "one two", "prediction": "one"}])
    assert not {"perplexity", "cosine"} & {row.metric for row in audit.estimate(items)}


# demographics


def test_a_template_stands_for_all_of_its_groups():
    audit = Bead(task="demographics", scorer=zero, samples=2)
    probes = audit.probes([{"text": "The {group} went.", "group": "men|women"}])
    assert [probe.id for probe in probes] == ["1/men", "1/men/1", "1/women", "1/women/1"]
    assert probes[2].prompt == "The women went."
    assert {probe.cluster for probe in probes} == {"1"}


def test_a_template_without_groups_is_refused():
    with pytest.raises(UserError, match="needs its groups"):
        Bead(task="demographics").probes([{"text": "The {group} went."}])


# settings and runs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "poetry"}, "task must be one of classification, spans"),
        ({"subject": "age"}, "subject must be one of"),
        ({"read": "mind"}, "read must be one of"),
        ({"threshold": 0.0}, "threshold must lie"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        Bead(**settings)


@pytest.mark.parametrize("task", ["classification", "spans", "demographics", "debias"])
def test_a_run_folder_holds_every_task(task: Any, tmp_path: Path):
    draw = random.Random(0)
    rows = [
        {
            "id": i,
            "text": "lazy folk here",
            "group": draw.choice(["a", "b"]),
            "label": draw.choice(["biased", "neutral"]) if task == "classification" else "lazy",
            "prediction": draw.choice(["biased", "neutral"]),
        }
        for i in range(12)
    ]
    audit = Bead(task=task, scorer="vader-negative")
    run = trueup.audit(NoModel(), [audit], data=rows, out=tmp_path / "run")
    again = audit.estimate(run.items_of("bead"))
    assert [str(row) for row in again] == [str(row) for row in run.estimates]
    assert run.notes
