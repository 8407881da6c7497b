"""What a page says of a calibration, and what an audit's page says of its own."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.calibration.toy import ToyWorld, coins, curve_of
from tests.report.test_from_runs import audit_run
from trueup.calibration import known
from trueup.calibration.curve import Calibration, WorldFacts
from trueup.calibration.known import rows_of, write_rows
from trueup.calibration.summary import summarized
from trueup.report import ReportInput, render, report_run
from trueup.report.calibration import (
    calibration_cards,
    calibration_section,
    calibration_sentences,
)

GOOD = curve_of(coins(draws=200))
BAD = curve_of(coins(draws=200, reach=0.5))


def test_cards_tell_slope_coverage_alarms_and_the_smallest_lean():
    cards = {card["name"]: card for card in calibration_cards([GOOD])}
    assert list(cards) == ["toy.share", "Coverage", "False alarms", "Smallest lean found"]
    assert (cards["toy.share"]["verdict"], cards["toy.share"]["tone"]) == ("trust", "good")
    assert cards["Coverage"]["verdict"] == "keeps the 95% promised"
    assert cards["False alarms"]["verdict"] == "within the 5% allowed"
    assert "extrapolated" in cards["Smallest lean found"]["details"][0]


def test_a_broken_promise_is_shown_as_one():
    cards = {card["name"]: card for card in calibration_cards([BAD])}
    for name, told in (
        ("toy.share", "false alarms"),
        ("Coverage", "less than the 95% promised"),
        ("False alarms", "more than the 5% allowed"),
    ):
        assert (cards[name]["verdict"], cards[name]["tone"]) == (told, "bad")


def test_sentences_say_the_verdict_and_its_rule_where_it_is_bad():
    good, bad = calibration_sentences([GOOD]), calibration_sentences([BAD])
    assert good[0] == "toy.share: trust."
    assert bad[0].startswith("toy.share: false alarms. Without a lean the audit's interval")
    assert "(n=100), " in bad[1]
    assert bad[1].endswith("(n=200) of draws; 5% are allowed.")


def test_every_n_and_every_size_is_in_the_tables():
    section = calibration_section(GOOD)
    assert [row["n"] for row in section["sizes"]] == ["100", "200"]
    assert [row["planted"] for row in section["points"]][:5] == [
        "0.200", "0.350", "0.500", "0.650", "0.800"
    ]  # fmt: skip
    assert [row["is_null"] for row in section["points"]][:5] == [False, False, True, False, False]
    assert [row["how"] for row in section["smallest"]] == ["swept", "extrapolated", "extrapolated"]


def test_pictures_speak_their_numbers():
    section = calibration_section(GOOD)
    assert "0.200 planted, 0.2" in section["pictures"][0]["picture"]
    assert "Power of toy.share at n=100 and n=200" in section["power"]


def without_null() -> Calibration:
    """A curve whose sizes all are a lean, as those of perplexity."""
    facts = replace(WorldFacts.of(ToyWorld(), 0.95), null=math.nan)
    return summarized(facts, coins(draws=200))


def test_without_a_null_there_is_no_talk_of_alarms():
    curve = without_null()
    assert [card["name"] for card in calibration_cards([curve])] == ["toy.share", "Coverage"]
    assert calibration_sentences([curve]) == ["toy.share: trust."]
    page = render(ReportInput(title="x", calibration=[curve]))
    assert "<h3>Smallest lean found</h3>" not in page
    assert "Planted and measured" in page


def test_a_page_without_a_calibration_has_no_rules():
    assert "What the verdicts mean" not in render(ReportInput(title="x"))


def test_an_audits_page_says_what_its_calibration_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [replace(row, audit="association") for row in rows_of(BAD)]
    write_rows(rows, tmp_path / "table.csv")
    monkeypatch.setattr(known, "TABLE", tmp_path / "table.csv")
    page = report_run(audit_run(tmp_path / "a").path).read_text("utf-8")
    assert "association.share was calibrated on planted leans: at n=100, without a lean" in page
    write_rows([replace(row, verdict="trust") for row in rows], tmp_path / "table.csv")
    page = report_run(audit_run(tmp_path / "b").path).read_text("utf-8")
    assert "calibrated" not in page
