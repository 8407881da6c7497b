"""The server's life: a socket, uvicorn on it, and an end that finishes what runs."""

import contextlib
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from trueup.errors import TrueupError, UserError
from trueup.server.app import make_app
from trueup.server.auth import is_loopback
from trueup.server.service import Service

_SLACK_SECONDS = 5  # beside the longest request, before a shutdown gives up on it


def serve(
    service: Service,
    *,
    host: str,
    port: int,
    token: str | None,
    announce: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests that are there.

    Fields: port 0 is any that is free; announce gets the server's URL once clients can connect.
    Raises: UserError where the place is taken, or cannot be had.
    """
    if token is None and not is_loopback(host):
        raise UserError(f"--host {host}: other machines can reach it, so it needs a token")
    with listening(host, port) as listener:
        config = uvicorn.Config(
            make_app(service, token=token),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=math.ceil(service.limits.max_seconds) + _SLACK_SECONDS,
        )
        server = uvicorn.Server(config)
        announce(url_of(listener))
        with _signals_end_quietly():
            server.run(sockets=[listener])
        if not server.started:
            raise TrueupError("the server could not start; the log says why")


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that already listens, so that no client comes too early."""
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:
        listener = socket.create_server((name, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        what = os.strerror(number) if number else error
        raise UserError(f"--host {host} --port {port}: {what}; choose another") from error
    with listener:
        yield listener


def url_of(listener: socket.socket) -> str:
    """What clients take as the base URL."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


@contextlib.contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Uvicorn repeats the signal that ended it; by then all is done, so it means nothing."""
    kept = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, kept)
