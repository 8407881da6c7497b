"""Time of a training step of every offline objective, as a ratio to DPO's in the same run.

The same random model, the same 8 preference pairs a step, float32, same threads; objectives on
other data get what these pairs give them (both sides labelled, the chosen one to imitate, an
objective's name, a copy as the pair without a trace). The reference's pass is left out: it is
made once. Objectives take turns, DPO first and last in every turn, and each side's best counts.

    python benchmarks/objectives.py --json
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _setup import HH, make_model, make_tokenizer, pairs, show

from trueup.models import LanguageModel
from trueup.objectives import OBJECTIVES
from trueup.training import TrainingConfig, train

BATCH = 8
MADE = {  # rows of another kind from one pair
    "pairs": lambda row, n: [row],
    "routed": lambda row, n: [{**row, "objective": f"objective {n % 2}"}],
    "traces": lambda row, n: [
        {**row, "chosen_no_think": row["chosen"], "rejected_no_think": row["rejected"]}
    ],
    "labelled": lambda row, n: [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for side in ("chosen", "rejected")
    ],
    "completions": lambda row, n: [{"prompt": row["prompt"], "completion": row["chosen"]}],
    "scored": lambda row, n: [
        {"prompt": row["prompt"], "completion": row["chosen"], "mean_ref_logp": -5.0}
    ],
}


def main() -> None:
    """Train a few steps with each, print a row per objective."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="each side's best of so many runs")
    parser.add_argument("--data", type=Path, default=HH if HH.is_file() else None)
    parser.add_argument("--only", nargs="*", help="objectives, beside DPO")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, source = pairs(arguments.data, (arguments.steps + 1) * BATCH)
    tokenizer = make_tokenizer([row["prompt"] + row["chosen"] + row["rejected"] for row in rows])
    model = make_model(arguments.vocab_size, arguments.hidden, arguments.layers)
    lm = LanguageModel(model, tokenizer, name="bench")
    names = [
        name
        for name, kind in OBJECTIVES.items()
        if kind.data in MADE and not hasattr(kind, "source") and not kind.needs.teacher
        if not arguments.only or name in (*arguments.only, "dpo")
    ]
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in names}
    for _ in range(arguments.repeats):
        for name in ["dpo", *(name for name in names if name != "dpo"), "dpo"]:
            found[name].append(seconds_per_step(lm, name, rows))
    best = {name: min(several) for name, several in found.items()}
    show(
        [
            {
                "objective": name,
                "data": source,
                "kind": OBJECTIVES[name].data,
                "n_steps": arguments.steps,
                "seconds_per_step": seconds,
                "dpo_seconds_per_step": best["dpo"][0],
                "ratio": seconds / best["dpo"][0],
                "trunk_tokens": tokens,
                "token_ratio": tokens / best["dpo"][1],
            }
            for name, (seconds, tokens) in sorted(best.items())
        ],
        arguments.json,
    )


def seconds_per_step(lm: LanguageModel, name: str, rows: list[dict[str, str]]) -> tuple[float, int]:
    """The shortest time of a step after the first one, and the tokens of all steps."""
    kind = OBJECTIVES[name].data
    made = [part for n, row in enumerate(rows) for part in MADE[kind](row, n)]
    per_pair = len(made) // len(rows)
    config = TrainingConfig(
        batch_size=BATCH * per_pair,
        learning_rate=1e-5,
        schedule="constant",
        warmup=0.0,
        shuffle=False,
        save_every=0,
        max_length=1024,
    )
    moments: list[float] = []

    def told(progress: Any) -> None:
        if progress.stage == "training":
            moments.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        result = train(lm, name, made, config=config, out=Path(folder) / "out", progress=told)
    steps = [after - before for before, after in itertools.pairwise(moments)]
    return sum(steps) / len(steps), int(result.steps["tokens"].iloc[1:].sum())


if __name__ == "__main__":
    main()
