"""`trueup estimate`: the numbers of a finished audit again, without its model."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests.cli.conftest import Trueup
from trueup.api import AuditRun
from trueup.api.estimating import estimate
from trueup.audits import CrowsPairs
from trueup.cli.session import GATE_TRIPPED
from trueup.errors import UserError


def written(folder: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads((folder / "metrics.json").read_text("utf-8"))[
        "estimates"
    ]
    return rows


def test_same_settings_give_the_same_numbers_bit_for_bit(
    trueup: Trueup, finished_audit: Path, tmp_path: Path
):
    out = tmp_path / "again"
    outcome = trueup("estimate", finished_audit, "--out", out)
    assert (outcome.code, outcome.err) == (0, "")
    assert (out / "metrics.json").read_bytes() == (finished_audit / "metrics.json").read_bytes()
    assert (out / "report.html").is_file()
    assert trueup("estimate", finished_audit, "--json").json["estimates"] == written(finished_audit)


def test_the_model_is_not_needed(
    trueup: Trueup, finished_audit: Path, roomy_model: Path, tmp_path: Path
):
    info = json.loads((finished_audit / "run.json").read_text("utf-8"))
    info["model"]["id"] = str(tmp_path / "gone")
    (finished_audit / "run.json").write_text(json.dumps(info), "utf-8")
    assert trueup("estimate", finished_audit, "--json").json["estimates"] == written(finished_audit)


def test_level_changes_the_bounds_and_nothing_else(trueup: Trueup, finished_audit: Path):
    told = trueup("estimate", finished_audit, "--level", 0.5, "--json").json["estimates"]
    for new, old in zip(told, written(finished_audit), strict=True):
        assert (new["value"], new["n"]) == (old["value"], old["n"])
        assert new["level"] == 0.5
    new, old = told[0], written(finished_audit)[0]
    assert old["low"] < new["low"] < new["value"] < new["high"] < old["high"]


def test_level_is_that_of_an_audit_made_with_it(
    trueup: Trueup, finished_audit: Path, roomy_model: Path, sentences: Path
):
    words = ("audit", roomy_model, "--audit", "crows-pairs", "--data", sentences)
    direct = trueup(*words, "--set", "level=0.8", "--json").json
    again = trueup("estimate", finished_audit, "--set", "level=0.8", "--json").json
    assert again["estimates"] == direct["estimates"]


def test_result_is_an_audit_that_others_read(trueup: Trueup, finished_audit: Path, tmp_path: Path):
    out = tmp_path / "again"
    assert trueup("estimate", finished_audit, "--level", 0.9, "--out", out).code == 0
    opened = AuditRun.open(out)
    assert opened.audits == (CrowsPairs(level=0.9),)
    assert opened.arguments["estimated_from"] == str(finished_audit)
    assert opened.items.equals(AuditRun.open(finished_audit).items)
    assert trueup("estimate", out, "--level", 0.95, "--json").json["estimates"] == written(
        finished_audit
    )


def test_gate_reads_the_new_numbers(trueup: Trueup, finished_audit: Path):
    low = written(finished_audit)[0]["low"]
    gate = f"low(crows-pairs.share) > {low}"
    assert trueup("estimate", finished_audit, "--fail-if", gate).code == 0
    words = ("estimate", finished_audit, "--level", 0.5, "--fail-if", gate)
    assert trueup(*words).code == GATE_TRIPPED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "score=mean"], "crows-pairs: 'score' changes what is measured; audit the model"),
        (["--set", "lvl=0.9"], "no audit of this run estimates by 'lvl'; crows-pairs has level"),
        (["--level", "1.5"], "level must lie between"),
        (["--level", "0.9", "--set", "level=0.8"], "level is given twice, 0.9 and '0.8'"),
        (["--fail-if", "low(crows-pairs.shar) > 0"], "did you mean 'crows-pairs.share'?"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    trueup: Trueup, finished_audit: Path, words: list[str], said: str
):
    assert said in trueup("estimate", finished_audit, *words).error()


def test_other_runs_are_refused(
    trueup: Trueup, finished_audit: Path, roomy_model: Path, prompts: Path, tmp_path: Path
):
    words = ("generate", roomy_model, "--prompts", prompts, "--out", tmp_path / "g")
    assert trueup(*words, "--max-new-tokens", 2).code == 0
    said = trueup("estimate", tmp_path / "g").error()
    assert "holds a run of 'generate', not of 'audit'" in said
    unfinished = Path(shutil.copytree(finished_audit, tmp_path / "half"))
    info = json.loads((unfinished / "run.json").read_text("utf-8"))
    (unfinished / "run.json").write_text(json.dumps(info | {"status": "interrupted"}), "utf-8")
    assert "the audit is interrupted" in trueup("estimate", unfinished).error()
    assert "no such run folder" in trueup("estimate", tmp_path / "none").error()


@dataclass(frozen=True, kw_only=True)
class Rounded(CrowsPairs):
    """An audit with a field that only its estimates read."""

    digits: int = 3
    estimating: ClassVar[tuple[str, ...]] = ("digits",)


def test_audit_names_the_fields_that_only_estimates_read(finished_audit: Path):
    run = AuditRun.open(finished_audit, [Rounded()])
    assert estimate(run, digits=5).audits == (Rounded(digits=5),)
    with pytest.raises(UserError, match="crows-pairs: 'ties' changes what is measured"):
        estimate(run, ties="zero")


def test_notes_that_are_not_of_the_items_stay(finished_audit: Path):
    run = AuditRun.open(finished_audit)
    told = [*run.notes, "not run of this suite: bbq (no file bbq.jsonl)"]
    info = json.loads((finished_audit / "run.json").read_text("utf-8"))
    (finished_audit / "run.json").write_text(json.dumps(info | {"notes": told}), "utf-8")
    assert sorted(estimate(finished_audit).notes) == sorted(told)
    again = estimate(finished_audit, level=0.9).notes
    assert len(again) == len(told)
    assert told[-1] in again
