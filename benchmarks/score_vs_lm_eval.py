"""Log-likelihoods of BBQ's three answers: ours against lm-evaluation-harness, in one run.

Both sides score the same 3 answers of every question under the same random model, float32, same
threads; lm-eval's batch is 16, its default order and batching. Time covers tokenising and
scoring.

    python benchmarks/score_vs_lm_eval.py --json
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _setup import BBQ, make_model, make_tokenizer, read_rows, show

from trueup.models import LanguageModel
from trueup.worlds.occupations import OccupationWorld


def main() -> None:
    """Score with both for every vocabulary size, assert equality, print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=160)
    parser.add_argument("--vocab-size", type=int, nargs="+", default=[8192, 49152])
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2, help="each side's best of so many runs")
    parser.add_argument("--data", type=Path, default=BBQ if BBQ.is_file() else None)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    show([compared(size, arguments) for size in arguments.vocab_size], arguments.json)


def compared(vocab_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: both sides at one vocabulary size."""
    prompts, answers, source = questions(arguments.data, arguments.questions)
    tokenizer = make_tokenizer([p + "".join(a) for p, a in zip(prompts, answers, strict=True)])
    model = make_model(vocab_size, arguments.hidden, arguments.layers).eval()
    lm = LanguageModel(model, tokenizer, name="bench")
    peer = lm_eval_model(model, tokenizer, arguments.batch_size)
    lm.score(prompts[:4], answers[:4])  # both sides warm
    peer.loglikelihood(requests(prompts[:4], answers[:4]), disable_tqdm=True)
    ours_seconds, peer_seconds = [], []
    for _ in range(arguments.repeats):
        lm.work.reset()
        started = time.perf_counter()
        ours = np.array(lm.score(prompts, answers).logps)
        ours_seconds.append(time.perf_counter() - started)
        counted = CountedTokens(model)
        started = time.perf_counter()
        found = peer.loglikelihood(requests(prompts, answers), disable_tqdm=True)
        peer_seconds.append(time.perf_counter() - started)
        counted.stop()
    theirs = np.array([value for value, _ in found]).reshape(ours.shape)
    largest = float(np.abs(ours - theirs).max())
    assert largest < 1e-3, f"the sides do not compute the same numbers: {largest}"
    return {
        "what": f"log-likelihoods of 3 answers, {arguments.hidden} x {arguments.layers} Llama, "
        f"{vocab_size} words, float32, {arguments.threads} threads",
        "data": source,
        "vocab_size": vocab_size,
        "n_questions": len(prompts),
        "ours_seconds": min(ours_seconds),
        "peer_seconds": min(peer_seconds),
        "ratio": min(peer_seconds) / min(ours_seconds),
        "max_difference": largest,
        "ours_trunk_tokens": lm.work.trunk_tokens,
        "peer_trunk_tokens": counted.tokens,
        "ours_head_rows": lm.work.head_rows,
        "peer_head_rows": counted.tokens,
    }


def questions(path: Path | None, count: int) -> tuple[list[str], list[list[str]], str]:
    """Prompts with three answers each, from BBQ or from the occupations world."""
    if path is not None:
        rows = read_rows(path, count)
        prompts = [f"{row['context']} {row['question']} Answer:" for row in rows]
        return prompts, [[f" {row[f'ans{k}']}" for k in range(3)] for row in rows], str(path)
    world = OccupationWorld(seed=1)
    text = world.corpus()
    prompts = [" ".join(text[3 * i : 3 * i + 3]) + " Who?" for i in range(count)]
    answers = [[" The engineer", " The teacher", " It is not known"] for _ in range(count)]
    return prompts, answers, "text of the occupations world (no --data was given)"


def lm_eval_model(model: Any, tokenizer: Any, batch_size: int) -> Any:
    """The harness's Hugging Face model around the same weights."""
    warnings.simplefilter("ignore")
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device="cpu", backend="causal"
    )


def requests(prompts: list[str], answers: list[list[str]]) -> list[Any]:
    """The harness's requests, one per answer."""
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type="loglikelihood", doc={}, arguments=(prompt, answer), idx=index)
        for prompt, several in zip(prompts, answers, strict=True)
        for index, answer in enumerate(several)
    ]


class CountedTokens:
    """Counts the positions that go through the trunk, padding included, while it listens."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        self._handle = model.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def stop(self) -> None:
        """Listen no more."""
        self._handle.remove()

    def _count(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        self.tokens += ids.numel()


if __name__ == "__main__":
    main()
