import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.report.sample import comparison, estimate
from trueup.errors import UserError
from trueup.report import report_run
from trueup.report.from_runs import moved_probes
from trueup.report.wording import MINUS
from trueup.runs import Run

ROWS = [estimate(0.3), estimate(0.31, slice="nurse", n=1) | {"low": math.nan, "high": math.nan}]


def items(shift: float) -> pd.DataFrame:
    names = [f"p{i}" for i in range(30)]
    return pd.DataFrame(
        {
            "id": names,
            "group": "job",
            "input": [f"The <b>nurse</b> {name}" for name in names],
            "score": np.linspace(0, 1, 30) * shift,
        }
    )


def audit_run(path: Path, shift: float = 1.0, status: Any = "done", **changes: Any) -> Run:
    asked: dict[str, Any] = {
        "verb": "audit",
        "arguments": {"audits": ["association"], "hf_token": "canary"},
        "seed": 3,
        "model": f"models/{path.name}",
        "model_hash": path.name,
        "data": "data/jobs.csv",
        "data_hash": "ab",
    }
    run = Run.create(path, **asked | changes)
    run.append_items(items(shift), work={"trunk_tokens": 1000, "head_rows": 7})
    run.write_metrics(ROWS)
    run.finish(status)
    return run


def compare_run(path: Path, before: Run, after: Run) -> Run:
    run = Run.create(
        path,
        verb="compare",
        arguments={"before": str(before.path), "after": str(after.path)},
        seed=3,
        model=after.info["model"]["id"],
        model_hash=after.info["model"]["hash"],
    )
    run.write_comparison([comparison(0.3, 0.01)])
    run.finish()
    return run


def test_an_audit_becomes_a_page_in_its_folder(tmp_path: Path) -> None:
    page = report_run(audit_run(tmp_path / "a").path).read_text()
    for text in ("Audit of a", "0.300", "undefined (n=1)", "jobs.csv", "trunk tokens", "1,000"):
        assert text in page
    assert "incomplete" not in page
    assert "canary" not in page


def test_an_unfinished_run_says_that_its_numbers_are_incomplete(tmp_path: Path) -> None:
    page = report_run(audit_run(tmp_path / "a", status="interrupted").path).read_text()
    assert "The run a is interrupted: its numbers are incomplete." in page


def test_making_the_page_again_changes_no_byte(tmp_path: Path) -> None:
    run = audit_run(tmp_path / "a")
    first = report_run(run.path).read_bytes()
    assert report_run(run.path).read_bytes() == first


def test_an_alignment_shows_its_steps_and_guards(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", verb="align", arguments={"objective": "rpo"}, seed=0)
    steps = np.arange(1, 61)
    run.append_items(
        pd.DataFrame({"id": steps.astype(str), "step": steps, "loss": 1 / steps, "margin": steps})
    )
    displaced = estimate(-0.5, 0.1, audit="training", metric="likelihood-displacement")
    run.write_metrics([displaced | {"slice": "chosen"}, displaced | {"slice": "rejected"}])
    run.finish()
    page = report_run(run.path).read_text()
    for text in (
        "60 optimiser steps",
        "Loss",
        "Margin of chosen",
        f"{MINUS}0.500<",
        "1 guard tripped",
    ):
        assert text in page
    assert "Likelihood of completions: rejected" not in page


def test_an_alignment_shows_its_evaluations_as_curves(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", verb="align", arguments={"objective": "rpo"}, seed=0)
    run.append_items(pd.DataFrame({"id": ["1"], "step": [1], "loss": [1.0]}))
    run.finish()
    assert "Evaluations during training" not in report_run(run.path).read_text()
    (run.path / "training").mkdir()
    rows = pd.DataFrame({"step": [0, 5, 10], "loss": 0.5, "entropy_bits": [2.0, 1.75, 1.5]})
    rows.to_parquet(run.path / "training" / "evaluations.parquet")
    page = report_run(run.path).read_text()
    assert "Evaluations during training" in page
    assert "3 evaluations on the same held-out rows" in page
    assert "likeliest next tokens, bits over 3 evaluations, from 2.000 to 1.500" in page
    assert "Probability of the likeliest" not in page


def test_a_comparison_shows_both_sides_and_the_probes_that_moved(tmp_path: Path) -> None:
    sides = audit_run(tmp_path / "a"), audit_run(tmp_path / "b", 0.1)
    page = report_run(compare_run(tmp_path / "c", *sides).path).read_text()
    for text in ("b compared with a", "improved", "Probes that moved most", "The 15 of 30 probes",
                 f"{MINUS}0.900", "2,000", "&lt;b&gt;nurse"):  # fmt: skip
        assert text in page


def test_a_comparison_finds_its_sides_where_the_folders_were_moved(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    sides = audit_run(tmp_path / "old" / "a"), audit_run(tmp_path / "old" / "b", 0.1)
    compare_run(tmp_path / "old" / "c", *sides)
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert "Probes that moved most" in report_run(tmp_path / "new" / "c").read_text()


@pytest.mark.parametrize("loss", ["gone", "replaced"])
def test_a_comparison_without_its_sides_still_shows_its_rows(tmp_path: Path, loss: str) -> None:
    sides = audit_run(tmp_path / "a"), audit_run(tmp_path / "b")
    run = compare_run(tmp_path / "c", *sides)
    shutil.rmtree(tmp_path / "b")
    if loss == "replaced":
        audit_run(tmp_path / "b", model_hash="another")
    page = report_run(run.path).read_text()
    assert "b compared with a" in page
    assert "improved" in page
    assert "Probes that moved most" not in page


def test_a_runs_author_may_say_what_the_rows_do_not(tmp_path: Path) -> None:
    run = audit_run(tmp_path / "a")
    info = json.loads((run.path / "run.json").read_text())
    planted = [{"metric": "lean", "slice": "nurse", "value": 0.25}]
    info["page"] = {"title": "Told", "summary": ["Said."], "headline": "nurse", "planted": planted}
    info["page"]["facts"] = {"Corpus": "own"}
    (run.path / "run.json").write_text(json.dumps(info))
    page = report_run(run.path).read_text()
    for text in ("<h1>Told</h1>", "Said.", "<span>nurse</span>", "planted truth", "Corpus"):
        assert text in page


def test_probes_are_paired_by_id_and_audit() -> None:
    first = pd.DataFrame(
        {"audit": ["x", "y", "x"], "id": ["1", "1", "2"], "input": "t", "score": [0.0, 1.0, 2.0]}
    )
    second = first.assign(score=[0.5, 1.0, 2.0]).iloc[[1, 0]]
    moved = moved_probes(first, second)
    assert moved[["id", "change"]].to_numpy().tolist() == [["1", 0.5], ["1", 0.0]]


def test_items_of_another_kind_have_no_moved_probes() -> None:
    assert moved_probes(items(1.0).drop(columns="score"), items(1.0)).empty


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        report_run(tmp_path / "gone")
