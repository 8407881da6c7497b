"""One spelling per content: rows as canonical JSON for hashes, values as short text for errors."""

import datetime
import decimal
import json
import uuid
from collections.abc import Mapping
from typing import Any


def canonical(row: Mapping[str, Any]) -> bytes:
    """The row as JSON in UTF-8 with sorted keys, the same for equal content.

    Raises: ValueError, TypeError or RecursionError where the content has no such spelling: a lone
            surrogate, an object that is no data, a list that holds itself.
    """
    text = json.dumps(
        row, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_as_data
    )
    return text.encode()


def _as_data(value: Any) -> Any:
    """What JSON has no word for, as something that it has."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(
        value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal | uuid.UUID
    ):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return value.tolist()
    raise TypeError(f"holds a {type(value).__name__}, which is no plain data")


def shown(value: object, limit: int = 60) -> str:
    """The value for an error message: its repr on one line, cut at `limit` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of 5,000 digits, a list a thousand deep
        return f"a {type(value).__name__}"
    return _cut(text, limit)


def one_line(text: str, limit: int = 200) -> str:
    """A stranger's message on one line, cut at `limit` characters."""
    return _cut(" ".join(text[: 4 * limit].split()), limit)


def escaped(text: str) -> str:
    """The text with every unprintable character spelled out, so that it stays on one line."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _cut(text: str, limit: int) -> str:
    line = escaped(text[: limit + 1])
    return line if len(line) <= limit else line[: limit - 3] + "..."
