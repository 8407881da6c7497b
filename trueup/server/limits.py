"""What a request may ask for and how long it may take."""

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trueup.errors import check_at_least, check_between, check_positive
from trueup.server.failures import ServerFailure


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The server's bounds; whoever passes one gets a status of the protocol and a reason.

    Fields: max_body_bytes and body_seconds bound the request's body (413, 408); max_new_tokens one
            choice and max_choices one request (400); default_new_tokens is what a chat gets that
            names no number; max_rows the choices that decode together, max_batch_tokens these
            times the longest of them, which bounds the cache; max_waiting the queue (429);
            max_seconds a request from its coming to its end (503).
    """

    max_body_bytes: int = 4 * 2**20
    body_seconds: float = 30.0
    max_new_tokens: int = 4096
    default_new_tokens: int = 1024
    max_choices: int = 64
    max_rows: int = 256
    max_batch_tokens: int = 2**17
    max_waiting: int = 512
    max_seconds: float = 600.0

    def __post_init__(self) -> None:
        check_positive(body_seconds=self.body_seconds, max_seconds=self.max_seconds)
        check_at_least(
            1,
            max_body_bytes=self.max_body_bytes,
            max_new_tokens=self.max_new_tokens,
            max_rows=self.max_rows,
            max_batch_tokens=self.max_batch_tokens,
            max_waiting=self.max_waiting,
        )
        check_between(1, self.max_rows, max_choices=self.max_choices)
        check_between(1, self.max_new_tokens, default_new_tokens=self.default_new_tokens)


class BodyLimit:
    """Refuses a body that is too large, before it is read whole, or too slow."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then hand it on as one message."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                first = await self._body(dict(scope["headers"]), receive)
        except TimeoutError:
            slow = f"the request's body did not come within {self.limits.body_seconds:g} s"
            await _closing(ServerFailure(408, slow)).reply()(scope, receive, send)
            return
        except ServerFailure as failure:
            await failure.reply()(scope, receive, send)
            return
        await self.app(scope, _again(first, receive), send)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> Message:
        """The whole body, or the news that the client has gone."""
        announced = headers.get(b"content-length", b"")
        if announced.isdigit():
            self._check(int(announced))
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return message
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            self._check(size)
            if not message.get("more_body"):
                return {"type": "http.request", "body": b"".join(parts), "more_body": False}

    def _check(self, size: int) -> None:
        most = self.limits.max_body_bytes
        if size > most:
            message = f"the request's body has {size} bytes or more, but at most {most} are read"
            raise _closing(ServerFailure(413, message, code="body_too_large"))


def _closing(failure: ServerFailure) -> ServerFailure:
    """The failure with the word that ends the connection, since the body was not read."""
    failure.headers["Connection"] = "close"
    return failure


def _again(first: Message, receive: Receive) -> Receive:
    """A `receive` that gives this message, then whatever comes."""
    pending = [first]

    async def received() -> Message:
        return pending.pop() if pending else await receive()

    return received
