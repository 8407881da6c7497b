"""Every verb through the real command line, on tiny models."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import Outcome, Trueup
from trueup.catalog import load as catalog
from trueup.cli.session import GATE_TRIPPED

WIDTH = 80


def audit_words(model: Path, data: Path, *more: object) -> list[object]:
    return ["audit", model, "--audit", "crows-pairs", "--data", data, *more]


def assert_fits(outcome: Outcome) -> None:
    """Plain text, no wider than a terminal, but for paths."""
    assert "\x1b" not in outcome.out
    lines = [line for line in outcome.out.splitlines() if "/" not in line]
    assert max(map(len, lines)) <= WIDTH


def test_audit_prints_what_it_writes(trueup: Trueup, roomy_model: Path, sentences: Path, tmp_path):
    out = tmp_path / "run"
    outcome = trueup(*audit_words(roomy_model, sentences, "--out", out))
    assert (outcome.code, outcome.err) == (0, "")
    assert_fits(outcome)
    assert outcome.out.splitlines()[-1] == f"report: {out / 'report.html'}"
    names = {"run.json", "items.parquet", "metrics.json", "report.html"}
    assert {path.name for path in out.iterdir()} == names
    told = json.loads((out / "metrics.json").read_text("utf-8"))
    share = told["estimates"][0]
    assert f"{share['value']:.3f}" in outcome.out.splitlines()[1]
    assert list(share) == [
        "audit", "metric", "slice", "value", "low", "high", "level", "n", "ideal", "method"
    ]  # fmt: skip
    info = json.loads((out / "run.json").read_text("utf-8"))
    assert info["status"] == "done"
    assert info["arguments"]["audits"]["crows-pairs"]["score"] == "auto"
    assert info["work"]["trunk_tokens"] > 0


def test_audit_json_is_the_metrics_file(
    trueup: Trueup, roomy_model: Path, sentences: Path, tmp_path: Path
):
    out = tmp_path / "run"
    outcome = trueup(*audit_words(roomy_model, sentences, "--out", out, "--json"))
    assert (outcome.code, outcome.err) == (0, "")
    written = json.loads((out / "metrics.json").read_text("utf-8"))
    assert {key: outcome.json[key] for key in written} == written
    assert outcome.json["report"] == str(out / "report.html")


def test_audit_without_folder_prints_the_same_numbers(
    trueup: Trueup, finished_audit: Path, roomy_model: Path, sentences: Path
):
    told = trueup(*audit_words(roomy_model, sentences, "--json")).json
    written = json.loads((finished_audit / "metrics.json").read_text("utf-8"))
    assert told["estimates"] == written["estimates"]
    assert told["out"] is None


def test_audit_settings_reach_the_audit(trueup: Trueup, roomy_model: Path, sentences: Path):
    words = audit_words(roomy_model, sentences, "--json", "--set", "level=0.5")
    told = trueup(*words, "--set", "score=mean").json
    assert {row["level"] for row in told["estimates"]} == {0.5}


def test_several_audits_share_one_run(
    trueup: Trueup, roomy_model: Path, sentences: Path, tmp_path: Path
):
    texts = tmp_path / "texts.txt"
    texts.write_text("one text\nand another\n", "utf-8")
    words = [*audit_words(roomy_model, sentences), "--audit", "perplexity", "--data", texts]
    outcome = trueup(*words, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert_fits(outcome)
    items = pd.read_parquet(tmp_path / "run" / "items.parquet")
    assert items.groupby("audit").size().to_dict() == {"crows-pairs": 30, "perplexity": 2}
    alone = trueup(*audit_words(roomy_model, sentences, "--json")).json
    both = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    assert both["estimates"][: len(alone["estimates"])] == alone["estimates"]


@pytest.mark.parametrize(("bound", "code"), [("-1", GATE_TRIPPED), ("1", 0)])
def test_gate_of_audit(
    trueup: Trueup, roomy_model: Path, sentences: Path, tmp_path: Path, bound: str, code: int
):
    gate = f"low(crows-pairs.share) > {bound}"
    out = tmp_path / "run"
    words = audit_words(roomy_model, sentences, "--out", out, "--json", "--fail-if", gate)
    outcome = trueup(*words)
    assert outcome.code == code
    assert outcome.json["fail_if"] == {"expression": gate, "tripped": code == GATE_TRIPPED}
    assert outcome.err.startswith("gate tripped: " if code else "gate passed: ")
    assert (out / "report.html").is_file()


def test_gate_that_names_nothing_stops_before_any_work(
    trueup: Trueup, roomy_model: Path, sentences: Path, tmp_path: Path
):
    words = audit_words(roomy_model, sentences, "--out", tmp_path / "run")
    line = trueup(*words, "--fail-if", "low(crows-pairs.shar) > 0").error()
    assert "no metric 'crows-pairs.shar'; did you mean 'crows-pairs.share'?" in line
    assert not (tmp_path / "run").exists()


def test_masked_model_is_audited_as_one(trueup: Trueup, sentences: Path, tmp_path: Path):
    from tests.tiny_models import make_tiny

    model = make_tiny("bert", tmp_path / "bert")
    words = audit_words(model, sentences, "--json", "--set", "score=pll")
    assert trueup(*words).code == 0


def test_align_writes_a_model_and_a_run(
    trueup: Trueup, roomy_model: Path, pairs: Path, tmp_path: Path
):
    import trueup as library

    out = tmp_path / "tuned"
    words = ["align", roomy_model, "--objective", "rpo", "--data", pairs, "--out", out]
    words += ["--eval-data", pairs, "--set", "batch_size=4", "--set", "learning_rate=1e-3"]
    outcome = trueup(*words)
    assert (outcome.code, outcome.err) == (0, "")
    assert_fits(outcome)
    wanted = {"run.json", "items.parquet", "metrics.json", "report.html", "README.md"}
    assert wanted <= {path.name for path in out.iterdir()}
    items = pd.read_parquet(out / "items.parquet")
    assert list(items["id"]) == [f"step-{number}" for number in range(1, 6)]
    guards = json.loads((out / "metrics.json").read_text("utf-8"))["estimates"]
    assert guards[0]["metric"] == "likelihood-displacement"
    assert library.load(out).fingerprint != library.load(roomy_model).fingerprint


def test_align_json_says_where_everything_is(
    trueup: Trueup, roomy_model: Path, pairs: Path, tmp_path: Path
):
    out = tmp_path / "tuned"
    words = ["align", roomy_model, "--objective", "sft", "--data", pairs, "--out", out, "--json"]
    told = trueup(*words, "--set", "steps=2").json
    assert (told["model"], told["steps"]) == (str(out), 2)
    assert told["report"] == str(out / "report.html")


def test_compare_writes_compare_json(
    trueup: Trueup, finished_audit: Path, other_model: Path, sentences: Path, tmp_path: Path
):
    after, out = tmp_path / "after", tmp_path / "change"
    assert trueup(*audit_words(other_model, sentences, "--out", after)).code == 0
    outcome = trueup("compare", finished_audit, after, "--out", out)
    assert outcome.code == 0
    assert_fits(outcome)
    written = json.loads((out / "compare.json").read_text("utf-8"))
    assert list(written["rows"][0]) == [
        "audit", "metric", "slice", "before", "after", "delta", "low", "high", "p_value",
        "p_adjusted", "n_pairs", "test", "verdict",
    ]  # fmt: skip
    assert (out / "report.html").is_file()
    told = trueup("compare", finished_audit, after, "--json").json
    assert told["rows"] == written["rows"]


def test_model_against_itself_has_not_changed(trueup: Trueup, finished_audit: Path):
    words = ("compare", finished_audit, finished_audit, "--json")
    told = trueup(*words, "--fail-if", "count(improved) > 0 or count(worse) > 0")
    assert told.code == 0
    assert {row["verdict"] for row in told.json["rows"]} == {"no evidence"}
    assert {row["delta"] for row in told.json["rows"]} == {0.0}


def test_gate_of_compare_trips(trueup: Trueup, finished_audit: Path):
    words = ("compare", finished_audit, finished_audit, "--fail-if", "count(no evidence) > 0")
    assert trueup(*words).code == GATE_TRIPPED


def test_comparing_what_is_no_audit_is_refused(
    trueup: Trueup, finished_audit: Path, roomy_model: Path, prompts: Path, tmp_path: Path
):
    words = ("generate", roomy_model, "--prompts", prompts, "--out", tmp_path / "g")
    assert trueup(*words, "--max-new-tokens", 2).code == 0
    line = trueup("compare", finished_audit, tmp_path / "g").error()
    assert "holds a run of 'generate', not of 'audit'" in line


def test_comparing_other_settings_is_refused(
    trueup: Trueup, finished_audit: Path, roomy_model: Path, sentences: Path, tmp_path: Path
):
    words = audit_words(roomy_model, sentences, "--out", tmp_path / "b", "--set", "score=mean")
    assert trueup(*words).code == 0
    line = trueup("compare", finished_audit, tmp_path / "b").error()
    assert "the runs differ in 'score', 'auto' before and 'mean' after" in line


def test_comparing_other_data_under_the_same_ids_is_refused(
    trueup: Trueup, finished_audit: Path, roomy_model: Path, sentences: Path, tmp_path: Path
):
    sentences.write_text(sentences.read_text("utf-8").replace("bad", "worse"), "utf-8")
    assert trueup(*audit_words(roomy_model, sentences, "--out", tmp_path / "b")).code == 0
    line = trueup("compare", finished_audit, tmp_path / "b").error()
    assert "audit both models on the same data" in line


def test_report_writes_the_page_again(trueup: Trueup, finished_audit: Path):
    page = finished_audit / "report.html"
    page.unlink()
    outcome = trueup("report", finished_audit)
    assert (outcome.code, outcome.out) == (0, f"{page}\n")
    assert page.is_file()
    assert trueup("report", finished_audit, "--json").json == {"report": str(page)}


def test_generate_prints_one_object_per_sample(trueup: Trueup, roomy_model: Path, prompts: Path):
    words = ("generate", roomy_model, "--prompts", prompts, "--n", 2, "--max-new-tokens", 3)
    outcome = trueup(*words, "--seed", 5)
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [row["id"] for row in rows] == [f"{p}-{k}" for p in range(1, 7) for k in (1, 2)]
    assert {row["seed"] for row in rows} == {5}
    assert rows[0]["settings"]["max_new_tokens"] == 3
    told = trueup(*words, "--seed", 5, "--json").json
    assert [row["text"] for row in told["samples"]] == [row["text"] for row in rows]
    other = trueup(*words, "--seed", 6).out.splitlines()
    assert [json.loads(line)["text"] for line in other] != [row["text"] for row in rows]


def test_generate_into_a_folder_gives_the_same_lines(
    trueup: Trueup, roomy_model: Path, prompts: Path, tmp_path: Path
):
    words = ("generate", roomy_model, "--prompts", prompts, "--max-new-tokens", 3)
    outcome = trueup(*words, "--out", tmp_path / "g")
    folder = tmp_path / "g"
    told = f"6 samples: {folder / 'samples.jsonl'}\nreport: {folder / 'report.html'}\n"
    assert outcome.out == told
    assert (tmp_path / "g" / "samples.jsonl").read_text("utf-8") == trueup(*words).out


@pytest.mark.parametrize("query", [[], ["dpo"], ["rpo", "training"], ["bias", "survey"]])
def test_methods_json_has_exactly_these_keys(trueup: Trueup, query: list[str]):
    found = trueup("methods", *query, "--json").json
    assert found
    for row in found:
        assert list(row) == [
            "number", "title", "arxiv", "year", "kind", "stage", "modality", "status",
            "entry_point", "proof",
        ]  # fmt: skip
        assert isinstance(row["proof"], list)


def test_methods_lists_every_paper(trueup: Trueup):
    numbers = [row["number"] for row in trueup("methods", "--json").json]
    assert {entry.number for entry in catalog()} <= set(numbers)
    outcome = trueup("methods")
    assert outcome.code == 0
    assert_fits(outcome)


def test_methods_that_nobody_knows(trueup: Trueup):
    outcome = trueup("methods", "zzzz")
    assert (outcome.code, outcome.out.count("\n")) == (0, 1)


def test_version(trueup: Trueup):
    assert trueup("--version").out.startswith("trueup 0.")


def test_no_words_show_the_help(trueup: Trueup):
    assert trueup().out == trueup("--help").out
