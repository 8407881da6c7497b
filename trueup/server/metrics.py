"""Counters and times in the text form that Prometheus reads."""

import threading
import time
from collections import Counter
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Labels = tuple[tuple[str, str], ...]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "trueup_"
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
HELP = {
    "requests_total": "Requests by path and status.",
    "request_seconds": "Time from a request's coming to its end.",
    "first_piece_seconds": "Time from a request's coming to the first text of its answer.",
    "prompt_tokens_total": "Tokens of the prompts that were answered.",
    "completion_tokens_total": "Tokens that were written.",
    "waiting_jobs": "Requests in the queue.",
    "running_rows": "Choices that are being written.",
    "steps_total": "Steps of the batch.",
    "row_steps_total": "Choices that took part in a step, summed over the steps.",
    "trunk_tokens_total": "Tokens that went through the model.",
    "head_rows_total": "Positions that went through the output head.",
    "padding_tokens_total": "Places that went through the model and held no token.",
}


class Metrics:
    """What the server counts; threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._times: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += amount

    def observe(self, name: str, seconds: float) -> None:
        """Note one time."""
        with self._lock:
            buckets = self._times.setdefault(name, [0] * (len(BUCKETS) + 1))
            buckets[sum(seconds > bound for bound in BUCKETS)] += 1
            self._sums[name] = self._sums.get(name, 0.0) + seconds

    def text(self, now: Mapping[str, float]) -> str:
        """Everything, with the numbers that an engine gives now."""
        with self._lock:
            counted = dict(self._counts)
            times = {name: list(buckets) for name, buckets in self._times.items()}
            sums = dict(self._sums)
        lines: list[str] = []
        for name in HELP:
            rows: list[tuple[Labels, float]] = [
                (labels, value) for (key, labels), value in counted.items() if key == name
            ]
            if name in now:
                rows.append(((), now[name]))
            if name in times:
                lines += [*_head(name, "histogram"), *_histogram(name, times[name], sums[name])]
            elif rows:
                kind = "counter" if name.endswith("_total") else "gauge"
                lines += _head(name, kind)
                lines += [f"{PREFIX}{name}{_shown(labels)} {value}" for labels, value in rows]
        return "\n".join(lines) + "\n"


class Watch:
    """Counts every request by path and status, and takes its time."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, and note what came back."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = "gone"  # where nobody was left to answer

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        started = time.perf_counter()
        try:
            await self.app(scope, receive, noted)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.count("requests_total", path=path, status=status)
            if scope["method"] == "POST":
                self.metrics.observe("request_seconds", time.perf_counter() - started)


def _head(name: str, kind: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {HELP[name]}", f"# TYPE {PREFIX}{name} {kind}"]


def _histogram(name: str, buckets: list[int], total: float) -> list[str]:
    """The lines of one histogram, whose buckets are cumulated."""
    lines = []
    so_far = 0
    for bound, count in zip([*map(str, BUCKETS), "+Inf"], buckets, strict=True):
        so_far += count
        lines.append(f'{PREFIX}{name}_bucket{{le="{bound}"}} {so_far}')
    return [*lines, f"{PREFIX}{name}_sum {total:.6f}", f"{PREFIX}{name}_count {so_far}"]


def _shown(labels: Labels) -> str:
    parts = ",".join(f'{name}="{value}"' for name, value in labels)
    return f"{{{parts}}}" if parts else ""
