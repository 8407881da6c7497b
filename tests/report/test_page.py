import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from syrupy.assertion import SnapshotAssertion

from tests.report.sample import audit_report, comparison, demo_report, estimate
from trueup.report import ReportInput, render, write_report

VOID = {"meta", "link", "br", "img", "hr", "input"}
LOADS = re.compile(
    r"""(?:\b(?:src|href|srcset|action|data|poster|background)\s*=\s*["']?|url\(|@import)\s*([^"')\s>]*)"""
)


class Balanced(HTMLParser):
    """Refuses a page whose tags do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.data: list[str] = []
        self.skeleton: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs), attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.data.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3", "summary", "th") and data.strip():
            self.skeleton.append(f"{self.open[-1]}: {data.strip()}")


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


HOSTILE = "<script>alert('x')</script> \"><img src=http://evil/x onerror=y> {{ 7 * 7 }} &amp; ]]>"
REPORTS = {
    "demo": demo_report(),
    "audit": audit_report(),
    "hundreds of slices": audit_report(400),
    "title only": ReportInput(title="Nothing yet"),
    "undefined": ReportInput(
        title="Undefined",
        estimates=[estimate(math.nan) | {"low": math.nan, "high": math.nan, "n": 0}],
        comparison=[
            comparison(math.nan, math.nan)
            | {"delta": math.nan, "low": math.nan, "high": math.nan, "p_adjusted": math.nan}
            | {"p_value": math.nan, "n_pairs": 0, "verdict": "no evidence"}
        ],
        guards=[{"name": "g", "value": math.nan, "tripped": False}],
        steps=pd.DataFrame({"step": [1, 2], "loss": [math.nan, math.nan]}),
        moved=pd.DataFrame(
            {"id": ["a"], "before": [1.0], "after": [math.nan], "change": [math.nan]}
        ),
    ),
    "empty tables": ReportInput(
        title="Empty",
        steps=pd.DataFrame(),
        moved=pd.DataFrame({"id": [], "before": [], "after": [], "change": []}),
    ),
    "enormous": ReportInput(
        title="Enormous",
        estimates=[estimate(1e300, 1e299), estimate(-1e-300, 1e-301, slice="b", n=10**15)],
        steps=pd.DataFrame({"step": [10**15], "loss": [1e300]}),
    ),
    "hostile": demo_report(
        title=HOSTILE,
        question=HOSTILE,
        summary=[HOSTILE],
        facts={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        settings={HOSTILE: {HOSTILE: [HOSTILE]}},
        versions={"trueup": HOSTILE},
        explanations={"association": HOSTILE},
        estimates=[estimate(0.1, slice=HOSTILE, audit=HOSTILE, method=HOSTILE)],
        comparison=[comparison(0.3, 0.1, slice=HOSTILE, audit=HOSTILE, test=HOSTILE)],
        guards=[{"name": HOSTILE, "value": 1.0, "unit": HOSTILE, "explanation": HOSTILE}],
        moved=pd.DataFrame(
            {"id": [HOSTILE], "group": [HOSTILE], "text": [HOSTILE]}
            | {"before": [0.1], "after": [0.2], "change": [0.1]}
        ),
    ),
}


@pytest.fixture(scope="module", params=list(REPORTS))
def page(request: pytest.FixtureRequest) -> str:
    return render(REPORTS[request.param])


def test_every_page_is_whole_and_runs_no_script(page: str) -> None:
    parser = parsed(page)
    assert parser.seen.count("h1") == 1
    assert "script" not in parser.seen
    assert "img" not in parser.seen
    assert "iframe" not in parser.seen


def test_no_page_loads_anything(page: str) -> None:
    markup = re.sub(r">[^<]*<", "><", re.sub(r"<title>.*?</title>", "", page, flags=re.DOTALL))
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    quoted = re.sub(r'aria-label="[^"]*"', "", markup)  # plain text in quotes
    assert {*LOADS.findall(quoted), *LOADS.findall(style[1])} <= {"data:,"}
    assert "http" not in quoted.replace('http-equiv="Content-Security-Policy"', "")
    assert "default-src 'none'" in page


def test_the_same_input_gives_the_same_page() -> None:
    assert render(demo_report()) == render(demo_report())


def test_another_process_gives_the_same_page() -> None:
    script = (
        "import hashlib; from tests.report.sample import demo_report;"
        "from trueup.report import render;"
        "print(hashlib.sha256(render(demo_report()).encode()).hexdigest())"
    )
    root = Path(__file__).parents[2]
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PATH": "", "MPLCONFIGDIR": "/tmp", "HOME": "/tmp"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    parser = parsed(render(REPORTS["hostile"]))
    assert "".join(parser.data).count("<script>alert('x')</script>") >= 15
    assert "49" not in {word.strip() for word in parser.data}


def test_the_page_says_verdicts_first_and_holds_every_part() -> None:
    page = render(demo_report())
    parts = (
        *("0.302", "1 of 3 guards tripped", "What was measured", "What changed", "Estimates"),
        *("Guards", "Training", "Probes that moved most", "Settings", "Work", "Versions"),
    )
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    for text in (
        "&lt; 1e-4",
        "planted truth",
        "n=72",
        "1,284,332",
        "tripped",
        "held",
        "9,999 draws",
    ):
        assert text in page
    assert page.count("<svg") > 6
    assert "<text" in page


def test_an_undefined_bound_is_said() -> None:
    page = render(audit_report())
    assert "undefined (n=1)" in page
    assert "1 estimate had too few items for an interval." in page


def test_many_slices_are_drawn_as_the_furthest_and_kept_in_a_table() -> None:
    page = render(audit_report(400))
    assert "The 20 of 402 slices that are furthest from the ideal" in page
    assert page.count(">kind-399<") == 1  # near the ideal: only in the table
    assert len(page) < 400_000


def test_the_headline_slice_is_shown_large() -> None:
    first = render(demo_report(headline="nurse"))
    assert re.search(r'<h3>association · lean <span>nurse</span></h3>\s*<p class="big">', first)


def test_secrets_in_settings_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_TOKEN", "canary-55aa1")
    page = render(demo_report(settings={"api_key": "another", "url": "http://h?x=canary-55aa1"}))
    assert "another" not in page
    assert "canary" not in page


def test_an_estimate_may_be_an_object() -> None:
    class Thing:
        def as_dict(self) -> dict[str, Any]:
            return estimate(0.123)

    assert "0.123" in render(ReportInput(title="t", estimates=[Thing()]))


def test_a_page_goes_to_a_file_or_into_a_folder(tmp_path: Path) -> None:
    report = ReportInput(title="t")
    assert write_report(report, tmp_path) == tmp_path / "report.html"
    assert write_report(report, tmp_path / "new") == tmp_path / "new" / "report.html"
    assert write_report(report, tmp_path / "a.html") == tmp_path / "a.html"
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "report.html").read_bytes()


@pytest.mark.parametrize("name", ["demo", "audit", "title only"])
def test_the_pages_skeleton_stays(name: str, snapshot: SnapshotAssertion) -> None:
    assert parsed(render(REPORTS[name])).skeleton == snapshot


def channels(colour: str) -> list[float]:
    full = "".join(2 * c for c in colour[1:]) if len(colour) == 4 else colour[1:]
    parts = [int(full[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    return [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def contrast(first: str, second: str) -> float:
    lights = sorted(
        sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), channels(colour), strict=True))
        for colour in (first, second)
    )
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def test_text_has_contrast_in_light_dark_and_print() -> None:
    css = (Path(__file__).parents[2] / "trueup" / "report" / "page.css").read_text()
    palettes = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in css.split(":root")[1:]]
    assert len(palettes) == 3
    for palette in palettes:
        for tone in ("ink", "muted", "accent", "bad", "good"):
            assert contrast(palette[tone], palette["page"]) >= 4.5, tone  # WCAG 2.2, 1.4.3
        assert contrast(palette["before"], palette["page"]) >= 3  # WCAG 2.2, 1.4.11: marks
