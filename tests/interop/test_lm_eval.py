"""Real samples of lm_eval 0.4.13 on tiny random models, and small ones made by hand."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from tests.interop.foreign_files import DATA, answers, lm_eval_row, write_samples
from trueup.errors import UserError
from trueup.interop import ForeignLog, read_log
from trueup.interop.lm_eval_values import goal_of, numbers_of, rule_of

SIDES = ["lm_eval_before", "lm_eval_after"]


def real_rows(side: str, task: str) -> list[Any]:
    (file,) = (DATA / side).glob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def numbers(log: ForeignLog) -> dict[tuple[str, str], float]:
    estimates = [row for task in log.tasks for row in task.estimate(log.tables[task.name])]
    return {(row.audit, row.metric): row.value for row in estimates}


@pytest.mark.parametrize("side", SIDES)
def test_totals_are_those_that_lm_eval_wrote(side: str):
    (file,) = (DATA / side).glob("results_*.json")
    written = json.loads(file.read_text("utf-8"))["results"]
    expected = {
        (task, name.removesuffix(",none")): value
        for task, results in written.items()
        for name, value in results.items()
        if "," in name and "_stderr" not in name
    }
    found = numbers(read_log(DATA / side))
    assert set(found) == set(expected)
    assert len(found) == 10
    # the chances behind a Brier score are logged with eight digits
    assert found == {key: pytest.approx(value, rel=1e-7) for key, value in expected.items()}


def test_model_version_and_settings_are_told():
    log = read_log(DATA / "lm_eval_before")
    assert log.model == "before-model"
    assert {task.name: task.version for task in log.tasks} == {
        "tiny_choice": "1.0", "tiny_texts": "1.0", "tiny_words": "2.0"
    }  # fmt: skip
    assert log.generation["tiny_words"]["max_gen_toks"] == 6


def test_first_versions_format_gives_the_same_items(tmp_path: Path):
    rows = real_rows("lm_eval_before", "tiny_choice")
    new = read_log(write_samples(tmp_path / "new" / "samples_tiny.jsonl", rows))
    for row in rows:
        row["arguments"] = [[*each.values()] for each in row["arguments"].values()]
        for key in ("filter", "metrics", "doc_hash", "prompt_hash", "target_hash"):
            del row[key]
    file = tmp_path / "old" / "samples_tiny.jsonl"
    file.parent.mkdir()
    file.write_text(json.dumps(rows, indent=2), "utf-8")
    assert read_log(file).tables["tiny"].equals(new.tables["tiny"])


def test_order_of_the_lines_changes_nothing(tmp_path: Path):
    rows = real_rows("lm_eval_after", "tiny_choice")
    one = read_log(write_samples(tmp_path / "a" / "samples_tiny.jsonl", rows)).tables["tiny"]
    random.Random(0).shuffle(rows)
    two = read_log(write_samples(tmp_path / "b" / "samples_tiny.jsonl", rows)).tables["tiny"]
    assert list(one["id"]) != list(two["id"])
    assert one.sort_values("id", ignore_index=True).equals(two.sort_values("id", ignore_index=True))


def test_every_filter_is_a_metric_of_the_same_items():
    log = read_log(DATA / "lm_eval_before")
    task = next(task for task in log.tasks if task.name == "tiny_words")
    assert [s.name for s in task.scores] == ["exact_match,first-letter", "exact_match,whole"]
    assert len(log.tables["tiny_words"]) == 8


def test_newest_samples_of_a_task_are_read(tmp_path: Path):
    answers(tmp_path / "samples_t_2025-01-01T00-00-00.1.jsonl", [0.0, 0.0])
    answers(tmp_path / "samples_t_2026-01-01T00-00-00.1.jsonl", [1.0, 1.0])
    answers(tmp_path / "samples_t_b_2024-01-01T00-00-00.1.jsonl", [1.0, 0.0])
    assert numbers(read_log(tmp_path)) == {("t", "acc"): 1.0, ("t_b", "acc"): 0.5}


def test_duplicates_share_a_cluster_and_others_stand_alone(tmp_path: Path):
    rows = [lm_eval_row(n, prompt=f"p{n % 2}" if n % 4 == 0 else "", acc=1.0) for n in range(9)]
    table = read_log(write_samples(tmp_path / "samples_t.jsonl", rows)).tables["t"]
    assert table["id"].is_unique
    clusters = table.groupby("cluster").size()
    assert sorted(clusters) == [3, 6]  # 0, 4 and 8 are one prompt and target; "" holds the rest


@pytest.mark.parametrize(
    ("metric", "value", "numbers"),
    [
        ("acc", True, (1.0,)),
        ("acc", "high", None),
        ("f1", 0.25, (0.25,)),
        ("f1", [1, 0], (0.0, 0.0, 1.0, 0.0)),  # gold 1, predicted 0: missed
        ("f1", [0, 1], (0.0, 1.0, 0.0, 0.0)),
        ("mcc", [2, 1], None),  # of more than two classes
        ("perplexity", -2.5, (-2.5,)),
        ("word_perplexity", [-12.5, 7], (-12.5, 7.0)),
        ("bleu", ["a", "b"], None),
        ("inst_level_strict_acc", [True, False, True], (2.0, 3.0)),
        ("brier_score", [1, "[0.25 0.75]"], (0.25**2 + 0.25**2,)),
        ("brier_score", [0, [0.25, 0.75]], (0.75**2 + 0.75**2,)),
        ("brier_score", [2, [0.25, 0.75]], None),
    ],
)
def test_value_is_read_by_its_metric(metric: str, value: Any, numbers: tuple[float, ...] | None):
    assert numbers_of(rule_of(metric, value), value) == numbers


def test_perplexity_of_log_likelihoods_is_lower_for_the_better(tmp_path: Path):
    log = read_log(answers(tmp_path / "samples_t.jsonl", [-1.0, -3.0], metric="perplexity"))
    assert numbers(log) == {("t", "perplexity"): pytest.approx(math.exp(2))}
    assert log.tasks[0].scores[0].goal == "lower"


def test_crows_pairs_is_best_in_the_middle():
    assert goal_of("pct_stereotype", {"pct_stereotype": False}) == ("ideal", 0.5)
    assert goal_of("likelihood_diff", {}) == ("lower", None)


def test_metric_of_unknown_goal_needs_the_results_beside_it(tmp_path: Path):
    date = "2026-01-01T00-00-00.1"
    file = write_samples(
        tmp_path / f"samples_t_{date}.jsonl",
        [lm_eval_row(n, acc=1.0, charm=0.5) for n in range(3)],
    )
    log = read_log(file)
    assert [score.name for score in log.tasks[0].scores] == ["acc"]
    assert log.notes == (
        "t: charm is left out, nothing says what is better; keep results_*.json beside the samples",
    )
    told = {"higher_is_better": {"t": {"charm": False}}, "model_name": "m"}
    (tmp_path / f"results_{date}.json").write_text(json.dumps(told), "utf-8")
    scores = read_log(file).tasks[0].scores
    assert {score.name: score.goal for score in scores} == {"acc": "higher", "charm": "lower"}


def test_metric_that_is_no_number_is_left_out(tmp_path: Path):
    rows = [lm_eval_row(n, acc=1.0, bleu=["a", "b"]) for n in range(3)]
    log = read_log(write_samples(tmp_path / "samples_t.jsonl", rows))
    assert log.notes == ("t: bleu is left out, its ['a', 'b'] is no number",)


def test_sample_without_a_value_does_not_count(tmp_path: Path):
    values = [1.0, None, 0.0]
    log = read_log(answers(tmp_path / "samples_t.jsonl", values))
    (estimate,) = log.tasks[0].estimate(log.tables["t"])
    assert (estimate.value, estimate.n) == (0.5, 2)
    assert log.tasks[0].notes(log.tables["t"]) == ["t: 1 samples have no score"]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_log(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folder_of_several_models_is_refused(tmp_path: Path):
    for model in "ab":
        answers(tmp_path / model / "samples_t.jsonl", [1.0])
    assert f"holds the results of 2 models; give the folder of one, as {tmp_path}/a" in refusal(
        tmp_path
    )


def test_totals_alone_are_refused(tmp_path: Path):
    (tmp_path / "results_x.json").write_text("{}")
    assert "run lm_eval with --log_samples" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"doc_id": 1}\n', "samples_t.jsonl:1: no sample of lm-evaluation-harness"),
        ("\n[1]\n", "samples_t.jsonl:2: no sample"),
        ('{"doc_id": ', "samples_t.jsonl:1: not valid JSON"),
        ("", "no metric can be read; it is empty"),
        ("[]", "no metric can be read; it is empty"),
    ],
)
def test_damaged_samples_are_one_line(tmp_path: Path, text: str, said: str):
    file = tmp_path / "samples_t.jsonl"
    file.write_text(text)
    assert said in refusal(file)


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path):
    file = tmp_path / "samples_t.jsonl"
    file.write_bytes(b'{"doc": "\xff"}\n')
    assert "not valid JSON" in refusal(file)


def test_document_with_two_prompts_is_refused(tmp_path: Path):
    rows = [lm_eval_row(1, acc=1.0), lm_eval_row(1, prompt="Other:", acc=1.0)]
    said = refusal(write_samples(tmp_path / "samples_t.jsonl", rows))
    assert "doc_id 1 stands for two prompts" in said
