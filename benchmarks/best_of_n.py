"""16 samples of 64 tokens for 8 prompts: ours against transformers' `generate`, in one run.

The same random model, float32, same threads, temperature 1, nothing cut off, no early end. That
both draw from the same distribution is asserted by a chi-square test on the first token of 4,096
samples a side.

    python benchmarks/best_of_n.py --json
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from _setup import HH, make_model, make_tokenizer, pairs, show

from trueup.models import LanguageModel


def main() -> None:
    """Sample with both, test the distributions, print the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="each side's best of so many runs")
    parser.add_argument("--data", type=Path, default=HH if HH.is_file() else None)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, source = pairs(arguments.data, 200)
    tokenizer = make_tokenizer([row["prompt"] + row["chosen"] for row in rows])
    prompts = [row["prompt"] for row in rows[: arguments.prompts]]
    model = make_model(arguments.vocab_size, arguments.hidden, arguments.layers).eval()
    with torch.no_grad():
        model.lm_head.weight *= 8  # a distribution with a shape, so that the test can tell
    tokenizer.eos_token = None  # all samples run to their full length
    model.generation_config.eos_token_id = None
    lm = LanguageModel(model, tokenizer, name="bench")
    size = {"n": arguments.samples, "max_new_tokens": arguments.tokens}
    lm.sample(prompts[:1], n=2, max_new_tokens=2)
    generated(model, tokenizer, prompts[:1], 2, 2)
    ours_seconds, peer_seconds = [], []
    for repeat in range(arguments.repeats):
        lm.work.reset()
        started = time.perf_counter()
        lm.sample(prompts, seed=repeat, **size)
        ours_seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        generated(model, tokenizer, prompts, arguments.samples, arguments.tokens)
        peer_seconds.append(time.perf_counter() - started)
    lengths = [len(ids) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
    p_value = same_distribution(lm, model, tokenizer, min(prompts, key=len))
    assert p_value > 1e-3, f"the sides do not sample the same distribution: p = {p_value}"
    row = {
        "what": f"{arguments.samples} samples of {arguments.tokens} tokens for "
        f"{arguments.prompts} prompts, {arguments.hidden} x {arguments.layers} Llama, float32",
        "data": source,
        "n_samples": arguments.prompts * arguments.samples,
        "prompt_tokens": sum(lengths),
        "ours_seconds": min(ours_seconds),
        "peer_seconds": min(peer_seconds),
        "ratio": min(peer_seconds) / min(ours_seconds),
        "ours_trunk_tokens": lm.work.trunk_tokens,
        "peer_trunk_tokens": arguments.samples
        * (arguments.prompts * max(lengths) + arguments.prompts * (arguments.tokens - 1)),
        "chi_square_p_value": p_value,
    }
    show([row], arguments.json)


def generated(model: Any, tokenizer: Any, prompts: list[str], count: int, tokens: int) -> Any:
    """Transformers' own samples."""
    tokenizer.padding_side = "left"
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        return model.generate(
            **inputs,
            do_sample=True,
            top_k=0,
            num_return_sequences=count,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            pad_token_id=tokenizer.pad_token_id,
        )


def same_distribution(lm: LanguageModel, model: Any, tokenizer: Any, prompt: str) -> float:
    """The p-value of a chi-square test that the first tokens of both sides are alike."""
    torch.manual_seed(0)
    count = 4096
    width = lm.model.config.vocab_size
    ours = [s.token_ids[0] for s in lm.sample([prompt], n=count, max_new_tokens=1, seed=0)[0]]
    theirs = generated(model, tokenizer, [prompt], count, 1)[:, -1].tolist()
    table = np.stack([np.bincount(side, minlength=width) for side in (ours, theirs)])
    common = table.sum(axis=0) >= 20
    folded = np.column_stack([table[:, common], table[:, ~common].sum(axis=1)])
    folded = folded[:, folded.sum(axis=0) > 0]
    return float(scipy.stats.chi2_contingency(folded).pvalue)


if __name__ == "__main__":
    main()
