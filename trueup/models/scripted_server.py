"""A chat server on this machine whose answers are scripted: the test double for `connect`."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply that stands instead of an answer, such as a refusal; `seconds` pass before it."""

    status: int = 200
    body: Mapping[str, Any] | str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


Script = Callable[[Mapping[str, Any], int], str]


def echo(request: Mapping[str, Any], index: int) -> str:
    """The last message again, with the sample's number behind it where several are asked for."""
    said = str(request["messages"][-1]["content"])
    return said if request.get("n", 1) == 1 else f"{said} {index}"


class ScriptedServer:
    """Speaks the chat part of the OpenAI protocol over real HTTP, as a context manager.

    Words count as tokens, each of log-probability -1 nat. `instead` holds replies that are sent
    before any answer, first in, first out. `requests`, `authorizations` and `most_at_once` tell
    what arrived.
    """

    def __init__(self, script: Script = echo, *, seconds: float = 0.0) -> None:
        self.script = script
        self.seconds = seconds
        self.instead: deque[Reply] = deque()
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                scripted._answer(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # closing waits for every handler
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What `connect` takes."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Note what came and send what the script says."""
        length = int(handler.headers.get("Content-Length", 0))
        request = json.loads(handler.rfile.read(length))
        with self._lock:
            self.requests.append(request)
            self.authorizations.append(handler.headers.get("Authorization"))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            instead = self.instead.popleft() if self.instead else None
        reply = instead or Reply(body=self._completion(request), seconds=self.seconds)
        time.sleep(reply.seconds)
        with self._lock:
            self._at_once -= 1
        try:
            _send(handler, reply)
        except ConnectionError:  # the client has stopped waiting
            handler.close_connection = True

    def _completion(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The protocol's reply around the script's answers."""
        texts = [self.script(request, index) for index in range(request.get("n", 1))]
        prompt_words = sum(len(str(turn["content"]).split()) for turn in request["messages"])
        return {
            "object": "chat.completion",
            "model": request["model"],
            "system_fingerprint": "scripted-1",
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                    "logprobs": _logprobs(text, request),
                }
                for index, text in enumerate(texts)
            ],
            "usage": {
                "prompt_tokens": prompt_words,
                "completion_tokens": sum(len(text.split()) for text in texts),
            },
        }


def _logprobs(text: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
    if not request.get("logprobs"):
        return None
    others = range(request.get("top_logprobs", 0))
    return {
        "content": [
            {
                "token": word,
                "logprob": -1.0,
                "top_logprobs": [{"token": f"{word}{n}", "logprob": -1.0 - n} for n in others],
            }
            for word in text.split()
        ]
    }


def _send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
    content = text.encode()
    handler.send_response(reply.status)
    for name, value in reply.headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
