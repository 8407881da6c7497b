"""Guided decoders against the straightforward search that re-reads the prefix, in one run.

DeAL and Transfer Q*: every step has k candidates, each looked ahead greedily. The straightforward
side does what the authors' published code does: one pass over the text for the candidates, then
`generate` of transformers (with its cache) for the k texts, each read from its beginning. The same
random model, float32, same threads, no early end; equal texts are asserted. A single prompt, and
several at once: the published code takes them one after the other, ours run together.

`sample`: plain greedy decoding against transformers' `generate`, one prompt and a batch.

    python benchmarks/decoding.py --json
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from _setup import HH, make_model, make_tokenizer, pairs, show

from trueup.decoding.deal import DeAL
from trueup.decoding.protocol import Request
from trueup.decoding.transfer_q import TransferQ
from trueup.models import LanguageModel
from trueup.models.sampling import Sampling


def main() -> None:
    """Decode with both sides, print a row per decoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prefix", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=8, help="prompts that run together")
    parser.add_argument("--greedy-tokens", type=int, default=64, help="of plain decoding")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--lookahead", type=int, default=16)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, default=HH if HH.is_file() else None)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, source = pairs(arguments.data, 200)
    tokenizer = make_tokenizer([row["prompt"] + row["chosen"] for row in rows])
    tokenizer.eos_token = None  # no text ends before its length
    prompts = prompts_of(tokenizer, rows, arguments.prefix, max(arguments.prompts, 16))
    policy, baseline = (model_of(arguments, tokenizer, seed) for seed in (0, 1))
    deal = DeAL(lam=1.0, top_k=arguments.top_k, lookahead=arguments.lookahead)
    transfer = TransferQ(
        baseline=baseline, alpha=1.0, top_k=arguments.top_k, lookahead=arguments.lookahead
    )
    table = []
    shape = f"prefix {arguments.prefix}, {arguments.hidden} x {arguments.layers} Llama, float32"
    for name, decoder, roller in (("deal", deal, policy), ("transfer-q", transfer, baseline)):
        compare(decoder, policy, roller, prompts[:1], arguments, tokens=2)  # warms both sides up
        for count in (1, arguments.prompts):
            row = compare(
                decoder, policy, roller, prompts[:count], arguments, tokens=arguments.tokens
            )
            what = (
                f"{name}: {count} prompts, {arguments.tokens} tokens, k {arguments.top_k}, "
                f"lookahead {arguments.lookahead}, {shape}"
            )
            table.append({"what": what, "data": source, **row})
    for count in (1, 16):
        row = greedy(policy, prompts[:count], arguments.greedy_tokens)
        what = f"sample, greedy: {count} prompts, {arguments.greedy_tokens} tokens, {shape}"
        table.append({"what": what, "data": source, **row})
    show(table, arguments.json)


def prompts_of(tokenizer: Any, rows: list[dict[str, str]], size: int, count: int) -> list[str]:
    """Real texts whose tokens, read again, are exactly `size`."""
    ids = tokenizer("".join(row["prompt"] for row in rows), add_special_tokens=False)["input_ids"]
    found: list[str] = []
    for start in range(0, len(ids) - size, size):
        text: str = tokenizer.decode(ids[start : start + size])
        if len(tokenizer(text, add_special_tokens=False)["input_ids"]) == size:
            found.append(text)
        if len(found) == count:
            return found
    raise SystemExit(f"no {count} texts of {size} tokens in the data")


def model_of(arguments: Any, tokenizer: Any, seed: int) -> LanguageModel:
    """A random model whose next token has a shape."""
    model = make_model(arguments.vocab_size, arguments.hidden, arguments.layers, seed=seed).eval()
    with torch.no_grad():
        model.lm_head.weight *= 8
    model.generation_config.eos_token_id = None
    return LanguageModel(model, tokenizer, name=f"bench {seed}")


def reward(prompts: Any, completions: Any) -> list[float]:
    """The share of letters that are vowels."""
    return [
        sum(letter in "aeiou" for letter in text.lower()) / max(1, len(text))
        for text in completions
    ]


def compare(
    decoder: Any,
    policy: LanguageModel,
    roller: LanguageModel,
    prompts: list[str],
    arguments: Any,
    *,
    tokens: int,
) -> dict[str, Any]:
    """Both sides' seconds and counted tokens; the texts must be equal."""
    for lm in (policy, roller):
        lm.work.reset()
    request = Request(sampling=Sampling(max_new_tokens=tokens), rewards={"vowels": reward})
    started = time.perf_counter()
    results = decoder.decode(policy, prompts, request)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    peers = [straightforward(policy, roller, prompt, arguments, tokens) for prompt in prompts]
    theirs = time.perf_counter() - started
    read = sum(count for _, count in peers)
    for (result,), (ids, _) in zip(results, peers, strict=True):
        assert list(result.token_ids) == ids, "the two sides do not write the same text"
    models = {id(lm): lm for lm in (policy, roller)}.values()
    own = sum(lm.work.trunk_tokens for lm in models)
    return {
        "ours_seconds": ours,
        "peer_seconds": theirs,
        "ratio": theirs / ours,
        "ours_trunk_tokens": own,
        "peer_trunk_tokens": read,
        "trunk_ratio": read / own,
    }


@torch.no_grad()
def greedy(policy: LanguageModel, prompts: list[str], tokens: int) -> dict[str, Any]:
    """Greedy decoding by both; the fastest of three runs each, taken in turn."""
    inputs = torch.tensor([policy.encoder.prompt(prompt) for prompt in prompts])
    ours, theirs = [], []
    for _ in range(3):
        started = time.perf_counter()
        found = policy.sample(prompts, max_new_tokens=tokens, temperature=0)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        expected = policy.model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            max_new_tokens=tokens,
            pad_token_id=0,
        )
        theirs.append(time.perf_counter() - started)
        own = [list(several[0].token_ids) for several in found]
        assert own == expected[:, inputs.shape[1] :].tolist(), "the texts differ"
    return {
        "ours_seconds": min(ours),
        "peer_seconds": min(theirs),
        "ratio": min(theirs) / min(ours),
    }


@torch.no_grad()
def straightforward(
    policy: LanguageModel, roller: LanguageModel, prompt: str, arguments: Any, tokens: int
) -> tuple[list[int], int]:
    """Greedy choice by log-probability and reward; its tokens, and how many were read for them."""
    start, ids, read = policy.encoder.prompt(prompt), [], 0
    for step in range(1, tokens + 1):
        prefix = torch.tensor([start + ids])
        logprobs = policy.model(input_ids=prefix).logits[0, -1].log_softmax(-1)
        read += prefix.numel()
        likely = logprobs.topk(arguments.top_k).indices
        texts = torch.cat([prefix.expand(len(likely), -1), likely[:, None]], dim=1)
        horizon = min(arguments.lookahead, tokens - step)
        if horizon:
            read += len(likely) * (texts.shape[1] + horizon - 1)
            texts = roller.model.generate(
                texts,
                attention_mask=torch.ones_like(texts),
                do_sample=False,
                max_new_tokens=horizon,
                pad_token_id=0,
            )
        own = [policy.tokenizer.decode(row[len(start) :]) for row in texts]
        scores = logprobs[likely].double() + torch.tensor(reward([prompt] * len(own), own))
        ids.append(int(likely[scores.argmax()]))
    return ids, read


if __name__ == "__main__":
    main()
