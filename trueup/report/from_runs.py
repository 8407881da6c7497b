"""Reports of run folders: one run, or one before and one after."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueup.calibration.known import warnings_of
from trueup.report.audit_pictures import audit_pictures
from trueup.report.calibration import calibration_facts, calibration_sentences
from trueup.report.content import ReportInput, Row
from trueup.report.generation import (
    completions_of,
    generation_facts,
    generation_question,
    generation_sentences,
)
from trueup.report.page import write_report
from trueup.report.wording import count
from trueup.runs import Run

if TYPE_CHECKING:
    import pandas as pd


TRAINING = "training"  # stands for the audit in the estimates of a training run
TRAINING_EXPLANATIONS = {
    "training.likelihood-displacement": "Mean change of ln P(completion) on the evaluation rows.",
    "training.positive-margin": "Share of evaluation pairs whose chosen completion gained more"
    " likelihood than the rejected one.",
}
SIDES = ("before", "after")  # a comparison's arguments
WANTED = ("chosen", "all", "true")  # the completions that training should make likelier


def report_run(run_folder: str | Path) -> Path:
    """Write report.html into a run's folder: an audit, alignment, generation or comparison.

    A run whose author knows more than its rows says so in run.json under `page`: title, question,
    summary, facts, headline, explanations, planted (rows of metric, slice, value), which then are
    shown.
    A comparison's arguments name its sides; other runs, as the demo's, may hold the folders
    before, after and aligned.
    Raises: UserError where the folder is no run.
    """
    run = Run.open(run_folder)
    is_training = run.info["verb"] == "align"
    estimates = run.estimates()
    report = ReportInput(
        title=_title(run),
        question=_question(run),
        summary=_status(run),
        facts=_facts(run),
        estimates=[row | {"ideal": None} for row in estimates] if is_training else estimates,
        explanations={**_explanations(estimates), **run.info.get("readings", {})},
        driving=run.info.get("driving", ()),
        pictures=audit_pictures(run) if run.info["verb"] == "audit" else (),
        comparison=run.comparison(),
        guards=[*run.info.get("guards", ()), *_displacement_guards(estimates)],
        notes=[*run.info.get("notes", ()), *_calibrated(estimates)],
        steps=_steps(run),
        evaluations=_evaluations(run),
        settings=_settings(run),
        work=run.work(),
        versions=run.info.get("versions", {}),
    )
    if run.info["verb"] == "calibrate":
        report = _with_curves(report, run)
    if run.info["verb"] == "generate":
        report = _with_completions(report, run)
    if run.comparison():
        report = _with_sides(report, run)
    return write_report(_as_told(report, run.info.get("page", {})), run.path)


def moved_probes(before: "pd.DataFrame", after: "pd.DataFrame") -> "pd.DataFrame":
    """The probes that both runs have, with their score before and after: id, group, text, ...

    Every audit's items have the columns id, input and score, several audits' an `audit` too.
    """
    import pandas as pd

    keys = [name for name in ("audit", "id") if name in before.columns and name in after.columns]
    wanted = {"id", "input", "score"}
    if not wanted <= set(before.columns) or not wanted <= set(after.columns):
        return pd.DataFrame(columns=["id", "group", "text", "before", "after", "change"])
    pairs = before.merge(after[[*keys, "score"]], on=keys, suffixes=("", "_after"))
    earlier, later = (pd.to_numeric(pairs[name]) for name in ("score", "score_after"))
    return pd.DataFrame(
        {
            "id": pairs["id"],
            "group": pairs["group"].fillna("") if "group" in pairs.columns else "",
            "text": pairs["input"],
            "before": earlier,
            "after": later,
            "change": later - earlier,
        }
    )


def _as_told(report: ReportInput, page: Mapping[str, Any]) -> ReportInput:
    """The report in the words of the run's author."""
    told = {name: page[name] for name in ("title", "question", "headline") if name in page}
    truths = {(row["metric"], row["slice"]): row["value"] for row in page.get("planted", ())}
    return replace(
        report,
        **told,
        summary=[*page.get("summary", ()), *report.summary],
        facts={**report.facts, **page.get("facts", {})},
        explanations={**report.explanations, **page.get("explanations", {})},
        planted=truths,
    )


def _calibrated(estimates: Sequence[Row]) -> list[str]:
    """Where the measured table says that one of these audits is not to be trusted."""
    return warnings_of({str(row["audit"]) for row in estimates})


def _with_curves(report: ReportInput, run: Run) -> ReportInput:
    """A calibration: its curves in place of plain estimates, and the worlds in words."""
    from trueup.calibration.summary import curves_of

    sweeps = run.info["arguments"]["sweeps"]
    curves = curves_of(sweeps, run.items()) if _has_items(run) else ()
    return replace(
        report,
        summary=[*report.summary, *calibration_sentences(curves)],
        facts=calibration_facts(sweeps) | {"Seed": run.info["seed"]},
        estimates=(),
        notes=run.info.get("notes", ()),
        calibration=curves,
    )


def _with_completions(report: ReportInput, run: Run) -> ReportInput:
    """What a model wrote: texts and searches in place of estimates."""
    settings = run.info["arguments"]
    found = completions_of(run.items(), settings, run.work()) if _has_items(run) else None
    told = {"Model": _model(run), **generation_facts(found, settings)}
    return replace(
        report,
        question=generation_question(settings),
        summary=[*report.summary, *generation_sentences(found)],
        facts={**told, **report.facts},
        completions=found,
    )


def _steps(run: Run) -> "pd.DataFrame | None":
    """The training steps of an alignment, or of the one that the run holds."""
    if run.info["verb"] == "align":
        return run.items() if _has_items(run) else None
    inner = run.path / "aligned"
    return _steps(Run.open(inner)) if (inner / "run.json").is_file() else None


def _evaluations(run: Run) -> "pd.DataFrame | None":
    """The evaluations during an alignment, or during the one that the run holds."""
    import pandas as pd

    folder = run.path if run.info["verb"] == "align" else run.path / "aligned"
    file = folder / "training" / "evaluations.parquet"
    return pd.read_parquet(file) if file.is_file() else None


def _with_sides(report: ReportInput, run: Run) -> ReportInput:
    """A comparison with the two runs that it compares, where they are still there."""
    before, after = (_side(run, str(run.info["arguments"].get(name, name))) for name in SIDES)
    is_theirs = run.info["model"]["id"] is None or (
        after is not None and after.info["model"] == run.info["model"]
    )
    if before is None or after is None or not is_theirs:
        return report
    title = f"{_model(after)} compared with {_model(before)}"
    return _joined(replace(report, title=title), before, after)


def _side(run: Run, named: str) -> Run | None:
    """A compared run: where it was, seen from here, or beside the comparison."""
    last = Path(named).name
    places = (run.path / last, Path(named), run.path.parent / named, run.path.parent / last)
    found = (place for place in places if (place / "run.json").is_file())
    place = next(found, None)
    return None if place is None else Run.open(place)


def _joined(report: ReportInput, before: Run, after: Run) -> ReportInput:
    """The report with what the two runs know."""
    work = before.work()
    for name, spent in after.work().items():
        work[name] = work.get(name, 0) + spent
    return replace(
        report,
        facts={
            "Before": _model(before),
            "After": _model(after),
            "Data": _data(after),
            "Seed": after.info["seed"],
        },
        estimates=after.estimates(),
        before=before.estimates(),
        explanations={
            **_explanations(after.estimates()),
            **after.info.get("readings", {}),
            **report.explanations,
        },
        notes=[
            *report.notes,
            *after.info.get("notes", ()),
            *_calibrated(after.estimates()),
        ],
        moved=moved_probes(before.items(), after.items())
        if _has_items(before) and _has_items(after)
        else None,
        settings={
            **report.settings,
            "before": _settings(before),
            "after": _settings(after),
        },
        work=work,
        versions=after.info.get("versions", {}),
    )


def _explanations(estimates: Sequence[Row]) -> dict[str, str]:
    """What each audit measures: the first paragraph of its documentation."""
    names = {str(row["audit"]) for row in estimates} - {TRAINING}
    found = dict(TRAINING_EXPLANATIONS)
    if names:
        from trueup.audits import AUDITS

        for name in names & set(AUDITS):
            found[name] = (inspect.getdoc(AUDITS[name]) or "").partition("\n\n")[0]
    return found


def _displacement_guards(estimates: Sequence[Row]) -> list[Row]:
    """The guard of a training run: what was to become likelier did not become less likely."""
    return [
        {
            "name": f"Likelihood of completions: {row['slice']}",
            "value": row["value"],
            "low": row["low"],
            "high": row["high"],
            "limit": 0.0,
            "unit": "nats",
            "tripped": row["high"] < 0,
            "explanation": "Trips where the whole interval of the mean change lies below 0.",
        }
        for row in estimates
        if row["metric"] == "likelihood-displacement" and row["slice"] in WANTED
    ]


def _has_items(run: Run) -> bool:
    """Whether any row was measured."""
    return (run.path / "items.parquet").is_file() or any((run.path / "items").glob("*.parquet"))


def _title(run: Run) -> str:
    """What the page is called."""
    model = Path(str(run.info["model"]["id"] or run.path)).name
    sides = [Path(str(run.info["arguments"].get(name, "?"))).name for name in SIDES]
    titles = {
        "audit": f"Audit of {model}",
        "align": f"Alignment of {model}",
        "compare": f"{sides[1]} compared with {sides[0]}",
        "generate": f"Completions of {model}",
        "calibrate": f"Calibration of {run.info['arguments'].get('audit', '?')}",
    }
    return titles.get(run.info["verb"], f"{run.info['verb'].capitalize()} {run.path.name}")


def _question(run: Run) -> str:
    """What was asked, in one sentence."""
    return {
        "audit": "Where does this model lean, and how sure is that?",
        "align": "Did training move the model as asked, and did it break anything?",
        "compare": "Did the model change, and for the better?",
        "calibrate": "What does this audit report where the lean is planted and known?",
    }.get(run.info["verb"], "")


def _status(run: Run) -> list[str]:
    """A warning where the run is not whole."""
    if run.is_done:
        return []
    return [f"The run {run.path.name} is {run.status}: its numbers are incomplete."]


def _facts(run: Run) -> dict[str, Any]:
    """What stands under the title."""
    seconds = run.info.get("seconds")
    facts = {
        "Model": _model(run),
        "Data": _data(run),
        "Seed": run.info["seed"],
        "Started": str(run.info.get("started") or "").replace("T", " ").replace("+00:00", " UTC"),
        "Time": f"{count(round(seconds))} s" if seconds else "",
    }
    return {name: value for name, value in facts.items() if value != ""}


def _model(run: Run) -> str:
    """The model's name."""
    return Path(str(run.info["model"]["id"] or "unknown")).name


def _data(run: Run) -> str:
    """The data files' names."""
    found = run.info["data"]["path"]
    names = found if isinstance(found, list) else [found] if found else []
    return ", ".join(dict.fromkeys(Path(str(name)).name for name in names))


def _settings(run: Run) -> dict[str, Any]:
    """All that decides the run's numbers."""
    return {
        "verb": run.info["verb"],
        **run.info["arguments"],
        "seed": run.info["seed"],
        "model": dict(run.info["model"]),
        "data": dict(run.info["data"]),
    }
