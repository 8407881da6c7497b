"""Who may ask: everybody on this machine, and from elsewhere whoever holds the token."""

import hmac
import ipaddress
import os

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from trueup.errors import UserError
from trueup.server.failures import ServerFailure

OPEN_PATHS = ("/health",)  # what a load balancer asks, without a token
_SHORTEST_TOKEN = 16


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def token_for(host: str, variable: str) -> str | None:
    """The token of the environment variable; None where it is unset and loopback needs none.

    Raises: UserError where other machines could reach the server and there is no token, or it is
            too short to keep anyone out, or no header can carry it.
    """
    token = os.environ.get(variable, "").strip()
    if not token:
        if is_loopback(host):
            return None
        raise UserError(
            f"--host {host}: other machines can reach it, so it needs a token; "
            f"set {variable} to one, or serve on 127.0.0.1"
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UserError(f"${variable} holds characters that no token has; set it again")
    if len(token) < _SHORTEST_TOKEN:
        raise UserError(
            f"${variable} has {len(token)} characters; a token needs at least {_SHORTEST_TOKEN}"
        )
    return token


class Gate:
    """Lets in requests that carry the token, or, where there is none, those to a loopback name.

    The name is checked because a web page elsewhere can make a browser on this machine ask, under
    a name of its own that leads here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            failure = self._refusal(Headers(scope=scope))
            if failure is not None:
                await failure.reply()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, headers: Headers) -> ServerFailure | None:
        if self.token is None:
            return None if is_loopback(_name(headers.get("host", ""))) else _foreign_host()
        scheme, _, given = headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), self.token.encode())
        return None if scheme.lower() == "bearer" and is_right else _wrong_token()


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0]
    return host.partition(":")[0]


def _wrong_token() -> ServerFailure:
    return ServerFailure(
        401,
        "the token is missing or wrong; send Authorization: Bearer TOKEN",
        kind="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _foreign_host() -> ServerFailure:
    return ServerFailure(
        403,
        "the Host header names another machine, and this server has no token; "
        "ask for 127.0.0.1 or localhost",
        kind="permission_error",
    )
