"""Calibration curves as a page shows them: cards, sentences, pictures, tables and the rules."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from trueup.calibration.curve import ASKED, AtSize, Calibration, Point, lean_text
from trueup.calibration.verdicts import RULES, is_trusted
from trueup.report.calibration_pictures import measured_picture, power_picture
from trueup.report.wording import bounds, count, number
from trueup.stats import Estimate

Row = dict[str, Any]


def calibration_cards(curves: Sequence[Calibration]) -> list[Row]:
    """The first curve's numbers at its largest n, large."""
    if not curves:
        return []
    curve, last = curves[0], curves[0].at[-1]
    place = f"at n={count(last.n)}"
    cards = [
        _card(curve.name, number(last.slope.value, decimals=2), curve.verdict, _tone(curve.verdict),
              f"slope of measured over planted, {place}: {_interval(last.slope)}"),
        _card("Coverage", _percent(last.coverage.value), *_against(last.coverage, ">="),
              f"of the intervals hold the planted lean, {place}: {_interval(last.coverage)}"),
    ]  # fmt: skip
    if last.false_alarms is not None:
        lean, is_far = curve.smallest(1000)
        cards += [
            _card("False alarms", _percent(last.false_alarms.value),
                  *_against(last.false_alarms, "<="),
                  f"of draws without a lean, {place}: {_interval(last.false_alarms)}"),
            _card("Smallest lean found", lean_text(lean, curve.farthest),
                  "for information", "none",
                  f"in four of five audits of 1,000 {curve.facts.unit}"
                  + (", extrapolated" if is_far else "")),
        ]  # fmt: skip
    return cards


def calibration_sentences(curves: Sequence[Calibration]) -> list[str]:
    """What each curve says, in words."""
    rules = {str(word): rule for word, rule in RULES.items()}
    sentences = []
    for curve in curves:
        told = f"{curve.name}: {curve.verdict}."
        if not is_trusted(curve.verdict):
            told += f" {rules.get(curve.verdict, '')}"
        sentences.append(told.strip())
        if curve.facts.has_null:
            sentences += [_alarms_told(curve), _smallest_told(curve)]
    return sentences


def calibration_facts(sweeps: Sequence[Mapping[str, Any]]) -> Row:
    """What stands under the title."""
    first = sweeps[0]
    seeds = list(dict.fromkeys(first["seeds"]))
    nulls = {sweep["null"] for sweep in sweeps}
    null = "several" if len(nulls) > 1 else "none" if None in nulls else number(first["null"])
    return {
        "World": f"{first['kind']} model",
        "Sample sizes": f"{'; '.join(map(count, first['n']))} {first['unit']}",
        "Draws without a lean": "; ".join(map(count, seeds)),
        "Null": null,
    }


def calibration_section(curve: Calibration) -> Row:
    """One curve: its story, its pictures and its tables."""
    return {
        "name": curve.name,
        "story": curve.facts.story,
        "level": f"{curve.facts.level:.0%}",
        "unit": curve.facts.unit,
        "pictures": [
            {
                "title": f"n = {count(each.n)}",
                "picture": Markup(measured_picture(curve, each)),
            }
            for each in curve.at
        ],
        "power": Markup(power_picture(curve)) if curve.facts.has_null else None,
        "sizes": [_numbers(each) for each in curve.at],
        "points": [_point(curve, point) for each in curve.at for point in each.points],
        "smallest": _smallest(curve) if curve.facts.has_null else [],
    }


def calibration_rules(curves: Sequence[Calibration]) -> list[tuple[str, str]]:
    """The verdicts and what each means, where there is any."""
    return [(str(word), rule) for word, rule in RULES.items()] if curves else []


def _alarms_told(curve: Calibration) -> str:
    """The false alarms at each n, in a sentence."""
    rates = ", ".join(
        f"{_percent(each.false_alarms.value)} (n={count(each.n)})"
        for each in curve.at
        if each.false_alarms is not None
    )
    allowed = f"{1 - curve.facts.level:.0%}"
    return (
        f"Without a lean its interval excludes the null in {rates} of draws; {allowed} are allowed."
    )


def _smallest_told(curve: Calibration) -> str:
    """What it finds at the largest swept n, in a sentence."""
    last = curve.at[-1]
    if not math.isfinite(last.smallest):
        return f"At n={count(last.n)} no planted lean was found in 80% of draws."
    lean = lean_text(last.smallest, curve.farthest)
    return f"At n={count(last.n)} it finds a lean of {lean} in 80% of draws."


def _card(name: str, text: str, verdict: str, tone: str, detail: str) -> Row:
    """A card of the page's head."""
    return {
        "name": name,
        "slice": "all",
        "numbers": [text],
        "verdict": verdict,
        "tone": tone,
        "details": [detail],
    }


def _against(row: Estimate, sign: str) -> tuple[str, str]:
    """Whether a share keeps to what the level promises, beyond its own error."""
    asked = row.ideal or 0.0
    if sign == ">=":
        is_off, promise = row.high < asked, f"the {asked:.0%} promised"
        return (f"less than {promise}", "bad") if is_off else (f"keeps {promise}", "good")
    is_off, promise = row.low > asked, f"the {asked:.0%} allowed"
    return (f"more than {promise}", "bad") if is_off else (f"within {promise}", "good")


def _tone(verdict: str) -> str:
    """How a verdict is shown."""
    return "good" if is_trusted(verdict) else "bad"


def _numbers(each: AtSize) -> Row:
    """One n as a row of the table."""
    return {
        "n": count(each.n),
        "slope": _value(each.slope),
        "bias": _value(each.bias, signed=True),
        "coverage": _share(each.coverage),
        "false_alarms": _share(each.false_alarms) if each.false_alarms else ("", ""),
        "undefined": _percent(each.undefined.value),
        "verdict": each.verdict,
        "tone": _tone(each.verdict),
    }


def _point(curve: Calibration, point: Point) -> Row:
    """One planted size as a row of the table."""
    is_null = point.planted == curve.facts.null
    return {
        "n": count(point.n),
        "is_first": point.planted == min(p.planted for p in curve.at[0].points),
        "planted": number(point.planted),
        "is_null": is_null,
        "measured": number(point.measured.value),
        "interval": bounds(point.low, point.high, point.draws),
        "coverage": _percent(point.coverage.value),
        "power": "" if point.alarms is None else _percent(point.alarms.value),
        "draws": count(point.draws),
    }


def _smallest(curve: Calibration) -> list[Row]:
    """The smallest lean that is found, at the n that a reader asks for."""
    found = []
    for n in ASKED:
        lean, is_far = curve.smallest(n)
        found.append(
            {
                "n": count(n),
                "lean": lean_text(lean, curve.farthest),
                "how": "extrapolated" if is_far else "swept",
            }
        )
    return found


def _value(row: Estimate, *, signed: bool = False) -> tuple[str, str]:
    """A number and its interval."""
    return number(row.value, signed=signed), bounds(row.low, row.high, row.n, signed=signed)


def _share(row: Estimate) -> tuple[str, str]:
    """A share and its interval."""
    return _percent(row.value), _interval(row)


def _interval(row: Estimate) -> str:
    """An interval: shares in per cent, others as they are."""
    if row.method == "Wilson":
        return f"[{_percent(row.low)}, {_percent(row.high)}]"
    return bounds(row.low, row.high, row.n)


def _percent(share: float) -> str:
    """A share in per cent, with a decimal where it is small."""
    if math.isnan(share):
        return "undefined"
    return f"{share:.1%}" if 0 < share < 0.1 else f"{share:.0%}"
