import random
from pathlib import Path
from typing import Any

import pytest

from tests.interop.foreign_files import (
    DATA,
    answers,
    inspect_log,
    inspect_sample,
    lm_eval_row,
    write_inspect,
    write_samples,
)
from trueup.api import compare
from trueup.errors import UserError

VALUES = [(n * 7 % 10 < 6) * 1.0 for n in range(40)]


def refusal(before: Path, after: Path) -> str:
    with pytest.raises(UserError) as caught:
        compare(before, after)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_items_pair_by_content_and_not_by_position(tmp_path: Path):
    flipped = [1.0 - value if n < 9 else value for n, value in enumerate(VALUES)]
    before = answers(tmp_path / "a" / "samples_t.jsonl", VALUES)
    rows = [lm_eval_row(n, acc=value) for n, value in enumerate(flipped)]
    after = write_samples(tmp_path / "b" / "samples_t.jsonl", rows)
    random.Random(1).shuffle(rows)
    for number, row in enumerate(rows):
        row["doc_id"] = number
    mixed = write_samples(tmp_path / "c" / "samples_t.jsonl", rows)
    assert compare(before, after).rows == compare(before, mixed).rows
    (row,) = compare(before, mixed).rows
    assert row.delta == (flipped.count(1.0) - VALUES.count(1.0)) / 40
    assert row.n_pairs == 40


def test_epochs_meet_in_any_order(tmp_path: Path):
    def log(order: list[int], name: str) -> Path:
        samples = [
            inspect_sample(n, epoch=place + 1, own=float((n * 3 + epoch * n) % 5))
            for place, epoch in enumerate(order)
            for n in range(12)
        ]
        return write_inspect(tmp_path / f"{name}.json", inspect_log(samples))

    base = write_inspect(
        tmp_path / "base.json",
        inspect_log([inspect_sample(n, epoch=e, own=1.0) for e in (1, 2, 3) for n in range(12)]),
    )
    (one,), (two,) = (
        compare(base, log(order, str(order))).rows for order in ([1, 2, 3], [3, 1, 2])
    )
    assert one == two
    assert "12 clusters" in one.test


def test_other_prompts_are_refused_with_their_number_and_the_first(tmp_path: Path):
    before = answers(tmp_path / "a" / "samples_t.jsonl", VALUES)
    rows = [lm_eval_row(n, prompt=f"Other {n}:" if n in (3, 8) else "", acc=1.0) for n in range(40)]
    said = refusal(before, write_samples(tmp_path / "b" / "samples_t.jsonl", rows))
    assert said == (
        "t: 2 of 40 prompts or targets are not in the other run, the first 'Question 3:'; run both "
        "models on the same prompts"
    )


def test_other_target_under_the_same_prompt_is_refused(tmp_path: Path):
    rows = [lm_eval_row(n, acc=1.0) for n in range(10)]
    before = write_samples(tmp_path / "a" / "samples_t.jsonl", rows)
    rows[4]["target"] = "something else"
    after = write_samples(tmp_path / "b" / "samples_t.jsonl", rows)
    assert "1 of 10 prompts or targets" in refusal(before, after)


def test_run_that_is_part_of_the_other_is_compared_on_it(tmp_path: Path):
    whole = answers(tmp_path / "a" / "samples_t.jsonl", VALUES)
    part = answers(tmp_path / "b" / "samples_t.jsonl", VALUES[:25])
    for sides in ((whole, part), (part, whole)):
        result = compare(*sides)
        assert result.rows[0].n_pairs == 25
        assert "t: 15 probes stand in one run only, and are left out" in result.notes


def test_two_tools_are_refused(tmp_path: Path):
    said = refusal(DATA / "lm_eval_before", DATA / "before.eval")
    assert "two tools, lm-evaluation-harness before and inspect_ai after" in said


def test_log_beside_an_audit_is_refused(tmp_path: Path):
    said = refusal(DATA / "before.eval", tmp_path)
    assert "is another tool's log, and the other run is none" in said


def test_logs_without_a_shared_task_are_refused(tmp_path: Path):
    sides = [answers(tmp_path / f"samples_{name}.jsonl", VALUES) for name in "ab"]
    assert refusal(*sides).startswith("the logs share no task, got a and b; ")


def test_task_and_metric_of_one_run_are_left_out_and_told(tmp_path: Path):
    both: list[Any] = [lm_eval_row(n, acc=1.0, em=0.5) for n in range(6)]
    one: list[Any] = [lm_eval_row(n, acc=1.0) for n in range(6)]
    write_samples(tmp_path / "a" / "samples_t.jsonl", both)
    write_samples(tmp_path / "b" / "samples_t.jsonl", one)
    write_samples(tmp_path / "b" / "samples_u.jsonl", one)
    result = compare(tmp_path / "a", tmp_path / "b")
    assert [(row.audit, row.metric) for row in result.rows] == [("t", "acc")]
    assert set(result.notes) == {
        "u was measured in one run only, and is left out",
        "t: em stands in one run only, and is left out",
    }


def test_logs_without_a_shared_metric_are_refused(tmp_path: Path):
    before = answers(tmp_path / "a" / "samples_t.jsonl", VALUES)
    after = answers(tmp_path / "b" / "samples_t.jsonl", VALUES, metric="em")
    assert "t: the logs share no metric, 'acc' stands in one only" in refusal(before, after)


def test_other_version_of_a_task_is_refused(tmp_path: Path):
    sides = []
    for version in (1, 2):
        about = inspect_log([])["eval"] | {"task_version": version}
        log = inspect_log([inspect_sample(n, match="C") for n in range(4)], eval=about)
        sides.append(write_inspect(tmp_path / f"{version}.json", log))
    assert "asking: the runs differ in 'version', '1' before and '2' after" in refusal(*sides)


def test_other_decoding_is_told(tmp_path: Path):
    sides = []
    for temperature in (0.0, 1.0):
        about = inspect_log([])["eval"] | {"model_generate_config": {"temperature": temperature}}
        log = inspect_log([inspect_sample(n, match="C") for n in range(4)], eval=about)
        sides.append(write_inspect(tmp_path / f"{temperature}.json", log))
    told = "asking: the runs generate differently, temperature 0.0 before and 1.0 after"
    assert told in compare(*sides).notes


def test_share_on_one_side_and_grades_on_the_other_are_a_mean(tmp_path: Path):
    before = answers(tmp_path / "a" / "samples_t.jsonl", VALUES)
    after = answers(tmp_path / "b" / "samples_t.jsonl", [0.5] * 40)
    (row,) = compare(before, after).rows
    assert row.test.startswith("sign flip")
