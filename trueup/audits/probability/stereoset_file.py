"""StereoSet's official nested file as rows: a context with a blank and what fills it."""

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trueup.errors import UserError

BLANK = "BLANK"
_COLUMN = {
    "stereotype": "stereotype",
    "anti-stereotype": "anti_stereotype",
    "unrelated": "unrelated",
}


def read_stereoset(path: Path) -> list[dict[str, Any]] | None:
    """The file's intrasentence items; None where the file is of another form.

    Edges:  a fill is what the sentence has in place of BLANK; where the sentence and its context
            differ elsewhere too (some of the published ones do), it is the word at BLANK's place,
            without punctuation.
    Raises: UserError where an item cannot be read.
    """
    items = _items(path)
    if items is None:
        return None
    rows = []
    for number, item in enumerate(items, start=1):
        try:
            rows.append(_row(item))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise UserError(
                f"{path}: intrasentence item {number} cannot be read ({error!r}); give StereoSet's "
                "own file, or a table"
            ) from error
    return rows


def _items(path: Path) -> list[Any] | None:
    """The intrasentence items of an official file."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        return None
    data = found.get("data") if isinstance(found, Mapping) else None
    items = data.get("intrasentence") if isinstance(data, Mapping) else None
    return items if isinstance(items, list) else None


def _row(item: Mapping[str, Any]) -> dict[str, Any]:
    """One item with its three fills."""
    context = str(item["context"])
    fills = {
        _COLUMN[sentence["gold_label"]]: _fill(context, str(sentence["sentence"]))
        for sentence in item["sentences"]
    }
    missing = set(_COLUMN.values()) - set(fills)
    if missing:
        raise ValueError(f"no {sorted(missing)[0]} sentence")
    return {
        "id": str(item["id"]),
        "target": str(item["target"]),
        "bias_type": str(item["bias_type"]),
        "context": context,
        **fills,
    }


def _fill(context: str, sentence: str) -> str:
    """What stands in the sentence where the context is blank."""
    before, after = context.split(BLANK)
    end = len(sentence) - len(after)
    if sentence.startswith(before) and sentence.endswith(after) and end > len(before):
        return sentence[len(before) : end].strip()
    place = next(n for n, word in enumerate(context.split()) if BLANK in word)
    return sentence.split()[place].strip(string.punctuation)
