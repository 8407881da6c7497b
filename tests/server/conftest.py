"""Servers in this process on a free port, around tiny models."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import uvicorn

from tests.tiny_models import make_tiny
from trueup.models import LanguageModel, load
from trueup.server.app import make_app
from trueup.server.limits import Limits
from trueup.server.running import listening, url_of
from trueup.server.service import Service, local_service


@contextlib.contextmanager
def served(service: Service, *, token: str | None = None) -> Iterator[str]:
    """The base URL of a running server, which ends gracefully behind the block."""
    with listening("127.0.0.1", 0) as listener:
        config = uvicorn.Config(
            make_app(service, token=token), log_config=None, access_log=False, ws="none"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join()


def until(holds, seconds: float = 20.0) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.01)
    return False


def metric(base: str, line: str) -> float:
    """The value of one line of /metrics."""
    text = httpx2.get(base.removesuffix("/v1") + "/metrics").text
    found = [row.rpartition(" ")[2] for row in text.splitlines() if row.startswith(f"{line} ")]
    return float(found[0]) if found else 0.0


@pytest.fixture(scope="session")
def lm64(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A tiny model in float64, so that what else is in a batch cannot change a sample."""
    folder = make_tiny("llama", tmp_path_factory.mktemp("server") / "llama")
    return load(folder, dtype="float64", device="cpu")


@pytest.fixture(scope="session")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("own") / "tiny")


@pytest.fixture(scope="module")
def base(lm64: LanguageModel) -> Iterator[str]:
    """The URL of a server that samples, with limits that a test can reach."""
    limits = Limits(max_body_bytes=20_000, max_new_tokens=200, default_new_tokens=100)
    with served(local_service(lm64, name="tiny", limits=limits)) as url:
        yield url
