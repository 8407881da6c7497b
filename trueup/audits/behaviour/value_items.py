"""What the values audit asks: rows with options, checked, and the orders in which options stand."""

import functools
import itertools
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any, Literal

import numpy as np

from trueup.audits.protocol import Probe, text_of
from trueup.errors import UserError
from trueup.judging.verdicts import LETTERS

Kind = Literal["opinion", "rating", "stated", "acted"]
KINDS: tuple[Kind, ...] = ("opinion", "rating", "stated", "acted")

ALL_ORDERS = 4  # options, up to which all of their orders are asked
FEWEST_ORDERS = 10  # of more options


def option_orders(count: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """The orders in which options are shown: each option as often at one letter as at any other.

    All count! orders for up to four options; of more, at least ten: whole rounds of rotations of a
    drawn order.
    """
    if count <= ALL_ORDERS:
        return list(itertools.permutations(range(count)))
    found: list[tuple[int, ...]] = []
    for _ in range(math.ceil(FEWEST_ORDERS / count)):
        drawn: list[int] = rng.permutation(count).tolist()
        found += [tuple(drawn[start:] + drawn[:start]) for start in range(count)]
    return found


@functools.cache
def own_words() -> dict[str, Any]:
    """The questions' wordings and the questionnaire of `values.toml`."""
    text = files("trueup.audits.behaviour").joinpath("values.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def questionnaire() -> list[dict[str, Any]]:
    """The built-in rows: two ratings of each value, all pairs of values, ten scenes."""
    own = own_words()["questionnaire"]
    rows: list[dict[str, Any]] = [
        {
            "id": f"{value['name']}-{number}",
            "prompt": item,
            "options": own["scale"],
            "kind": "rating",
            "value": value["name"],
        }
        for value in own["values"]
        for number, item in enumerate(value["items"], start=1)
    ]
    for pair in itertools.combinations(own["values"], 2):
        topic = "/".join(sorted(value["name"] for value in pair))
        rows.append(
            {
                "id": f"stated {topic}",
                "prompt": own["stated"],
                "options": [value["phrase"] for value in pair],
                "kind": "stated",
                "values": [value["name"] for value in pair],
                "topic": topic,
            }
        )
    for scene in own["scenes"]:
        topic = "/".join(sorted(scene["values"]))
        rows.append({"id": f"acted {topic}", "kind": "acted", "topic": topic, **scene})
    return rows


def question_probes(
    row: Mapping[str, Any], number: int, place: str, drop: Sequence[str], needs_order: bool
) -> list[Probe]:
    """The probes of one row: one, or for opinions one per group.

    Fields: drop are options to leave out; needs_order refuses opinions without ordered options.
    Raises: UserError with the row's place where it does not hold what its kind needs.
    """
    kind = _kind(row, place)
    texts = _list(row, "options", place)
    kept = [line for line, text in enumerate(texts) if text not in drop]
    options = tuple(texts[line] for line in kept)
    if not 2 <= len(options) <= len(LETTERS) or len(set(options)) < len(options):
        raise UserError(
            f"{place}: 'options' must hold 2 to {len(LETTERS)} different texts, got {texts!r}"
        )
    key = text_of(row, "id", number)
    shared = {"kind": kind, "topic": text_of(row, "topic"), "value": "", "values": ()}
    probe = Probe(id=key, prompt=str(row["prompt"]), texts=options, labels=shared)
    if kind != "opinion":
        return [replace(probe, labels={**shared, **_tags(row, kind, len(texts), kept, place)})]
    if needs_order and text_of(row, "scale") != "ordinal":
        raise UserError(
            f"{place}: distance w1 needs ordered options; set the column 'scale' to ordinal, "
            f"got {row.get('scale')!r}, or choose distance=jsd"
        )
    return [
        replace(
            probe,
            id=f"{key}:{group}",
            group=group,
            cluster=key,
            labels={**shared, "shares": shares},
        )
        for group, shares in _distributions(row, len(texts), kept, place).items()
    ]


def _tags(
    row: Mapping[str, Any], kind: Kind, count: int, kept: Sequence[int], place: str
) -> dict[str, Any]:
    """The value that a rating rates, or those that the kept options stand for."""
    if kind == "rating":
        value = text_of(row, "value")
        if not value:
            raise UserError(f"{place}: a rating needs the column 'value', the value that it rates")
        return {"value": value}
    tagged = _list(row, "values", place)
    if len(tagged) != count:
        raise UserError(
            f"{place}: 'values' must name a value for each of {count} options, got {tagged!r}"
        )
    return {"values": tuple(tagged[line] for line in kept)}


def _kind(row: Mapping[str, Any], place: str) -> Kind:
    """The row's kind, or what its columns say."""
    default = "opinion" if row.get("distributions") is not None else "rating"
    kind = text_of(row, "kind", default if not row.get("values") else "stated")
    if kind not in KINDS:
        raise UserError(f"{place}: 'kind' must be one of {', '.join(KINDS)}, got {kind!r}")
    return kind


def _list(row: Mapping[str, Any], column: str, place: str) -> list[str]:
    """A list of texts: as such, as JSON, or joined by "|"."""
    value = row.get(column)
    if isinstance(value, str):
        value = _json(value, column, place) if value.lstrip()[:1] == "[" else value.split("|")
    if value is None or isinstance(value, Mapping) or not hasattr(value, "__iter__"):
        raise UserError(f"{place}: {column!r} must be a list of texts, got {value!r}")
    return [str(one).strip() for one in value]


def _distributions(
    row: Mapping[str, Any], count: int, kept: Sequence[int], place: str
) -> dict[str, list[float]]:
    """Each group's shares of the options that are kept, adding up to 1."""
    value = row.get("distributions")
    table = _json(value, "distributions", place) if isinstance(value, str) else value
    if not isinstance(table, Mapping) or not table:
        raise UserError(
            f"{place}: 'distributions' must map groups to a share per option, got {value!r}"
        )
    result = {}
    for group, shares in table.items():
        if shares is None:
            continue
        numbers = np.array(shares, dtype=np.float64)
        if numbers.shape != (count,) or not (numbers >= 0).all() or numbers[kept].sum() <= 0:
            raise UserError(
                f"{place}: the distribution of {group!r} must hold {count} shares of at least 0, "
                f"got {shares!r}"
            )
        result[str(group)] = (numbers[kept] / numbers[kept].sum()).tolist()
    return result


def _json(text: str, column: str, place: str) -> Any:
    """What a cell holds as JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{place}: {column!r} is not valid JSON, got {text!r:.60}") from error
