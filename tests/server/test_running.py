"""The verb in a process of its own: where it may listen, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from trueup.cli.serve import serve
from trueup.errors import UserError
from trueup.server.auth import is_loopback, token_for
from trueup.server.running import listening

pytestmark = pytest.mark.network


@contextmanager
def process(folder: Path, **options: object) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server and its base URL."""
    code = f"from trueup.cli.serve import serve; serve({str(folder)!r}, port=0, **{options!r})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = ""
        while server.poll() is None and " at http" not in line:
            line = server.stderr.readline()
        found = re.search(r"http://\S+/v1", line)
        assert found is not None, line + server.stderr.read()
        yield server, found[0]
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_after_what_runs(own_folder: Path, ending: signal.Signals):
    with process(own_folder) as (server, base):
        asked = {"model": "tiny", "prompt": "a", "max_tokens": 200, "n": 8, "stream": True}
        with httpx2.stream("POST", f"{base}/completions", json=asked, timeout=60) as reply:
            lines = reply.iter_lines()
            next(lines)
            server.send_signal(ending)
            rest = list(lines)
        assert "data: [DONE]" in rest
        ends = [json.loads(line[6:])["choices"][0] for line in rest if line.startswith("data: {")]
        assert sum(one["finish_reason"] is not None for one in ends) == 8
        assert server.wait(20) == 0
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{base}/models")


def test_a_taken_port_is_one_line():
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        wanted = rf"--host 127\.0\.0\.1 --port {port}: Address already in use; choose another"
        with pytest.raises(UserError, match=wanted), listening("127.0.0.1", port):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "example.org", "::", ""])
def test_a_host_that_others_reach_needs_a_token(host: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TRUEUP_SERVE_TOKEN", raising=False)
    assert not is_loopback(host)
    with pytest.raises(UserError, match="needs a token; set TRUEUP_SERVE_TOKEN"):
        token_for(host, "TRUEUP_SERVE_TOKEN")
    monkeypatch.setenv("TRUEUP_SERVE_TOKEN", "a-token-of-some-length")
    assert token_for(host, "TRUEUP_SERVE_TOKEN") == "a-token-of-some-length"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_loopback_needs_none(host: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TRUEUP_SERVE_TOKEN", raising=False)
    assert token_for(host, "TRUEUP_SERVE_TOKEN") is None


@pytest.mark.parametrize(("token", "told"), [("short", "has 5 characters"), ("a b" * 9, "holds")])
def test_a_token_that_keeps_nobody_out_is_refused(
    token: str, told: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TOKEN", token)
    with pytest.raises(UserError, match=told) as caught:
        token_for("127.0.0.1", "TOKEN")
    assert token not in str(caught.value)


def test_wrong_words_are_one_line_before_a_model_is_loaded():
    with pytest.raises(UserError, match="no MODEL; give a folder or a hub id"):
        serve()
    with pytest.raises(UserError, match="no decoder 'sampl'; did you mean 'sample'"):
        serve("nowhere", decoder="sampl")
    with pytest.raises(UserError, match="not both, got 'nowhere'"):
        serve("nowhere", upstream="http://localhost:9/v1#a")
    with pytest.raises(UserError, match="max_rows must be at least 1, got 0"):
        serve("nowhere", max_rows=0)
