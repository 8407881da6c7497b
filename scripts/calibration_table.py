"""Calibrate every audit that has a world, and write what came of it for the package and the docs.

trueup/calibration/table.csv  a row for each metric and n, which reports read
docs/calibration.csv          a row for each planted size, n and metric: the curves
docs/calibration.md           the table between its markers: which metric to trust for what
docs/calibration.png          the curves as small pictures

    python scripts/calibration_table.py                  # all audits, two at a time, some minutes
    python scripts/calibration_table.py --only bbq weat  # these again, the others from the tables
    python scripts/calibration_table.py --only regard --draws 800   # a doubtful one, more draws
    python scripts/calibration_table.py --write          # the documents again from finished sweeps

A sweep is a run folder below --runs. A finished one is taken as it is, an unfinished one is gone on
with; one whose audit's or world's file has changed since is made anew.
"""

import argparse
import csv
import math
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from trueup.api.calibrating import calibrate, source_hash
from trueup.audits import AUDITS, audit
from trueup.calibration import WORLD_MODULES, worlds_of
from trueup.calibration.curve import ASKED, Calibration, lean_text
from trueup.calibration.known import KnownMetric, known_metrics, rows_of, write_rows
from trueup.calibration.verdicts import RULES, is_trusted
from trueup.files import replacing, write_text
from trueup.runs import Run

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RUNS = ROOT / "build" / "calibration"
CHEAP, MANY, FEW = 100, 400, 160  # draws without a lean: many up to n = 100, fewer above
COLUMNS, TRUSTED, FAILED = 6, "#1f5fa8", "#b3541e"
POINTS = DOCS / "calibration.csv"
TABLE = re.compile(r"(<!-- table -->\n).*?(<!-- end of table -->)", re.S)

Point = dict[str, str]


def main() -> None:
    """Sweep, then write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", help="these audits alone are swept")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the sweeps lie")
    parser.add_argument("--draws", type=int, help="draws without a lean, in place of the usual")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="sweeps at a time")
    parser.add_argument("--write", action="store_true", help="sweep nothing")
    arguments = parser.parse_args()
    names = [name for name in sorted(WORLD_MODULES) if name in AUDITS]
    for name in sorted(set(WORLD_MODULES) - set(names)):
        print(f"{name}: not registered, left out")
    if not arguments.write:
        wanted = [name for name in names if not arguments.only or name in arguments.only]
        sweep_all(wanted, arguments.runs, arguments.jobs, arguments.draws)
    curves = [curve for name in names for curve in finished(arguments.runs / name)]
    write(curves)


def sweep_all(names: Sequence[str], runs: Path, jobs: int, draws: int | None) -> None:
    """Every audit in a process of its own, so many at a time; one that fails stops no other."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(sweep, name, runs / name, draws): name for name in names}
        for future in as_completed(pending):
            error = future.exception()
            print(f"{pending[future]}: {error or future.result()}", flush=True)


def sweep(name: str, folder: Path, draws: int | None) -> str:
    """One audit into its run folder; its verdicts."""
    import torch

    torch.set_num_threads(1)
    worlds = worlds_of(name)
    made = audit(name, worlds[0].settings)
    is_stale = (folder / "run.json").is_file() and (
        Run.open(folder).info["model"]["hash"] != source_hash(made, worlds)
    )
    if is_stale:
        shutil.rmtree(folder)
    sizes = worlds[0].sizes
    seeds = [draws or (MANY if n <= CHEAP else FEW) for n in sizes]
    run = calibrate(name, n=sizes, seeds=seeds, out=folder, resume=True)
    return ", ".join(f"{curve.facts.metric} {curve.verdict}" for curve in run.curves)


def finished(folder: Path) -> Sequence[Calibration]:
    """The curves of a sweep, none where it is not there or not done."""
    from trueup.calibration.summary import curves_of

    if not (folder / "run.json").is_file() or not (run := Run.open(folder)).is_done:
        return ()
    return curves_of(run.info["arguments"]["sweeps"], run.items())


def write(curves: Sequence[Calibration]) -> None:
    """The two tables, in which audits without a sweep stay as they were; the page, the picture."""
    swept = {curve.facts.audit for curve in curves}
    kept = [row for metric in known_metrics() for row in metric.rows if row.audit not in swept]
    rows = [*kept, *(row for curve in curves for row in rows_of(curve))]
    write_rows(sorted(rows, key=lambda row: row.audit))
    kept_points = [point for point in points_of() if point["audit"] not in swept]
    points = [*kept_points, *(row for curve in curves for row in told(curve))]
    write_points(sorted(points, key=lambda point: point["audit"]))
    page = DOCS / "calibration.md"
    made = "\n\n".join((table(known_metrics()), verdicts(), stories(known_metrics())))
    text = page.read_text(encoding="utf-8")
    write_text(page, TABLE.sub(lambda mark: f"{mark[1]}\n{made}\n\n{mark[2]}", text))
    draw(known_metrics(), points_of())


def told(curve: Calibration) -> list[Point]:
    """The points of one curve as rows of text."""
    return [
        {
            "audit": curve.facts.audit,
            "metric": curve.facts.metric,
            "n": str(point.n),
            "planted": f"{point.planted:.5g}",
            "draws": str(point.draws),
            "measured": f"{point.measured.value:.5g}",
            "measured_low": f"{point.measured.low:.5g}",
            "measured_high": f"{point.measured.high:.5g}",
            "interval_low": f"{point.low:.5g}",
            "interval_high": f"{point.high:.5g}",
            "coverage": f"{point.coverage.value:.5g}",
            "excludes_null": f"{point.alarms.value:.5g}" if point.alarms else "",
        }
        for each in curve.at
        for point in each.points
    ]


def points_of() -> list[Point]:
    """The points that docs/calibration.csv holds."""
    if not POINTS.is_file():
        return []
    with POINTS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_points(points: Sequence[Point]) -> None:
    """The curves as a table."""
    with replacing(POINTS) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(points[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(points)


def table(metrics: Sequence[KnownMetric]) -> str:
    """The table of the page: the trusted metrics first, each with its numbers at the largest n."""
    head = ("metric", "verdict", "n", "slope", "bias", "coverage", "false alarms",
            *(f"finds at n={n:,}" for n in ASKED))  # fmt: skip
    rows = sorted(metrics, key=lambda each: (not is_trusted(each.verdict), each.name))
    lines = [head, ["---"] * len(head), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(metric: KnownMetric) -> list[str]:
    """One metric as a row; a column with several n has them one below the other."""

    def stacked(texts: Iterable[str]) -> str:
        return "<br>".join(texts)

    rows = metric.rows
    has_null = not math.isnan(rows[0].null)
    return [
        f"`{metric.name}`",
        f"**{metric.verdict}**",
        stacked(f"{row.n:,} {row.unit}" for row in rows),
        stacked(f"{row.slope:.2f}" for row in rows),
        stacked(f"{row.bias:+.2g}" for row in rows),
        stacked(f"{row.coverage:.0%}" for row in rows),
        stacked(f"{row.false_alarms:.1%}" for row in rows) if has_null else "",
        *(found(metric, n) for n in ASKED),
    ]


def found(metric: KnownMetric, n: int) -> str:
    """The smallest lean at n; a star where it was extrapolated."""
    lean, is_far = metric.smallest(n)
    if math.isnan(metric.rows[0].null):
        return ""
    text = lean_text(lean, metric.rows[0].farthest)
    return f"{text}*" if is_far and math.isfinite(lean) else text


def verdicts() -> str:
    """What the verdicts mean."""
    return "\n".join(f"- **{word}**: {rule}" for word, rule in RULES.items())


def stories(metrics: Sequence[KnownMetric]) -> str:
    """What was planted for each metric."""
    told = {f"{w.audit}.{w.metric}": w.story for each in metrics for w in worlds_of(each.audit)}
    lines = [f"- `{each.name}`: {told[each.name]}" for each in metrics if each.name in told]
    return "\n".join(("## What was planted", "", *lines))


def draw(metrics: Sequence[KnownMetric], points: Sequence[Point]) -> None:
    """Every curve at its largest n, in the metric's own unit."""
    lines = -(-len(metrics) // COLUMNS)
    size = (COLUMNS * 2.1, lines * 2.1)
    figure, axes = plt.subplots(lines, COLUMNS, figsize=size, squeeze=False)
    for axis in axes.flat[len(metrics) :]:
        axis.set_axis_off()
    for axis, metric in zip(axes.flat, metrics, strict=False):
        last = metric.rows[-1]
        key = (last.audit, last.metric, str(last.n))
        own = [point for point in points if (point["audit"], point["metric"], point["n"]) == key]
        planted, measured, low, high = (
            np.array([float(point[name]) for point in own])
            for name in ("planted", "measured", "interval_low", "interval_high")
        )
        axis.plot(planted, planted, color="#777777", linewidth=0.8, linestyle=(0, (3, 3)))
        colour = TRUSTED if is_trusted(metric.verdict) else FAILED
        axis.vlines(planted, low, high, color=colour, linewidth=1.2)
        axis.plot(planted, measured, "o", color=colour, markersize=3.5)
        axis.set_title(f"{last.audit}\n{last.metric}, n={last.n:,}", fontsize=7)
        axis.tick_params(labelsize=6, length=2)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("planted", fontsize=8)
    figure.supylabel("measured, with the audit's mean interval", fontsize=8)
    figure.tight_layout()
    with replacing(DOCS / "calibration.png") as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
