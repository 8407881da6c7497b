"""From rows to what the page's template shows: cards, panels and tables, the largest first."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from markupsafe import Markup

from trueup.redaction import redacted
from trueup.report import wording
from trueup.report.calibration import (
    calibration_cards,
    calibration_rules,
    calibration_section,
)
from trueup.report.completion_blocks import generation_section
from trueup.report.content import ReportInput, rows_of
from trueup.report.generation import generation_cards
from trueup.report.pictures import (
    NARROW,
    WIDE,
    Mark,
    arrows,
    arrows_label,
    curves,
    forest,
    forest_label,
)

if TYPE_CHECKING:
    import pandas as pd

MOST_MARKS = 20  # slices in one picture; its table holds the others
MOST_PANELS = 8  # pictures of one kind
MOST_CARDS = 4  # headline numbers
MOST_MOVED = 15  # probes
MOST_ROWS = 1000  # of one table; the run folder holds them all
ALL = "all"
CURVES = {  # columns of training steps that are drawn, with their titles
    "loss": "Loss",
    "margin": "Margin of chosen over rejected, nats",
    "margins": "Margin of chosen over rejected, nats",
    "chosen_change": "Change of ln P(chosen), nats",
    "accuracy": "Share of pairs in the right order",
    "grad_norm": "Gradient norm",
}
MOST_CURVES = 4
EVALUATION_CURVES = {  # the same of evaluations
    "reward": "Reward of own samples, held-out prompts",
    "kl": "KL to the reference, nats per sample",
    "loss": "Loss",
    "margin": "Margin of chosen over rejected, nats",
    "chosen_change": "Change of ln P(chosen), nats",
    "rejected_change": "Change of ln P(rejected), nats",
    "chosen_likelihood": "ln P of wanted completions per token, nats",
    "rejected_likelihood": "ln P of unwanted completions per token, nats",
    "sample_likelihood": "ln P of own samples per token, nats",
    "entropy_bits": "Entropy of the likeliest next tokens, bits",
    "top_k_mass": "Probability of the likeliest next tokens",
}

Row = dict[str, Any]
T = TypeVar("T")


def sections(report: ReportInput) -> dict[str, Any]:
    """Everything that the template names."""
    estimates, before = rows_of(report.estimates), rows_of(report.before)
    comparison = rows_of(report.comparison)
    found = wording.comparison_sentences(comparison) or wording.estimate_sentences(estimates)
    return {
        "title": report.title,
        "question": report.question,
        "facts": report.facts,
        "summary": [*report.summary, *found],
        "guard_summary": wording.guard_sentences(report.guards),
        "has_tripped": any(guard.get("tripped") for guard in report.guards),
        "cards": calibration_cards(report.calibration)
        or generation_cards(report.completions)
        or _comparison_cards(comparison, report.headline)
        or _estimate_cards(estimates, report.headline),
        "measured": _measured(estimates or before, report.explanations),
        "notes": report.notes,
        "changes": _changes(comparison, estimates or before, report),
        "panels": _panels(estimates, before, report),
        "guards": [_guard(guard) for guard in report.guards],
        "curves": _curves(report.steps, CURVES, MOST_CURVES, "step"),
        "evaluation_curves": _curves(
            report.evaluations, EVALUATION_CURVES, len(EVALUATION_CURVES), "evaluation"
        ),
        "n_evaluations": 0 if report.evaluations is None else len(report.evaluations),
        "n_steps": 0 if report.steps is None else len(report.steps),
        "moved": _moved(report.moved),
        "n_probes": 0 if report.moved is None else len(report.moved),
        "driving": _driving(report.driving),
        "audit_pictures": report.pictures,
        "calibration": [calibration_section(curve) for curve in report.calibration],
        "rules": calibration_rules(report.calibration),
        "completions": generation_section(report.completions),
        "settings": list(wording.flat(redacted(report.settings))),
        "work": report.work,
        "versions": report.versions,
    }


def _grouped(rows: Sequence[Row], headline: str = ALL) -> dict[tuple[str, str], list[Row]]:
    """The rows of each audit and metric in their order, but `all` and the headline first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["audit"], row["metric"]), []).append(row)
    return {
        key: sorted(group, key=lambda row: (row["slice"] != ALL, row["slice"] != headline))
        for key, group in groups.items()
    }


def _name(key: tuple[str, str]) -> str:
    """Audit and metric in one name."""
    return " \N{MIDDLE DOT} ".join(part for part in key if part)


def _headlines(rows: Sequence[Row], headline: str) -> list[tuple[str, Row]]:
    """The name of every metric with its headline row, else with its first one."""
    return [
        (_name(key), next((row for row in group if row["slice"] == headline), group[0]))
        for key, group in _grouped(rows).items()
    ]


def _comparison_cards(rows: Sequence[Row], headline: str) -> list[Row]:
    """The headline row of every compared metric, large."""
    firsts = _headlines(rows, headline)
    return [
        {
            "name": name,
            "slice": row["slice"],
            "numbers": [wording.number(row["before"]), wording.number(row["after"])],
            "verdict": row["verdict"],
            "tone": wording.verdict_tone(row["verdict"]),
            "details": [
                f"change {wording.number(row['delta'], signed=True)} "
                + wording.bounds(row["low"], row["high"], row["n_pairs"], signed=True),
                f"adjusted p {wording.equals(wording.p_value(row['p_adjusted']))}"
                f" on {wording.plural(row['n_pairs'], 'pair')}",
            ],
        }
        for name, row in firsts[:MOST_CARDS]
    ]


def _estimate_cards(rows: Sequence[Row], headline: str) -> list[Row]:
    """The headline row of every metric that has an ideal, large; of the others where none has."""
    firsts = _headlines(rows, headline)
    judged = [pair for pair in firsts if wording.is_number(pair[1]["ideal"])] or firsts
    cards = []
    for name, row in judged[:MOST_CARDS]:
        words, tone = wording.standing(row)
        interval = wording.bounds(row["low"], row["high"], row["n"])
        cards.append(
            {
                "name": name,
                "slice": row["slice"],
                "numbers": [wording.value_of(row)],
                "verdict": words,
                "tone": tone,
                "details": [f"{row['level']:.0%} interval {interval}, n={wording.count(row['n'])}"],
            }
        )
    return cards


def _measured(rows: Sequence[Row], explanations: Mapping[str, str]) -> list[Row]:
    """One line per metric: what it is, its ideal, on how many items, by which method."""
    untold = dict(explanations)  # an audit's own explanation stands at its first metric
    return [
        {
            "name": _name(key),
            "explanation": untold.pop(key[0], ""),
            "reading": untold.get(".".join(key), ""),
            "ideal": wording.ideal(group[0]["ideal"]),
            "n_slices": len(group),
            "n": group[0]["n"],
            "interval": f"{group[0]['level']:.0%} {group[0]['method']}",
        }
        for key, group in _grouped(rows).items()
    ]


def _changes(rows: Sequence[Row], estimates: Sequence[Row], report: ReportInput) -> list[Row]:
    """One panel per compared metric: arrows for the largest changes, a table of all."""
    ideals = {(row["audit"], row["metric"]): row["ideal"] for row in estimates}
    panels: list[Row] = []
    for key, group in _grouped(rows, report.headline).items():
        pinned = [row for row in group if row["slice"] in (ALL, report.headline)]
        shown = _top(group, len(pinned), lambda row: abs(row["delta"]))
        truths = _truths(report.planted, key)
        label = arrows_label(_name(key), shown)
        draw = partial(arrows, shown, ideals.get(key), truths, label)
        panels.append(
            {
                "name": _name(key),
                "is_main": all(panel["audit"] != key[0] for panel in panels),
                "audit": key[0],
                "picture": _both_widths(draw) if len(panels) < MOST_PANELS else None,
                "n_shown": len(shown),
                "n_rows": len(group),
                "has_ideal": wording.is_number(ideals.get(key)),
                "has_planted": any(row["slice"] in truths for row in shown),
                "rows": [
                    row | {"tone": wording.verdict_tone(row["verdict"])}
                    for row in group[:MOST_ROWS]
                ],
            }
        )
    return panels


def _panels(estimates: Sequence[Row], before: Sequence[Row], report: ReportInput) -> list[Row]:
    """One panel per metric: a forest of the slices furthest from the ideal, a table of all."""
    earlier = {(row["audit"], row["metric"], row["slice"]): row for row in before}
    panels: list[Row] = []
    for key, group in _grouped(estimates or before, report.headline).items():
        truths = _truths(report.planted, key)
        marks = [
            Mark(
                label=str(row["slice"]),
                row=row,
                before=earlier.get((*key, row["slice"])) if estimates else None,
                planted=truths.get(row["slice"]),
            )
            for row in group
        ]
        ideal = group[0]["ideal"]
        pinned = [row for row in group if row["slice"] in (ALL, report.headline)]
        shown = _top(marks, len(pinned), partial(_deviation, group[0]))
        draw = partial(forest, shown, ideal, forest_label(_name(key), shown, ideal))
        panels.append(
            {
                "name": _name(key),
                "is_main": all(panel["audit"] != key[0] for panel in panels),
                "audit": key[0],
                "picture": _both_widths(draw) if len(panels) < MOST_PANELS else None,
                "n_shown": len(shown),
                "n_rows": len(marks),
                "has_ideal": wording.is_number(ideal),
                "has_before": any(mark.before for mark in marks),
                "has_planted": any(mark.planted is not None for mark in marks),
                "level": f"{group[0]['level']:.0%}",
                "marks": marks[:MOST_ROWS],
            }
        )
    return panels


def _deviation(first: Row, mark: Mark) -> float:
    """How far a slice is from the ideal, or from all items where there is no ideal."""
    goal = first["ideal"] if wording.is_number(first["ideal"]) else first["value"]
    return float(max(abs(row["value"] - goal) for row in mark.rows()))


def _truths(planted: Mapping[tuple[str, str], float], key: tuple[str, str]) -> dict[str, float]:
    """The planted values of one metric by slice."""
    return {name: float(truth) for (metric, name), truth in planted.items() if metric == key[1]}


def _top(items: list[T], n_pinned: int, size: Callable[[T], float]) -> list[T]:
    """All items where they are few; else the pinned first ones and the largest of the others."""
    if len(items) <= MOST_MARKS:
        return items

    def rank(item: T) -> tuple[bool, float]:
        found = size(item)
        return math.isnan(found), -found

    return [*items[:n_pinned], *sorted(items[n_pinned:], key=rank)][:MOST_MARKS]


def _both_widths(draw: Callable[[int], str]) -> dict[str, Markup]:
    """A picture for a desk and for a phone; its texts are escaped where it is written."""
    return {name: Markup(draw(width)) for name, width in (("wide", WIDE), ("narrow", NARROW))}


def _guard(guard: Mapping[str, Any]) -> Row:
    """A guard with its numbers as text."""
    low, high = guard.get("low"), guard.get("high")
    limit = guard.get("limit")
    return {
        "name": guard["name"],
        "value": wording.number(guard.get("value")),
        "unit": guard.get("unit") or "",
        "interval": f"[{wording.number(low)}, {wording.number(high)}]"
        if wording.is_number(low) or wording.is_number(high)
        else "",
        "limit": wording.number(limit) if wording.is_number(limit) else str(limit or ""),
        "is_tripped": bool(guard.get("tripped")),
        "explanation": guard.get("explanation") or "",
    }


def _curves(
    steps: "pd.DataFrame | None", titles: Mapping[str, str], most: int, unit: str
) -> list[Row]:
    """The titled signals of the training that have numbers to draw, at most so many."""
    import pandas as pd

    if steps is None or not len(steps):
        return []
    if "step" not in steps.columns:
        steps = steps.assign(step=range(1, len(steps) + 1))
    drawn: list[Row] = []
    for column, title in titles.items():
        if column not in steps.columns or len(drawn) == most:
            continue
        values = pd.to_numeric(steps[column], errors="coerce").astype(float)
        table = pd.DataFrame({"step": steps["step"], column: values})
        known = values[values.abs() < math.inf]
        if known.empty:
            continue
        first, last = wording.number(float(known.iloc[0])), wording.number(float(known.iloc[-1]))
        label = f"{title} over {wording.plural(len(steps), unit)}, from {first} to {last}."
        picture = Markup(curves(table, column, label, NARROW))
        drawn.append({"title": title, "picture": picture})
    return drawn


def _moved(moved: "pd.DataFrame | None") -> list[Row]:
    """The probes whose score changed most."""
    if moved is None or not len(moved):
        return []
    table = moved.dropna(subset=["before", "after", "change"]).reset_index(drop=True)
    order = table["change"].abs().sort_values(ascending=False, kind="stable").index
    return [
        {"id": "", "group": "", "text": "", **{str(name): value for name, value in row.items()}}
        for row in table.loc[order[:MOST_MOVED]].to_dict("records")
    ]


def _driving(items: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The items behind each audit's number, audit by audit."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for item in items:
        groups.setdefault((item["audit"], item["metric"]), []).append(dict(item))
    return [{"name": _name(key), "rows": rows} for key, rows in groups.items()]
