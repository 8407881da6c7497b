"""`--fail-if`: a comparison of measured numbers, read by a small parser and never evaluated."""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import typer

from trueup.cli import printing
from trueup.errors import UserError, unknown_name

Row = Mapping[str, Any]

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
ESTIMATE_FUNCTIONS: dict[str, Callable[[Row], float]] = {
    "low": lambda row: row["low"],
    "high": lambda row: row["high"],
    "value": lambda row: row["value"],
    "abs": lambda row: abs(row["value"]),
    "n": lambda row: row["n"],
    "gap": lambda row: abs(row["value"] - _ideal(row)),
    "beyond": lambda row: _beyond(row["low"] - _ideal(row), _ideal(row) - row["high"]),
}
COMPARISON_FUNCTIONS: dict[str, Callable[[Row], float]] = {
    "low": lambda row: row["low"],
    "high": lambda row: row["high"],
    "value": lambda row: row["delta"],
    "abs": lambda row: abs(row["delta"]),
    "before": lambda row: row["before"],
    "after": lambda row: row["after"],
    "p": lambda row: row["p_adjusted"],
    "n": lambda row: row["n_pairs"],
}
NEED_IDEAL = ("gap", "beyond")
DEEPEST = 50
EXAMPLE = 'write it like "low(crows-pairs.share) > 0.1"'

_PIECE = re.compile(
    r"""\s*(?:
        (?!(?:and|or)\b)(?P<name>[a-z_]+)\s*\(\s*(?P<inside>"[^"]*"|[^()"]*?)\s*\)
      | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)
      | (?P<sign>>=|<=|==|!=|>|<)
      | (?P<joint>and\b|or\b|\(|\))
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Reading:
    """One number that the gate looks up: `low(AUDIT.METRIC@SLICE)`, or `count(VERDICT)`."""

    function: str
    audit: str = ""
    metric: str = ""
    slice: str = "all"
    verdict: str = ""

    def __str__(self) -> str:
        if self.function == "count":
            return f"count({self.verdict})"
        part = "" if self.slice == "all" else f"@{self.slice}"
        return f"{self.function}({self.audit}.{self.metric}{part})"


@dataclass(frozen=True)
class Gate:
    """A parsed expression; `check` holds it against the rows of metrics.json or compare.json.

    Fields: test takes the looked-up numbers and says true, false, or None where an undefined
            number leaves it open.
    """

    text: str
    readings: tuple[Reading, ...]
    test: Callable[[Mapping[Reading, float]], bool | None]
    functions: Mapping[str, Callable[[Row], float]]

    def check(self, rows: Sequence[Row]) -> "Outcome":
        """Look the numbers up and decide.

        Edges:  a test that an undefined number (NaN) leaves open trips the gate: what cannot be
                shown is not passed in silence.
        Raises: UserError where a row that the expression names is not there.
        """
        numbers = {reading: self._number(reading, rows) for reading in self.readings}
        passed = self.test(numbers)
        return Outcome(self.text, passed is not False, numbers)

    def check_names(self, names: Iterable[tuple[str, str]]) -> None:
        """Refuse an AUDIT.METRIC that is none of `names`, before any work."""
        known = dict.fromkeys(f"{audit}.{metric}" for audit, metric in names)
        for reading in self.readings:
            if reading.audit and f"{reading.audit}.{reading.metric}" not in known:
                raise _in_gate(unknown_name("metric", f"{reading.audit}.{reading.metric}", known))

    def check_ideals(self, ideals: Mapping[tuple[str, str], float | None]) -> None:
        """Refuse gap() and beyond() of a metric that has no ideal, before any work."""
        for reading in self.readings:
            metric = (reading.audit, reading.metric)
            if reading.function in NEED_IDEAL and ideals.get(metric, 0.0) is None:
                raise _without_ideal(f"{reading.audit}.{reading.metric}")

    def _number(self, reading: Reading, rows: Sequence[Row]) -> float:
        """The number that one reading names."""
        if reading.function == "count":
            return float(sum(row["verdict"] == reading.verdict for row in rows))
        self.check_names((row["audit"], row["metric"]) for row in rows)
        metric = (reading.audit, reading.metric)
        slices = {row["slice"]: row for row in rows if (row["audit"], row["metric"]) == metric}
        if reading.slice not in slices:
            kind = f"slice of {reading.audit}.{reading.metric}"
            raise _in_gate(unknown_name(kind, reading.slice, slices))
        number = self.functions[reading.function](slices[reading.slice])
        return math.nan if number is None else float(number)


class Verdict(Protocol):
    """How a gate decided."""

    @property
    def is_tripped(self) -> bool:
        """Whether the command fails."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """The decision as `--json` holds it."""
        ...


@dataclass(frozen=True)
class Outcome:
    """Whether a gate tripped, and the numbers that decided it."""

    text: str
    is_tripped: bool
    numbers: Mapping[Reading, float]

    def __str__(self) -> str:
        parts = ", ".join(
            f"{reading} is {'undefined' if math.isnan(number) else format(number, '.4g')}"
            for reading, number in self.numbers.items()
        )
        state = "tripped" if self.is_tripped else "passed"
        return f"gate {state}: {self.text}" + (f" ({parts})" if parts else "")

    def as_dict(self) -> dict[str, Any]:
        """The outcome as `--json` holds it."""
        return {"expression": self.text, "tripped": self.is_tripped}


def parse(text: str, functions: Mapping[str, Callable[[Row], float]]) -> Gate:
    """Read `TERM OPERATOR TERM`, joined by `and`, `or` and parentheses.

    TERM is a number or FUNCTION(AUDIT.METRIC) or FUNCTION(AUDIT.METRIC@SLICE), the inside in
    double quotes where it holds parentheses; for comparisons also count(VERDICT).
    gap() is a number's distance from its ideal, beyond() that of its interval: 0 where it holds it.

    Raises: UserError with the column of what cannot be read.
    """
    if text.count("(") > DEEPEST:
        raise UserError(f"--fail-if: more than {DEEPEST} parentheses; {EXAMPLE}")
    parser = _Parser(text, functions)
    test = parser.either()
    if parser.place < len(parser.pieces):
        raise parser.error("the end")
    return Gate(text, tuple(dict.fromkeys(parser.readings)), test, functions)


def leave(outcome: Verdict) -> None:
    """Say on stderr how the gate decided, and exit with 3 where it tripped."""
    printing.note(str(outcome))
    if outcome.is_tripped:
        raise typer.Exit(3)


def _in_gate(error: UserError) -> UserError:
    return UserError(f"--fail-if: {error}")


def _ideal(row: Row) -> float:
    """The value of an unbiased model."""
    if row["ideal"] is None:
        raise _without_ideal(f"{row['audit']}.{row['metric']}")
    return float(row["ideal"])


def _without_ideal(name: str) -> UserError:
    return UserError(f"--fail-if: gap() and beyond() need a metric with an ideal, got {name}")


def _beyond(above: float, below: float) -> float:
    """How far an interval lies off the ideal: 0 where it holds it, NaN without both bounds."""
    return math.nan if math.isnan(above + below) else max(above, below, 0.0)


Test = Callable[[Mapping[Reading, float]], bool | None]
Term = Callable[[Mapping[Reading, float]], float]


class _Parser:
    """Recursive descent over the pieces: either > both > one comparison > term."""

    def __init__(self, text: str, functions: Mapping[str, Callable[[Row], float]]) -> None:
        self.text = text
        self.functions = functions
        self.pieces = _pieces(text)
        self.place = 0
        self.readings: list[Reading] = []

    def either(self) -> Test:
        tests = [self.both()]
        while self.takes("joint", "or"):
            tests.append(self.both())
        return tests[0] if len(tests) == 1 else lambda numbers: _any([t(numbers) for t in tests])

    def both(self) -> Test:
        tests = [self.one()]
        while self.takes("joint", "and"):
            tests.append(self.one())
        return tests[0] if len(tests) == 1 else lambda numbers: _all([t(numbers) for t in tests])

    def one(self) -> Test:
        if self.takes("joint", "("):
            inner = self.either()
            if not self.takes("joint", ")"):
                raise self.error("')'")
            return inner
        left = self.term()
        sign = self.piece("sign")
        if sign is None:
            raise self.error(f"one of {' '.join(OPERATORS)}")
        self.place += 1
        right = self.term()
        compare = OPERATORS[sign["sign"]]

        def test(numbers: Mapping[Reading, float]) -> bool | None:
            pair = left(numbers), right(numbers)
            return None if any(map(math.isnan, pair)) else compare(*pair)

        return test

    def term(self) -> Term:
        if number := self.piece("number"):
            self.place += 1
            value = float(number["number"])
            return lambda _: value
        call = self.piece("name")
        if call is None:
            raise self.error("a number or FUNCTION(AUDIT.METRIC)")
        reading = self.reading(call["name"], call["inside"].strip('"').strip())
        self.place += 1
        self.readings.append(reading)
        return lambda numbers: numbers[reading]

    def reading(self, function: str, inside: str) -> Reading:
        """What a call looks up."""
        counts = "p" in self.functions  # only comparisons have verdicts
        known = [*self.functions, "count"] if counts else [*self.functions]
        if function not in known:
            raise _in_gate(unknown_name("function", function, known))
        if function == "count":
            verdicts = ("improved", "worse", "no evidence")
            if inside not in verdicts:
                raise _in_gate(unknown_name("verdict", inside, verdicts))
            return Reading("count", verdict=inside)
        audit, dot, rest = inside.partition(".")
        metric, _, part = rest.partition("@")
        if not (audit.strip() and dot and metric.strip()):
            raise UserError(
                f"--fail-if: {function}() needs AUDIT.METRIC or AUDIT.METRIC@SLICE, got {inside!r}"
            )
        return Reading(function, audit.strip(), metric.strip(), part.strip() or "all")

    def piece(self, kind: str) -> re.Match[str] | None:
        """The next piece, if there is one of this kind."""
        piece = self.pieces[self.place] if self.place < len(self.pieces) else None
        return piece if piece is not None and piece[kind] is not None else None

    def takes(self, kind: str, word: str) -> bool:
        """Whether the next piece is this word, which is then used up."""
        piece = self.piece(kind)
        found = piece is not None and piece[kind] == word
        self.place += found
        return found

    def error(self, wanted: str) -> UserError:
        """What stands where something else was wanted."""
        if self.place == len(self.pieces):
            return UserError(
                f"--fail-if: {self.text!r} ends where {wanted} should follow; {EXAMPLE}"
            )
        piece = self.pieces[self.place]
        shown = piece.group().strip()
        column = piece.end() - len(shown) + 1
        return UserError(f"--fail-if: column {column}: expected {wanted}, got {shown!r}; {EXAMPLE}")


def _pieces(text: str) -> list[re.Match[str]]:
    """The pieces of the expression in order.

    Raises: UserError with the column of the first character that begins none.
    """
    found: list[re.Match[str]] = []
    place = 0
    end = len(text.rstrip())
    while place < end:
        piece = _PIECE.match(text, place)
        if piece is None:
            rest = text[place:].strip()
            column = text.index(rest, place) + 1
            raise UserError(f"--fail-if: column {column}: cannot read {rest[:20]!r}; {EXAMPLE}")
        found.append(piece)
        place = piece.end()
    return found


def _any(results: list[bool | None]) -> bool | None:
    """`or` of three values: one true decides."""
    return True if True in results else None if None in results else False


def _all(results: list[bool | None]) -> bool | None:
    """`and` of three values: one false decides."""
    return False if False in results else None if None in results else True
