"""Requests that get no answer, in the protocol's error form."""

from typing import Any

from fastapi.responses import JSONResponse


class ServerFailure(Exception):
    """Why a request gets no answer: an HTTP status and the protocol's words for it.

    Fields: kind is the protocol's `type`; code names the reason to programs, param the field of
            the request; headers go with the reply.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The failure as the protocol has it."""
        told = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": told}

    def reply(self) -> JSONResponse:
        """The failure as an HTTP reply."""
        return JSONResponse(self.body(), self.status, headers=self.headers)


def queue_is_full(waiting: int) -> ServerFailure:
    """The refusal of a request that finds no place in the queue."""
    return ServerFailure(
        429,
        f"{waiting} requests are waiting already; try again later",
        kind="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": "1"},
    )


def took_too_long(seconds: float) -> ServerFailure:
    """The end of a request whose time is up."""
    return ServerFailure(
        503,
        f"the request took longer than {seconds:g} s; ask for fewer tokens, or try again later",
        kind="server_error",
        code="timeout",
        headers={"Retry-After": "1"},
    )


def is_closing() -> ServerFailure:
    """The refusal of a request that comes while the server finishes its last ones."""
    return ServerFailure(
        503, "the server is shutting down", kind="server_error", headers={"Retry-After": "5"}
    )


def is_broken() -> ServerFailure:
    """The end of a request that met an error of ours; the log has what it was."""
    return ServerFailure(500, "the server failed on this request", kind="server_error")
