"""The HTTP application: routes, errors in the protocol's form, and the layers around them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import trueup
from trueup.data.canonical import escaped, shown
from trueup.server.auth import Gate
from trueup.server.delivery import answered
from trueup.server.failures import ServerFailure, is_broken
from trueup.server.forms import ChatForm, TextForm
from trueup.server.jobs import deliver_here
from trueup.server.limits import BodyLimit
from trueup.server.metrics import CONTENT_TYPE, Watch
from trueup.server.protocol import (
    ChatReply,
    ChatRequest,
    CompletionReply,
    CompletionRequest,
    ErrorReply,
    Health,
    ModelCard,
    ModelList,
)
from trueup.server.service import Service

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request is refused."},
    "5XX": {"model": ErrorReply, "description": "The server gives no answer."},
}
_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


def make_app(service: Service, *, token: str | None = None) -> ASGIApp:
    """The whole server but its socket.

    Fields: token is what clients must send; None serves whoever asks under a loopback name.
    """
    app = FastAPI(
        title="trueup serve",
        version=trueup.__version__,
        lifespan=_running(service),
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
    )
    _add_chat(app, service)
    _add_completions(app, service)
    _add_readings(app, service)
    _add_errors(app)
    paths = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/models", "/metrics"})
    limited = BodyLimit(app, service.limits)
    return Watch(Gate(limited, token), service.metrics, paths | {"/health"})


def _running(service: Service) -> Any:
    """The engine's life around the application's."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        service.engine.start(lambda told: _handed(loop, told))
        try:
            yield
        finally:
            await asyncio.to_thread(service.engine.close)

    return lifespan


def _handed(loop: asyncio.AbstractEventLoop, told: Any) -> None:
    """Hand an engine's news to the loop, all of one step at once."""
    if told:
        loop.call_soon_threadsafe(deliver_here, told)


def _add_chat(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", response_model=ChatReply, responses=_STREAMED)
    async def chat(request: Request, asked: ChatRequest) -> Response:
        """Answer a conversation."""
        job, prompt_tokens = await asyncio.to_thread(service.chat_job, asked)
        return await answered(
            request,
            service,
            job,
            ChatForm(service.name, service.fingerprint),
            prompt_tokens=prompt_tokens,
            tells_usage=asked.tells_usage,
        )


def _add_completions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", response_model=CompletionReply, responses=_STREAMED)
    async def complete(request: Request, asked: CompletionRequest) -> Response:
        """Go on with a text."""
        job, prompt_tokens = await asyncio.to_thread(service.completion_job, asked)
        return await answered(
            request,
            service,
            job,
            TextForm(service.name, service.fingerprint),
            prompt_tokens=prompt_tokens,
            tells_usage=asked.tells_usage,
        )


def _add_readings(app: FastAPI, service: Service) -> None:
    """The routes that only tell."""

    @app.get("/v1/models")
    async def models() -> ModelList:
        """The one model."""
        return ModelList(object="list", data=[_card(service)])

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> ModelCard:
        """The model, by its name."""
        service.check_name(model)
        return _card(service)

    @app.get("/health")
    async def health() -> Health:
        """Whether the server takes requests."""
        return Health(status="ok")

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        text = service.metrics.text(service.engine.numbers())
        return Response(text, media_type=CONTENT_TYPE)


def _card(service: Service) -> ModelCard:
    return ModelCard(id=service.name, object="model", created=service.started, owned_by="trueup")


def _add_errors(app: FastAPI) -> None:
    """Every failure in the protocol's form."""

    @app.exception_handler(ServerFailure)
    async def failed(_: Request, failure: ServerFailure) -> Response:
        return failure.reply()

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> Response:
        return _validation(error).reply()

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        return ServerFailure(error.status_code, str(error.detail), headers=headers).reply()

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> Response:
        return is_broken().reply()


def _validation(error: RequestValidationError) -> ServerFailure:
    """The first thing that is wrong with a body, with its place and its value."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ServerFailure(400, "the request's body is no JSON", code="invalid_json")
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    got = "" if first["type"] == "missing" else f", got {shown(first.get('input'))}"
    message = escaped(f"{place or 'the body'}: {first['msg'].lower()}{got}")
    return ServerFailure(400, message, code="invalid_value", param=escaped(place) or None)
