"""`calibrate`: the run folder, its page, and resuming to the same bits."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.calibration.toy import Toy, ToyWorld
from trueup.api.calibrating import CalibrationRun, calibrate
from trueup.errors import UserError
from trueup.report import report_run
from trueup.runs import Run

PLAN: dict[str, Any] = {"worlds": [ToyWorld()], "n": (20, 40), "seeds": (20,)}


def swept(out: Path | None = None, **changes: Any) -> CalibrationRun:
    return calibrate(Toy(), **{**PLAN, "out": out, **changes})


def kept(folder: Path) -> dict[str, bytes]:
    """What must not depend on how often the run was stopped."""
    names = ("items.parquet", "metrics.json", "report.html")
    found = {name: (folder / name).read_bytes() for name in names}
    started = json.loads((folder / "run.json").read_text("utf-8"))["started"]
    shown = str(started).replace("T", " ").replace("+00:00", " UTC")
    return found | {"report.html": found["report.html"].replace(shown.encode(), b"")}


def test_a_folder_holds_what_memory_holds(tmp_path: Path):
    run, other = swept(tmp_path / "r"), swept()
    assert run.items.equals(other.items)
    assert run.as_dict() == other.as_dict()
    assert run.folder == tmp_path / "r"
    info = Run.open(tmp_path / "r").info
    assert (info["verb"], info["verdicts"]) == ("calibrate", {"toy.share": run.curves[0].verdict})
    estimates = Run.open(tmp_path / "r").estimates()
    assert {row["audit"] for row in estimates} == {"toy"}
    assert estimates[0]["metric"] == "share.slope"


def test_the_same_seed_gives_the_same_draws_and_another_one_others():
    first, again, other = swept(), swept(), swept(seed=1)
    assert first.items.equals(again.items)
    assert not first.items["value"].equals(other.items["value"])


@pytest.mark.parametrize("stop_at", [0, 1, 5])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(tmp_path: Path, stop_at: int):
    swept(tmp_path / "calm")

    def stop(done: int, total: int, what: str) -> None:
        if done >= 10 * stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "r", progress=stop)
    swept(tmp_path / "r", resume=True)
    assert kept(tmp_path / "r") == kept(tmp_path / "calm")


def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path):
    swept(tmp_path / "calm")

    def kill(done: int, total: int, what: str) -> None:
        if done >= 40:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        swept(tmp_path / "r", progress=kill)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(Run.open(tmp_path / "r").done_ids()) == 40
    swept(tmp_path / "r", resume=True)
    assert kept(tmp_path / "r") == kept(tmp_path / "calm")


def test_a_finished_run_is_taken_as_it_is(tmp_path: Path):
    first = swept(tmp_path / "r")
    told: list[int] = []
    again = swept(tmp_path / "r", resume=True, progress=lambda done, total, what: told.append(done))
    assert again.as_dict() == first.as_dict()
    assert told == []


def test_another_sweep_is_not_gone_on_with(tmp_path: Path):
    swept(tmp_path / "r")
    with pytest.raises(UserError, match="cannot resume, argument 'sweeps' differs"):
        swept(tmp_path / "r", resume=True, seeds=(30,))


def test_settings_reach_the_audit_in_place_of_the_worlds():
    wide = swept(settings={"level": 0.5})
    assert wide.curves[0].facts.level == 0.5
    assert wide.curves[0].at[0].coverage.value < 0.8


def test_the_page_says_what_the_curve_says(tmp_path: Path):
    good = swept(tmp_path / "good", seeds=(40,))
    page = (tmp_path / "good" / "report.html").read_text("utf-8")
    for text in (
        "Calibration of toy",
        "A coin shows heads with the planted probability.",
        f"toy.share: {good.curves[0].verdict}.",
        "n = 20",
        "Smallest lean found",
        "extrapolated",
        "What the verdicts mean",
    ):
        assert text in page
    assert "the metric does not see the lean" in page.partition("What the verdicts mean")[2]
    assert "the metric does not see the lean" not in page.partition("What the verdicts mean")[0]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"reach": 0.4}, "toy.share: false alarms. Without a lean"),
        ({"gain": 0.0}, "toy.share: flat. The slope is below 0.2"),
    ],
)
def test_a_page_of_a_bad_audit_says_so(tmp_path: Path, settings: dict[str, float], told: str):
    swept(tmp_path / "bad", seeds=(40,), settings=settings)
    assert told in (tmp_path / "bad" / "report.html").read_text("utf-8")


def test_making_the_page_again_changes_no_byte(tmp_path: Path):
    swept(tmp_path / "r")
    first = (tmp_path / "r" / "report.html").read_bytes()
    assert report_run(tmp_path / "r").read_bytes() == first


def test_the_text_fits_eighty_columns():
    assert max(map(len, str(swept()).splitlines())) <= 80
