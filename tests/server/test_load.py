"""Many clients at once, small enough for a test; `benchmarks/serve.py --load` is the full load."""

import asyncio
import gc
import json
import time

import httpx2
import pytest

from tests.server.conftest import metric, served
from trueup.models import LanguageModel, load
from trueup.server.jobs import Job
from trueup.server.rows import Row
from trueup.server.service import local_service

pytestmark = [pytest.mark.network, pytest.mark.slow]

STREAMS = 200
REQUESTS = 500


@pytest.fixture(scope="module")
def lm32(own_folder) -> LanguageModel:
    return load(own_folder, device="cpu")


async def streamed(client: httpx2.AsyncClient, base: str, number: int) -> tuple[list[float], bool]:
    """When each chunk of one stream came, and whether it ended as it should."""
    asked = {"model": "tiny", "prompt": f"Question {number}", "max_tokens": 12, "stream": True}
    body = {**asked, "seed": number}
    times, ended = [], False
    async with client.stream("POST", f"{base}/completions", json=body) as reply:
        assert reply.status_code == 200
        async for line in reply.aiter_lines():
            ended = ended or line == "data: [DONE]"
            if line.startswith("data: {"):
                assert "error" not in json.loads(line.removeprefix("data: "))
                times.append(time.monotonic())
    return times, ended


async def all_streamed(base: str) -> tuple[list[tuple[list[float], bool]], float]:
    limits = httpx2.Limits(max_connections=STREAMS)
    started = time.monotonic()
    async with httpx2.AsyncClient(timeout=60, limits=limits) as client:
        return await asyncio.gather(*(streamed(client, base, n) for n in range(STREAMS))), started


def test_two_hundred_streams_end_without_an_error_and_share_their_steps(lm32: LanguageModel):
    """One by one it would be one row a step; that no row misses a step is tested in the batch."""
    with served(local_service(lm32, name="tiny")) as base:
        streams, started = asyncio.run(all_streamed(base))
        assert len(streams) == STREAMS
        assert all(ended for _, ended in streams)
        rows, steps = metric(base, "trueup_row_steps_total"), metric(base, "trueup_steps_total")
    firsts = [times[0] - started for times, _ in streams]
    lasts = [times[-1] - started for times, _ in streams]
    print(f"first {max(firsts):.2f} s, last {max(lasts):.2f} s, {rows / steps:.0f} rows a step")
    assert rows / steps > 20


async def all_asked(base: str) -> list[int]:
    async with httpx2.AsyncClient(timeout=60) as client:
        gate = asyncio.Semaphore(32)

        async def ask(number: int) -> int:
            asked = {"model": "tiny", "prompt": f"Q{number}", "max_tokens": 4, "seed": number}
            async with gate:
                return (await client.post(f"{base}/completions", json=asked)).status_code

        return await asyncio.gather(*(ask(number) for number in range(REQUESTS)))


def test_nothing_of_a_request_stays_behind_it(lm32: LanguageModel):
    """Of 500 requests no job and no row is left, so memory cannot grow with their number."""
    gc.collect()
    before = alive()
    service = local_service(lm32, name="tiny")
    with served(service) as base:
        assert set(asyncio.run(all_asked(base))) == {200}
        gc.collect()
        assert alive() <= before + 1  # a frame may still hold the last one


def alive() -> int:
    return sum(type(thing) in (Job, Row) for thing in gc.get_objects())
