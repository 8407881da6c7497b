"""Numbers and verdicts in words: undefined is said, and a small p is never 0."""

import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MINUS = "\N{MINUS SIGN}"
SMALLEST_P = 1e-4
LONGEST = 320  # characters of a text that a table shows
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def number(value: Any, *, signed: bool = False, decimals: int = 3) -> str:
    """Three decimals, fewer for large numbers, powers of ten for tiny ones; NaN is `undefined`."""
    if not is_number(value):
        return "undefined"
    size = abs(value)
    if math.isinf(size):
        text = "\N{INFINITY}"
    elif size >= 1000:
        text = f"{size:,.0f}" if size < 1e7 else f"{size:.3g}"
    elif size >= 10:
        text = f"{size:.1f}" if size >= 100 else f"{size:.2f}"
    else:
        text = f"{size:.{decimals}f}"
        if size > 0 and not float(text):
            text = f"{size:.4f}" if size >= 0.00005 else f"{size:.1e}"
    if value < 0:
        return MINUS + text
    return f"+{text}" if signed and value > 0 else text


def ideal(value: Any) -> str:
    """The ideal value, with no more decimals than it has."""
    return f"{value:g}".replace("-", MINUS) if is_number(value) else "none"


def bounds(low: Any, high: Any, n: Any, *, signed: bool = False) -> str:
    """The interval in brackets, or why there is none."""
    if not is_number(low) and not is_number(high):
        return f"undefined (n={count(n)})"
    decimals = decimals_for(low, high)
    ends = [number(end, signed=signed, decimals=decimals) for end in (low, high)]
    return f"[{', '.join(ends)}]"


def decimals_for(low: Any, high: Any) -> int:
    """Three decimals, more where the interval is so narrow that its ends would look equal."""
    if not is_number(low) or not is_number(high) or not 0 < high - low < 1:
        return 3
    return max(3, min(6, math.ceil(-math.log10(high - low))))


def value_of(row: Mapping[str, Any]) -> str:
    """An estimate's value, with as many decimals as its interval."""
    return number(row["value"], decimals=decimals_for(row["low"], row["high"]))


def p_value(value: Any) -> str:
    """A p-value as a reader expects it."""
    if not is_number(value):
        return "undefined"
    if value < SMALLEST_P:
        return "< 1e-4"
    return f"{value:.4f}" if value < 0.001 else f"{value:.3f}"


def count(value: Any) -> str:
    """A whole number with separators."""
    return f"{int(value):,}" if is_number(value) and math.isfinite(value) else "undefined"


def plain_text(value: Any, longest: int = LONGEST) -> str:
    """A cell's text, cut where it would fill the page."""
    text = " ".join(printable(str(value)).split())
    if len(text) <= longest:
        return text
    return text[: longest - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def printable(text: str) -> str:
    """The text with a mark for every character that a page cannot hold: controls, surrogates."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def is_number(value: Any) -> bool:
    """Whether there is a number, infinities included."""
    return isinstance(value, numbers.Real) and not math.isnan(value)


def excludes_ideal(row: Mapping[str, Any]) -> bool:
    """Whether the interval is defined and the ideal lies outside."""
    known = all(is_number(row[key]) for key in ("low", "high", "ideal"))
    return known and not row["low"] <= row["ideal"] <= row["high"]


def standing(row: Mapping[str, Any]) -> tuple[str, str]:
    """Where an estimate stands to its ideal: words, and their tone."""
    if not is_number(row["ideal"]):
        return "for information", "none"
    if not is_number(row["low"]) or not is_number(row["high"]):
        return "too few items to say", "none"
    if not excludes_ideal(row):
        return f"consistent with the ideal {ideal(row['ideal'])}", "none"
    side = "above" if row["value"] > row["ideal"] else "below"
    return f"{side} the ideal {ideal(row['ideal'])}", "off"


def verdict_tone(verdict: str) -> str:
    """How a verdict of a comparison is shown."""
    return {"improved": "good", "worse": "bad"}.get(verdict, "none")


def comparison_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many comparisons ended how."""
    if not rows:
        return []
    verdicts = [row["verdict"] for row in rows]
    improved, worse = verdicts.count("improved"), verdicts.count("worse")
    rest = len(rows) - improved - worse
    parts = [f"{improved} improved", f"{worse} got worse", f"{rest} show no evidence of a change"]
    total = plural(len(rows), "comparison")
    return [
        f"Of {total}, {', '.join(parts[:2])} and {parts[2]}; the p values are adjusted for all"
        f" {len(rows)} together."
        if len(rows) > 1
        else f"The comparison says: {verdicts[0]}."
    ]


def estimate_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many intervals exclude their ideal, beside how many would by chance."""
    judged = [row for row in rows if is_number(row["ideal"])]
    able = [row for row in judged if is_number(row["low"]) and is_number(row["high"])]
    sentences = []
    if able:
        off = sum(excludes_ideal(row) for row in able)
        by_chance = sum(1 - row["level"] for row in able)
        sentences.append(
            f"{off} of {plural(len(able), 'estimate')} with an ideal value"
            f" {'has' if off == 1 else 'have'} an interval that excludes it"
            + (f"; chance alone would give about {by_chance:.1f}." if len(able) > 1 else ".")
        )
    undefined = len(judged) - len(able)
    if undefined:
        sentences.append(f"{plural(undefined, 'estimate')} had too few items for an interval.")
    return sentences


def guard_sentences(guards: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether the guards held, and which did not."""
    if not guards:
        return []
    tripped = [str(guard["name"]) for guard in guards if guard.get("tripped")]
    if not tripped:
        return ["The guard held." if len(guards) == 1 else f"All {len(guards)} guards held."]
    return [f"{len(tripped)} of {plural(len(guards), 'guard')} tripped: {', '.join(tripped)}."]


def equals(text: str) -> str:
    """A p-value behind its sign: `= 0.012`, `< 1e-4`."""
    return text if text.startswith("<") else f"= {text}"


def plural(n: int, noun: str) -> str:
    """The number with its noun."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted keys with plain values."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            yield name, plain_text(", ".join(map(str, value)) or "none")
        else:
            yield name, "none" if value is None or value == {} else plain_text(value)
