"""What curl could send: bytes that are no request, and clients that are slow, late or gone."""

import json
import socket
import time
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.server.conftest import metric, served, until
from trueup.models import LanguageModel
from trueup.server.batching import ContinuousBatch
from trueup.server.delivery import _event
from trueup.server.limits import Limits
from trueup.server.protocol import ChatReply, CompletionReply, ErrorReply
from trueup.server.service import local_service

pytestmark = pytest.mark.network

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 3}
TEXT = {"model": "tiny", "prompt": "a", "max_tokens": 3}


def error_of(reply: httpx2.Response, status: int) -> dict:
    """The error of a refusal, which has the protocol's form and nothing beside it."""
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"error"}
    ErrorReply.model_validate(reply.json(), extra="forbid")
    return reply.json()["error"]


def test_replies_have_the_form_that_the_schema_tells(base: str):
    chat = httpx2.post(f"{base}/chat/completions", json={**CHAT, "logprobs": True})
    ChatReply.model_validate(chat.json(), extra="forbid")
    text = httpx2.post(f"{base}/completions", json={**TEXT, "logprobs": 3})
    CompletionReply.model_validate(text.json(), extra="forbid")


def test_a_stream_is_lines_of_data_and_ends_with_done(base: str):
    reply = httpx2.post(f"{base}/chat/completions", json={**CHAT, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = reply.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")


def test_a_line_separator_in_the_text_breaks_no_event():
    assert len(_event({"text": "a\u2028b\x85c\nd"}).decode().splitlines()) == 2


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 5000, b'{"model": NaN}', b"9" * 5000]
)
def test_what_is_no_request_is_a_bad_one(base: str, body: bytes):
    headers = {"Content-Type": "application/json"}
    error_of(httpx2.post(f"{base}/chat/completions", content=body, headers=headers), 400)


def test_a_form_is_no_json(base: str):
    """A web page elsewhere can send a form without asking; so only JSON is read."""
    headers = {"Content-Type": "text/plain"}
    reply = httpx2.post(f"{base}/chat/completions", content=json.dumps(CHAT), headers=headers)
    error_of(reply, 400)


@pytest.mark.parametrize("word", ['"a"', '"tiny"', '"user"'])
def test_a_lone_surrogate_is_refused(base: str, word: str):
    body = json.dumps(CHAT).replace(word, '"\\ud800"')
    headers = {"Content-Type": "application/json"}
    error_of(httpx2.post(f"{base}/chat/completions", content=body, headers=headers), 400)


def test_a_token_id_beyond_the_vocabulary_is_refused(base: str):
    error = error_of(httpx2.post(f"{base}/completions", json={**TEXT, "prompt": [1, 260]}), 400)
    assert "a token id must be below 260, got 260" in error["message"]


def test_unknown_paths_and_methods_have_the_form_too(base: str):
    error_of(httpx2.get(f"{base}/nothing"), 404)
    refused = httpx2.get(f"{base}/chat/completions")
    error_of(refused, 405)
    assert refused.headers["allow"] == "POST"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(base: str):
    reply = httpx2.post(f"{base}/completions", json={**TEXT, "prompt": "a" * 30_000})
    assert "at most 20000 are read" in error_of(reply, 413)["message"]


def test_a_large_body_without_a_length_is_refused(base: str):
    parts = (b"a" * 1000 for _ in range(100))
    error_of(httpx2.post(f"{base}/completions", content=parts), 413)


def test_a_host_elsewhere_is_refused(base: str):
    """DNS rebinding: a page of evil.example asks this machine under its own name."""
    headers = {"Host": "evil.example"}
    error_of(httpx2.post(f"{base}/completions", json=TEXT, headers=headers), 403)
    assert httpx2.get(base.replace("/v1", "/health"), headers=headers).status_code == 200


@pytest.mark.parametrize("sent", ["", "Bearer", "Bearer wrong", "Basic {}", "Bearer {}x", "{}"])
def test_without_the_token_nothing_is_told(lm64: LanguageModel, sent: str):
    token = "a-token-of-some-length"
    with served(local_service(lm64, name="tiny"), token=token) as base:
        headers = {"Authorization": sent.format(token)}
        for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/nothing"):
            reply = httpx2.get(base.removesuffix("/v1") + path, headers=headers)
            assert error_of(reply, 401)["code"] == "invalid_api_key"
        right = {"Authorization": f"bearer {token}", "Host": "any.example"}
        assert httpx2.get(f"{base}/models", headers=right).status_code == 200


def test_metrics_count_requests_tokens_and_work(lm64: LanguageModel):
    lm64.work.reset()
    with served(local_service(lm64, name="tiny")) as base:
        httpx2.post(f"{base}/completions", json={**TEXT, "seed": 1})
        httpx2.post(f"{base}/completions", json={"model": "other"})
        path = 'path="/v1/completions"'
        assert metric(base, f'trueup_requests_total{{{path},status="200"}}') == 1
        assert metric(base, f'trueup_requests_total{{{path},status="400"}}') == 1
        prompt = len(lm64.encoder.prompt("a"))
        assert metric(base, "trueup_prompt_tokens_total") == prompt
        assert metric(base, "trueup_completion_tokens_total") == 3
        assert metric(base, "trueup_trunk_tokens_total") == prompt + 2
        assert metric(base, "trueup_request_seconds_count") == 2


def test_every_line_of_the_metrics_is_prometheus_text(base: str):
    text = httpx2.get(base.replace("/v1", "/metrics")).text
    for line in text.splitlines():
        if not line.startswith("# "):
            name, _, value = line.rpartition(" ")
            float(value)
            assert name.startswith("trueup_")


@pytest.fixture
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch whose steps take 10 ms at least, so that 200 tokens last for two seconds."""
    step = ContinuousBatch.step

    def slow(batch: ContinuousBatch) -> None:
        time.sleep(0.01)
        step(batch)

    monkeypatch.setattr(ContinuousBatch, "step", slow)


unhurried = pytest.mark.usefixtures("_unhurried")


def open_stream(base: str, **settings) -> tuple[socket.socket, bytes]:
    """A connection that has asked for a stream and read a little of it."""
    body = json.dumps({**TEXT, "stream": True, **settings}).encode()
    place = urlsplit(base)
    connection = socket.create_connection((place.hostname, place.port), timeout=20)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    return connection, connection.recv(200)


@unhurried
def test_a_client_that_goes_frees_its_rows(lm64: LanguageModel):
    limits = Limits(max_rows=4, max_choices=4)
    with served(local_service(lm64, name="tiny", limits=limits)) as base:
        connection, first = open_stream(base, n=4, max_tokens=240)
        assert b"200 OK" in first
        assert 1 <= metric(base, "trueup_running_rows") <= 4  # a row may have ended by itself
        connection.close()
        assert until(lambda: metric(base, "trueup_running_rows") == 0)
        written = metric(base, "trueup_completion_tokens_total")
        assert written < 4 * 240  # it did not run to its end
        assert httpx2.post(f"{base}/completions", json={**TEXT, "n": 4}).status_code == 200


@unhurried
def test_a_client_that_goes_before_its_whole_reply_frees_its_rows(lm64: LanguageModel):
    service = local_service(lm64, name="tiny")
    with served(service) as base:
        asked = {**TEXT, "n": 8, "max_tokens": 250}
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{base}/completions", json=asked, timeout=0.15)
        assert until(lambda: metric(base, "trueup_running_rows") == 0)
        gone = 'trueup_requests_total{path="/v1/completions",status="499"}'
        assert until(lambda: metric(base, gone) == 1)


class Slow:
    """A service whose engine takes jobs and never answers."""

    def start(self, deliver) -> None:
        self.jobs: list = []

    def submit(self, job) -> None:
        self.jobs.append(job)

    def cancel(self, job) -> None:
        self.jobs.remove(job)

    def close(self) -> None:
        pass

    def numbers(self) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_whose_time_is_up_is_told_so(lm64: LanguageModel, stream: bool):
    limits = Limits(max_seconds=0.2)
    service = local_service(lm64, name="tiny", limits=limits)
    object.__setattr__(service, "engine", Slow())
    with served(service) as base:
        reply = httpx2.post(f"{base}/completions", json={**TEXT, "stream": stream})
        assert error_of(reply, 503)["code"] == "timeout"
        assert reply.headers["retry-after"] == "1"
        assert service.engine.jobs == []


@unhurried
def test_a_stream_whose_time_is_up_ends_with_the_error(lm64: LanguageModel):
    limits = Limits(max_seconds=0.3)
    with served(local_service(lm64, name="tiny", limits=limits)) as base:
        asked = {**TEXT, "stream": True, "n": 64, "max_tokens": 240}
        events = httpx2.post(f"{base}/completions", json=asked).text.split("\n\n")
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "timeout"
        assert "data: [DONE]" not in events


@unhurried
def test_a_full_queue_is_too_many_requests(lm64: LanguageModel):
    limits = Limits(max_rows=1, max_choices=1, max_waiting=1)
    with served(local_service(lm64, name="tiny", limits=limits)) as base:
        running, _ = open_stream(base, max_tokens=240)
        waiting, _ = open_late(base)
        assert until(lambda: metric(base, "trueup_waiting_jobs") == 1)
        error = error_of(httpx2.post(f"{base}/completions", json=TEXT), 429)
        assert error["type"] == "rate_limit_error"
        running.close()
        waiting.close()


def open_late(base: str) -> tuple[socket.socket, None]:
    """A connection that has asked and waits."""
    body = json.dumps({**TEXT, "max_tokens": 240}).encode()
    place = urlsplit(base)
    connection = socket.create_connection((place.hostname, place.port), timeout=20)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    return connection, None


def test_a_body_that_does_not_come_ends_the_request(lm64: LanguageModel):
    limits = Limits(body_seconds=0.2)
    with served(local_service(lm64, name="tiny", limits=limits)) as base:
        place = urlsplit(base)
        with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
            connection.sendall(f"{head}{{".encode())
            assert b"408" in connection.recv(200)


@unhurried
def test_a_shutdown_finishes_what_runs(lm64: LanguageModel):
    with served(local_service(lm64, name="tiny")) as base:
        connection, text = open_stream(base, max_tokens=150)
        time.sleep(0.05)
    while part := connection.recv(65536):
        text += part
    connection.close()
    assert b"data: [DONE]" in text
