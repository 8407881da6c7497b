"""Answers behind URIAL's prefix: the prefix kept against read with every request, in one run.

The same random model, float32, same threads, greedy. That both give the same tokens is asserted.
The first request, which reads the prefix in both cases, is left out of the ratio. Whole answers,
then the first token alone: what a user waits for before a stream begins.

    python benchmarks/urial.py --json
"""

import argparse
import time

import torch
from _setup import HH, make_model, make_tokenizer, pairs, show

from trueup.decoding.urial import Urial
from trueup.models import LanguageModel
from trueup.models.prefix_cache import PrefixedModel


def main() -> None:
    """Answer the same queries with both, compare the tokens, print the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=3, help="after the first one")
    parser.add_argument("--batch", type=int, default=4, help="queries of a request")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="each side's best of so many runs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, source = pairs(HH if HH.is_file() else None, 200)
    tokenizer = make_tokenizer([Urial().words, *(row["prompt"] + row["chosen"] for row in rows)])
    model = make_model(arguments.vocab_size, arguments.hidden, arguments.layers).eval()
    tokenizer.eos_token = None  # all answers run to their full length
    lm = LanguageModel(model, tokenizer, name="bench")
    step = Urial()
    count = arguments.batch * (arguments.requests + 1)
    queries = step.prepare([row["prompt"][-120:] for row in rows[:count]], lm)
    requests = [
        queries[start : start + arguments.batch] for start in range(0, count, arguments.batch)
    ]
    table = [compared(lm, requests, count, arguments) for count in (arguments.tokens, 1)]
    show([{"data": source, **row} for row in table], arguments.json)


def compared(
    lm: LanguageModel, requests: list[list[str]], tokens: int, arguments: argparse.Namespace
) -> dict[str, object]:
    """One row: both sides' best of several runs, taken in turn."""
    kept, plain = [], []
    words = Urial().words
    for _ in range(arguments.repeats):
        kept.append(timed(PrefixedModel(lm, words), requests, tokens))
        plain.append(timed(lm, requests, tokens))
    assert all(ours.tokens == theirs.tokens for ours, theirs in zip(kept, plain, strict=True))
    ours, theirs = (min(side, key=lambda run: run.seconds) for side in (kept, plain))
    return {
        "what": f"{arguments.requests} requests of {arguments.batch} x {tokens} tokens, "
        f"{arguments.hidden} x {arguments.layers} Llama, float32, greedy",
        "prefix_tokens": len(lm.encoder.prompt(words)),
        "ours_seconds": ours.seconds,
        "peer_seconds": theirs.seconds,
        "ratio": theirs.seconds / ours.seconds,
        "ours_trunk_tokens": ours.trunk_tokens,
        "peer_trunk_tokens": theirs.trunk_tokens,
    }


class Run:
    """The requests after the first one: their tokens, seconds and work."""

    def __init__(self) -> None:
        self.tokens: list[list[int]] = []
        self.seconds = 0.0
        self.trunk_tokens = 0


def timed(lm: LanguageModel, requests: list[list[str]], tokens: int) -> Run:
    """All requests, of which those after the first are timed."""
    run = Run()
    for number, prompts in enumerate(requests):
        before, started = lm.work.trunk_tokens, time.perf_counter()
        found = lm.sample(prompts, temperature=0, max_new_tokens=tokens)
        if number:
            run.seconds += time.perf_counter() - started
            run.trunk_tokens += lm.work.trunk_tokens - before
        run.tokens += [sample.token_ids for [sample] in found]
    return run


if __name__ == "__main__":
    main()
