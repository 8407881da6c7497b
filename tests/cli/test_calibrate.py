"""`trueup calibrate`: what it prints, and one line for everything that is wrong."""

from pathlib import Path

import pytest

from tests.cli.conftest import Trueup

SMALL = ("calibrate", "crows-pairs", "--n", "20,40", "--seeds", "10")


def test_it_prints_the_curve_in_eighty_columns(trueup: Trueup):
    outcome = trueup(*SMALL)
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= 80
    for text in ("crows-pairs.share", "slope, ideal 1", "false alarms, 5% allowed", "n=40",
                 "extrapolated", "planted"):  # fmt: skip
        assert text in outcome.out


def test_json_holds_the_curve_and_the_places(trueup: Trueup, tmp_path: Path):
    told = trueup(*SMALL, "--planted", "0.9", "--out", tmp_path / "r", "--json").json
    assert (told["schema"], told["audit"]) == (1, "crows-pairs")
    [curve] = told["curves"]
    assert [each["n"] for each in curve["at"]] == [20, 40]
    assert [point["planted"] for point in curve["at"][0]["points"]] == [0.5, 0.9]
    assert [row["n"] for row in curve["smallest"]] == [100, 1000, 10_000]
    assert curve["verdict"]
    assert Path(told["report"]).is_file()


def test_settings_are_the_audits(trueup: Trueup):
    told = trueup(*SMALL, "--set", "level=0.5", "--json").json
    assert told["curves"][0]["level"] == 0.5


def test_an_interrupted_sweep_goes_on(trueup: Trueup, tmp_path: Path):
    assert trueup(*SMALL, "--out", tmp_path / "r").code == 0
    assert trueup(*SMALL, "--out", tmp_path / "r", "--resume").code == 0
    assert "a finished run" in trueup(*SMALL, "--out", tmp_path / "r").error()


def test_its_page_can_be_made_again(trueup: Trueup, tmp_path: Path):
    assert trueup(*SMALL, "--out", tmp_path / "r").code == 0
    (tmp_path / "r" / "report.html").unlink()
    assert trueup("report", tmp_path / "r").code == 0
    assert "Calibration of crows-pairs" in (tmp_path / "r" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("crows-pear",), "no audit 'crows-pear'; did you mean 'crows-pairs'?"),
        (("crows-pairs", "--n", "many"), "--n must be numbers separated by commas, got 'many'"),
        (("crows-pairs", "--seeds", "3"), "seeds must be at least 10, got 3"),
        (("crows-pairs", "--seeds", "10,20,30"), "seeds are given 3 times for 2 sizes n"),
        (("crows-pairs", "--planted", "0.5"), "planted must name a size other than 0.5"),
        (("crows-pairs", "--set", "beta=1"), "crows-pairs has no field 'beta'"),
        (("crows-pairs", "--resume"), "--resume needs the --out"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(trueup: Trueup, words: tuple[str, ...], line: str):
    assert line in trueup("calibrate", *words).error()
