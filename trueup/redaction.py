"""Secrets stay out of everything that is written: keys, tokens and passwords become `***`."""

import os
import re
from collections.abc import Mapping
from typing import Any

from trueup.files import plain

REDACTED = "***"
SECRET_NAME = re.compile(
    r"(?:^|[^a-z])(?:api_?key|key|token|auth(?:orization)?|cookie|bearer)$"
    r"|apikey|access_?key|secret|passw(?:or)?d|passphrase|credential",
    re.IGNORECASE,
)
SECRET_SHAPES = (  # the named group is what stays
    re.compile(r"(?P<kept>://)[^/@\s]+(?=@)"),  # https://user:password@host
    re.compile(r"(?P<kept>\bBearer\s+)\S+", re.IGNORECASE),
    re.compile(r"(?P<kept>(?:key|token|secret|password)=)[^&#\s]+", re.IGNORECASE),
    re.compile(r"(?P<kept>)\b(?:sk-[\w-]{16,}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,})"),
)
SHORTEST_INSIDE = 8  # a shorter secret is only looked for as a whole value, not inside others


def redacted(value: Any) -> Any:
    """The value, as JSON can hold it, with every secret in it replaced by `***`.

    A text is a secret where its key is named like one (`api_key`, `hf_token`, `password`), where it
    is the value of an environment variable named like one, or where it is shaped like one.
    Numbers stay: `token_budget=8192` is a setting. What JSON does not know becomes its text.
    """
    return _redacted(plain(value), _environment_secrets())


def _environment_secrets() -> list[str]:
    """The values of all environment variables that are named like a secret, the longest first."""
    found = {value for name, value in os.environ.items() if value and SECRET_NAME.search(name)}
    return sorted(found, key=lambda value: (-len(value), value))


def _redacted(value: Any, secrets: list[str]) -> Any:
    """The same shape, with its texts cleaned."""
    if isinstance(value, Mapping):
        return {
            _cleaned(key, secrets): REDACTED
            if SECRET_NAME.search(key) and isinstance(item, str) and item
            else _redacted(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_redacted(item, secrets) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _cleaned(str(value), secrets)


def _cleaned(text: str, secrets: list[str]) -> str:
    """The text without secrets of the environment and without what is shaped like one."""
    for secret in secrets:
        if text == secret:
            return REDACTED
        if len(secret) >= SHORTEST_INSIDE:
            text = text.replace(secret, REDACTED)
    for shape in SECRET_SHAPES:
        text = shape.sub(rf"\g<kept>{REDACTED}", text)
    return text
