"""Requests per second of `trueup serve` against a server that answers one request at a time.

Both serve the same random model behind the same HTTP stack, each in a process of its own on one
thread; the clients are in this process. That both give the same texts for the same seeds is
asserted. `--load` instead sends 200 streams at once and then 5,000 requests, and prints times,
errors and the server's memory.

    python benchmarks/serve.py --json
    python benchmarks/serve.py --load
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx2
import torch
from _setup import make_model, make_tokenizer, pairs, show

from trueup.decoding.plain import PlainSearch
from trueup.models import LanguageModel
from trueup.server.limits import Limits
from trueup.server.prompts import LocalPrompts
from trueup.server.running import serve
from trueup.server.searching import SearchBatches
from trueup.server.service import Service, local_service


def main() -> None:
    """Measure, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=4, help="for each client")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--load-requests", type=int, default=5000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.load:
        size = {"vocab_size": 512, "hidden": 64, "layers": 2}
        show(load(arguments, size), arguments.json)
        return
    size = {name: getattr(arguments, name) for name in ("vocab_size", "hidden", "layers")}
    found = {}
    for kind in ("plain", "batch"):
        with server(kind, size) as (base, _):
            asyncio.run(rates(base, [1], 1, 2))  # warm
            found[kind] = asyncio.run(
                rates(base, arguments.clients, arguments.requests, arguments.tokens)
            )
    rows = []
    for clients in arguments.clients:
        ours, plain = found["batch"][clients], found["plain"][clients]
        assert ours["texts"] == plain["texts"], "the servers give different texts"
        rows.append(
            {
                "what": f"{arguments.tokens} tokens, {arguments.hidden} x {arguments.layers} Llama",
                "clients": clients,
                "ours_per_second": ours["rate"],
                "plain_per_second": plain["rate"],
                "ratio": ours["rate"] / plain["rate"],
            }
        )
    show(rows, arguments.json)


@contextmanager
def server(kind: str, size: dict[str, int]) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its base URL and its process id."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_server, args=(kind, size, theirs))
    process.start()
    try:
        base = ours.recv()
        assert process.pid is not None
        yield base, process.pid
    finally:
        process.terminate()
        process.join(30)


def run_server(kind: str, size: dict[str, int], announced: Connection) -> None:
    """Serve until terminated; one thread, float32, answers of full length."""
    torch.set_num_threads(1)
    rows, _ = pairs(None, 200)
    tokenizer = make_tokenizer([row["prompt"] for row in rows], size["vocab_size"])
    model = make_model(size["vocab_size"], size["hidden"], size["layers"])
    tokenizer.eos_token = None
    lm = LanguageModel(model, tokenizer, name="bench")
    if kind == "batch":
        service = local_service(lm, name="bench")
    else:
        limits = Limits(max_rows=1, max_choices=1)  # nobody shares a call
        service = Service(
            name="bench",
            engine=SearchBatches(PlainSearch(), lm, limits),
            prompts=LocalPrompts(lm, as_tokens=False),
            fingerprint="plain",
            limits=limits,
        )
    serve(service, host="127.0.0.1", port=0, token=None, announce=announced.send)


async def rates(
    base: str, clients: list[int], requests: int, tokens: int
) -> dict[int, dict[str, Any]]:
    """Requests per second and the texts, by the number of clients that ask at once."""
    found = {}
    for count in clients:
        limits = httpx2.Limits(max_connections=count)
        async with httpx2.AsyncClient(timeout=600, limits=limits) as client:

            async def ask(number: int, client: httpx2.AsyncClient = client) -> list[str]:
                texts = []
                for turn in range(requests):
                    body = asked(number * requests + turn, tokens)
                    reply = await client.post(f"{base}/completions", json=body)
                    texts.append(reply.raise_for_status().json()["choices"][0]["text"])
                return texts

            started = time.perf_counter()
            texts = await asyncio.gather(*(ask(number) for number in range(count)))
            seconds = time.perf_counter() - started
        found[count] = {"rate": count * requests / seconds, "texts": texts}
    return found


def asked(number: int, tokens: int) -> dict[str, Any]:
    """One request; its number is in the prompt and the seed."""
    prompt = f"The nurse said {number} times that"
    return {"model": "bench", "prompt": prompt, "max_tokens": tokens, "seed": number}


def load(arguments: argparse.Namespace, size: dict[str, int]) -> list[dict[str, Any]]:
    """Streams at once, then many requests; errors and memory."""
    with server("batch", size) as (base, pid):
        streams = asyncio.run(all_streams(base, arguments.streams, arguments.tokens))
        row: dict[str, Any] = {
            "what": f"{arguments.streams} streams at once, {arguments.tokens} tokens each",
            "errors": sum(one["errors"] for one in streams),
            "last_first_chunk_seconds": max(one["first"] for one in streams),
            "first_end_seconds": min(one["last"] for one in streams),
            "last_end_seconds": max(one["last"] for one in streams),
            "longest_gap_seconds": max(one["gap"] for one in streams),
        }
        per_part = arguments.load_requests // 5
        memory, errors = [], 0
        started = time.perf_counter()
        for part in range(5):
            errors += asyncio.run(many(base, range(part * per_part, (part + 1) * per_part)))
            memory.append(resident_mb(pid))
        seconds = time.perf_counter() - started
    flat = {
        "what": f"{5 * per_part} requests of 4 tokens, 64 at once",
        "errors": errors,
        "per_second": 5 * per_part / seconds,
        **{f"memory_mb_after_{per_part * (n + 1)}": value for n, value in enumerate(memory)},
        "growth_after_first_part": memory[-1] / memory[0] - 1,
    }
    assert row["errors"] == flat["errors"] == 0
    return [row, flat]


async def all_streams(base: str, count: int, tokens: int) -> list[dict[str, float]]:
    """What each of the streams met."""
    limits = httpx2.Limits(max_connections=count)
    async with httpx2.AsyncClient(timeout=600, limits=limits) as client:
        started = time.perf_counter()

        async def follow(number: int) -> dict[str, float]:
            times, ended = [], False
            body = {**asked(number, tokens), "stream": True}
            async with client.stream("POST", f"{base}/completions", json=body) as reply:
                async for line in reply.aiter_lines():
                    ended = ended or line == "data: [DONE]"
                    if line.startswith("data: {") and "error" not in json.loads(line[6:]):
                        times.append(time.perf_counter() - started)
            gaps = [late - early for early, late in itertools.pairwise(times)]
            return {
                "errors": float(not ended),
                "first": times[0],
                "last": times[-1],
                "gap": max(gaps, default=0.0),
            }

        return await asyncio.gather(*(follow(number) for number in range(count)))


async def many(base: str, numbers: range) -> int:
    """Send these requests, 64 at once; how many failed."""
    gate = asyncio.Semaphore(64)
    async with httpx2.AsyncClient(timeout=600) as client:

        async def ask(number: int) -> bool:
            async with gate:
                reply = await client.post(f"{base}/completions", json=asked(number, 4))
                return reply.status_code != 200

        return sum(await asyncio.gather(*(ask(number) for number in numbers)))


def resident_mb(pid: int) -> float:
    """The process's memory now."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


if __name__ == "__main__":
    main()
