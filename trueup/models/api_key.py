"""The key of an endpoint: read from the environment for each request, shown and kept nowhere."""

import os
import re
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import httpx2

from trueup.errors import UserError

if TYPE_CHECKING:
    from httpx2 import Request, Response

# Local servers take words such as EMPTY for a key; only something longer is looked for in texts.
_SHORTEST_SECRET = 12
_KEY_LIKE = re.compile(r"\b(?:sk|pk|key)-[\w*.-]{4,}")
_GONE = "[key]"


class ApiKey(httpx2.Auth):
    """Puts the key into each request's header; the object holds the variable's name alone."""

    def __init__(self, variable: str) -> None:
        self.variable = variable

    def auth_flow(self, request: "Request") -> "Generator[Request, Response, None]":
        """Send the key where the environment has one."""
        if self.is_set():
            request.headers["Authorization"] = f"Bearer {self._value()}"
        yield request

    def is_set(self) -> bool:
        """Whether the environment holds a key."""
        return bool(self._value())

    def check(self) -> None:
        """Raise UserError where the key could not be sent, without showing it."""
        value = self._value()
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise UserError(f"${self.variable} holds characters that no key has; set it again")

    def removed_from(self, value: Any) -> Any:
        """The value with the key taken out of every text in it, should a server send it back."""
        secret = self._value()
        return _without(value, secret) if len(secret) >= _SHORTEST_SECRET else value

    def _value(self) -> str:
        return os.environ.get(self.variable, "").strip() if self.variable else ""


def without_keys(text: str) -> str:
    """A server's message without anything that looks like a key, whole or starred out."""
    return _KEY_LIKE.sub(_GONE, text)


def _without(value: Any, secret: str) -> Any:
    if isinstance(value, str):
        return value.replace(secret, _GONE)
    if isinstance(value, dict):
        return {_without(name, secret): _without(item, secret) for name, item in value.items()}
    if isinstance(value, list):
        return [_without(item, secret) for item in value]
    return value
