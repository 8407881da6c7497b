"""DPO on preference pairs: our engine, TRL's DPOTrainer, and a strong baseline, in one run.

Same initial weights, order, batch (8 pairs), float32, threads, AdamW, learning rate and clipping;
every side also computes the reference's log-probabilities of every pair once. Time runs from the
first forward pass to the last optimiser step; tokenising, loading and saving are left out. Each
side runs in a process of its own, so that its peak memory is its own (growth over the loaded
model).

The strong baseline is what a careful engineer would write without sharing prompts: a row per
completion, rows bucketed by length, the head on scored positions only. The work bound is the ratio
of its unavoidable floating-point work to ours: trunk tokens and head rows, weighted by their cost.

    python benchmarks/dpo_vs_trl.py --vocab-size 8192 49152 --json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

BATCH = 8
BETA = 0.1
RATE = 1e-5
MAX_LENGTH = 1024


def main() -> None:
    """Run all sides for every vocabulary size and print a row each."""
    arguments = parsed()
    if arguments.side:
        sys.stdout.write(json.dumps(SIDES[arguments.side](arguments)) + "\n")
        return
    from _setup import show

    show([compared(size, arguments) for size in arguments.vocab_size], arguments.json)


def parsed() -> argparse.Namespace:
    """The command line."""
    from _setup import HH

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-size", type=int, nargs="+", default=[8192, 49152])
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="each side's best of so many runs")
    parser.add_argument("--data", type=Path, default=HH if HH.is_file() else None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=["ours", "trl", "strong"], help=argparse.SUPPRESS)
    return parser.parse_args()


def compared(vocab_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: all sides at one vocabulary size, equal losses asserted."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(arguments.repeats):
        for side in SIDES:
            runs[side].append(in_process(side, vocab_size, arguments))
    best = {side: min(several, key=lambda run: run["seconds"]) for side, several in runs.items()}
    ours, trl, strong = best["ours"], best["trl"], best["strong"]
    differences = {
        side: max(abs(a - b) for a, b in zip(ours["losses"], best[side]["losses"], strict=True))
        for side in ("trl", "strong")
    }
    largest = max(differences.values())
    assert largest < 1e-4, f"the sides do not compute the same losses: {differences}"
    bound = work(strong, vocab_size, arguments) / work(ours, vocab_size, arguments)
    tokens = ours["useful_tokens"]
    return {
        "what": f"{arguments.steps} DPO steps of {BATCH} pairs, {arguments.hidden} x "
        f"{arguments.layers} Llama, float32, {arguments.threads} threads",
        "data": ours["data"],
        "n_pairs": arguments.steps * BATCH,
        "vocab_size": vocab_size,
        "ours_seconds": ours["seconds"],
        "peer_seconds": trl["seconds"],
        "strong_seconds": strong["seconds"],
        "ours_tokens_per_s": tokens / ours["seconds"],
        "peer_tokens_per_s": tokens / trl["seconds"],
        "ratio": trl["seconds"] / ours["seconds"],
        "strong_ratio": strong["seconds"] / ours["seconds"],
        "work_bound": bound,
        "share_of_work_bound": strong["seconds"] / ours["seconds"] / bound,
        "max_loss_difference": largest,
        "ours_trunk_tokens": ours["trunk_tokens"],
        "strong_trunk_tokens": strong["trunk_tokens"],
        "ours_head_rows": ours["head_rows"],
        "strong_head_rows": strong["head_rows"],
        "ours_peak_mb": ours["peak_mb"],
        "peer_peak_mb": trl["peak_mb"],
        "strong_peak_mb": strong["peak_mb"],
        "memory_ratio": ours["peak_mb"] / trl["peak_mb"],
    }


def in_process(side: str, vocab_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--vocab-size", str(vocab_size)]
    for name in ("hidden", "layers", "steps", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    if arguments.data is not None:
        command += ["--data", str(arguments.data)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def work(side: dict[str, Any], vocab_size: int, arguments: argparse.Namespace) -> float:
    """Multiplications of the linear layers for one pass over all tokens."""
    hidden = arguments.hidden
    inner = round(hidden * 8 / 3 / 64) * 64
    per_token = arguments.layers * (4 * hidden * hidden + 3 * hidden * inner)
    return float(side["trunk_tokens"] * per_token + side["head_rows"] * hidden * vocab_size)


def prepared(arguments: argparse.Namespace) -> tuple[Any, Any, list[dict[str, str]], str]:
    """The same model, tokenizer and pairs for every side."""
    import torch
    from _setup import make_model, make_tokenizer, pairs

    torch.set_num_threads(arguments.threads)
    rows, source = pairs(arguments.data, arguments.steps * BATCH)
    tokenizer = make_tokenizer([row["prompt"] + row["chosen"] + row["rejected"] for row in rows])
    model = make_model(arguments.vocab_size[0], arguments.hidden, arguments.layers)
    return model, tokenizer, rows, source


def run_ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """`trueup.training.train` with DPO."""
    from _setup import peak_mb

    from trueup.models import LanguageModel
    from trueup.objectives import DPO
    from trueup.training import TrainingConfig, train

    model, tokenizer, rows, source = prepared(arguments)
    config = TrainingConfig(
        batch_size=BATCH,
        learning_rate=RATE,
        schedule="constant",
        warmup=0.0,
        shuffle=False,
        save_every=0,
        max_length=MAX_LENGTH,
    )
    moments: list[float] = []
    base = peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            LanguageModel(model, tokenizer, name="bench"),
            DPO(beta=BETA),
            rows,
            config=config,
            out=Path(folder) / "out",
            progress=lambda told: moments.append(time.perf_counter()),
        )
        peak = peak_mb() - base
    steps = result.steps
    return {
        "data": source,
        "losses": steps["loss"].tolist(),
        "seconds": moments[-1] - moments[0],
        "trunk_tokens": result.work.trunk_tokens // 2,
        "head_rows": result.work.head_rows // 2,
        "useful_tokens": int(steps["tokens"].sum()),
        "peak_mb": peak,
    }


def run_trl(arguments: argparse.Namespace) -> dict[str, Any]:
    """TRL's DPOTrainer with its own defaults for everything that is not held equal."""
    warnings.simplefilter("ignore")
    import copy

    import datasets
    import transformers
    import trl
    from _setup import peak_mb

    model, tokenizer, rows, source = prepared(arguments)
    losses: list[float] = []
    moments: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            moments.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append(time.perf_counter())

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    with tempfile.TemporaryDirectory() as folder:
        config = trl.DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            warmup_steps=0,
            weight_decay=0.0,
            max_grad_norm=1.0,
            optim="adamw_torch",
            beta=BETA,
            max_length=MAX_LENGTH,
            bf16=False,
            fp16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        base = peak_mb()
        trainer = trl.DPOTrainer(
            model=model,
            ref_model=copy.deepcopy(model),
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return {
        "data": source,
        "losses": losses,
        "seconds": moments[-1] - moments[0],
        "peak_mb": peak_mb() - base,
    }


def run_strong(arguments: argparse.Namespace) -> dict[str, Any]:
    """Plain PyTorch: a row per completion, bucketed, head on scored positions only."""
    import copy

    import torch
    from _setup import peak_mb
    from torch.nn.functional import logsigmoid

    model, tokenizer, rows, source = prepared(arguments)
    sequences = [encoded(tokenizer, row, side) for row in rows for side in ("chosen", "rejected")]
    base = peak_mb()
    reference = copy.deepcopy(model).eval()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    counts = {"trunk_tokens": 0, "head_rows": 0}

    def logps(network: Any, batch: list[tuple[list[int], int]]) -> torch.Tensor:
        width = max(len(ids) for ids, _ in batch) - 1
        table = torch.zeros(len(batch), width, dtype=torch.long)
        scored = torch.zeros(len(batch), width, dtype=torch.bool)
        targets = torch.zeros(len(batch), width, dtype=torch.long)
        for row, (ids, start) in enumerate(batch):
            table[row, : len(ids) - 1] = torch.tensor(ids[:-1])
            targets[row, : len(ids) - 1] = torch.tensor(ids[1:])
            scored[row, start - 1 : len(ids) - 1] = True
            counts["trunk_tokens"] += len(ids) - 1
        counts["head_rows"] += int(scored.sum())
        hidden = network.model(input_ids=table, use_cache=False).last_hidden_state[scored]
        picked = -torch.nn.functional.cross_entropy(
            network.lm_head(hidden), targets[scored], reduction="none"
        )
        owner = torch.arange(len(batch))[:, None].expand_as(scored)[scored]
        return torch.zeros(len(batch)).index_add(0, owner, picked)

    losses = []
    started = time.perf_counter()
    for first in range(0, len(sequences), 2 * BATCH):
        several = sequences[first : first + 2 * BATCH]
        found, order = [], []
        for bucket in by_length([len(ids) for ids, _ in several]):
            batch = [several[index] for index in bucket]
            with torch.no_grad():
                frozen = logps(reference, batch)
            found.append(logps(model, batch) - frozen)
            order += bucket
        ratios = torch.cat(found)[torch.tensor(order).argsort()].view(-1, 2)
        loss = -logsigmoid(BETA * (ratios[:, 0] - ratios[:, 1])).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - started
    halves = {name: count // 2 for name, count in counts.items()}
    return {
        "data": source,
        "losses": losses,
        "seconds": seconds,
        "peak_mb": peak_mb() - base,
        **halves,
    }


def encoded(tokenizer: Any, row: dict[str, str], side: str) -> tuple[list[int], int]:
    """The ids of prompt and completion with the end of text, and where the completion starts."""
    prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
    whole = tokenizer(row["prompt"] + row[side], add_special_tokens=False)["input_ids"]
    return [*whole, tokenizer.eos_token_id], len(prompt)


def by_length(lengths: list[int], *, floor: int = 512, waste: float = 0.1) -> list[list[int]]:
    """Rows of similar length together, as a careful engineer would."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    buckets: list[list[int]] = []
    for index in order:
        longest = lengths[buckets[-1][0]] if buckets else 0
        filled = longest * len(buckets[-1]) if buckets else 0
        if not buckets or (filled >= floor and lengths[index] < (1 - waste) * longest):
            buckets.append([])
        buckets[-1].append(index)
    return buckets


SIDES = {"ours": run_ours, "trl": run_trl, "strong": run_strong}

if __name__ == "__main__":
    main()
