"""A job's pieces on their way to its client, who may be slow, late or gone."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from trueup.server.failures import ServerFailure, took_too_long
from trueup.server.forms import Form
from trueup.server.jobs import Job, Piece, Told
from trueup.server.service import Service

Result = TypeVar("Result")

CLIENT_GONE = 499  # nobody reads it; the metrics count it
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def answered(
    request: Request,
    service: Service,
    job: Job,
    form: Form,
    *,
    prompt_tokens: int | None,
    tells_usage: bool = False,
) -> Response:
    """The reply of a job, whole or as a stream.

    A stream's reply begins with its first piece, so that what goes wrong before has its status.
    """
    delivery = Delivery(service, job, prompt_tokens)
    batches = delivery.batches()
    if not job.is_streamed:
        choices = await _unless_gone(request, _collected(batches))
        if choices is None:
            return Response(status_code=CLIENT_GONE)
        return JSONResponse(form.whole(choices, delivery.usage()))
    first = await _unless_gone(request, _first(batches))
    if first is None:
        return Response(status_code=CLIENT_GONE)
    events = _events(first, batches, form, delivery, tells_usage)
    return StreamingResponse(events, media_type="text/event-stream", headers=_STREAM_HEADERS)


class Delivery:
    """The pieces of one job, from the engine's thread to the loop."""

    def __init__(self, service: Service, job: Job, prompt_tokens: int | None) -> None:
        self._service = service
        self._job = job
        self._prompt_tokens = prompt_tokens
        self._completion_tokens = 0
        self._news: asyncio.Queue[Told] = asyncio.Queue()

    async def batches(self) -> AsyncGenerator[list[Piece], None]:
        """All pieces that are there, as often as there are new ones, until the last has come.

        However it ends, the job's place is free afterwards.
        Raises: ServerFailure where the engine fails, refuses, or the time is up.
        """
        job, service = self._job, self._service
        started = time.monotonic()
        deadline = started + service.limits.max_seconds
        job.tell = self._news.put_nowait
        open_choices = job.n_choices
        service.engine.submit(job)
        try:
            while open_choices:
                first = await self._next(deadline)
                if open_choices == job.n_choices and not self._completion_tokens:
                    service.metrics.observe("first_piece_seconds", time.monotonic() - started)
                pieces = self._ready(first)
                open_choices -= sum(piece.reason is not None for piece in pieces)
                yield pieces
        finally:
            if open_choices:
                service.engine.cancel(job)
            service.metrics.count("prompt_tokens_total", self._prompt_tokens or 0)
            service.metrics.count("completion_tokens_total", self._completion_tokens)

    def usage(self) -> dict[str, int] | None:
        """The tokens so far, None where nobody counts them."""
        if self._prompt_tokens is None:
            return None
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._prompt_tokens + self._completion_tokens,
        }

    async def _next(self, deadline: float) -> Told:
        """The next news; raises ServerFailure where none comes in time."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._news.get()
        except TimeoutError:
            raise took_too_long(self._service.limits.max_seconds) from None

    def _ready(self, first: Told) -> list[Piece]:
        """This piece and those behind it; raises the failure among them."""
        told = [first]
        while not self._news.empty():
            told.append(self._news.get_nowait())
        for news in told:
            if isinstance(news, ServerFailure):
                raise news
        pieces = [news for news in told if isinstance(news, Piece)]
        self._completion_tokens += sum(piece.n_tokens for piece in pieces)
        return pieces


async def _collected(batches: AsyncIterator[list[Piece]]) -> list[Piece]:
    """The choices of a job that is not streamed, in their order."""
    pieces = [piece async for batch in batches for piece in batch]
    return sorted(pieces, key=lambda piece: piece.choice)


async def _first(batches: AsyncIterator[list[Piece]]) -> list[Piece]:
    return await anext(batches)


async def _events(
    first: list[Piece],
    batches: AsyncGenerator[list[Piece], None],
    form: Form,
    delivery: Delivery,
    tells_usage: bool,
) -> AsyncIterator[bytes]:
    """The stream's lines; a failure in its middle is an event of its own and the last one."""
    try:
        yield _lines(form, first)
        async for pieces in batches:
            yield _lines(form, pieces)
        usage = delivery.usage()
        if tells_usage and usage is not None:
            yield _event(form.last(usage))
        yield b"data: [DONE]\n\n"
    except ServerFailure as failure:
        yield _event(failure.body())
    finally:
        await batches.aclose()


def _lines(form: Form, pieces: list[Piece]) -> bytes:
    return b"".join(_event(chunk) for chunk in form.chunks(pieces))


def _event(content: dict[str, Any]) -> bytes:
    """One event; all but ASCII is spelled out, since clients may split lines at U+2028 too."""
    return f"data: {json.dumps(content, allow_nan=False)}\n\n".encode()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The work's result, or None where the client goes first; the work is then cancelled."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_goes(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _goes(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
