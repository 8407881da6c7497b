"""Train by objectives on own samples, as one of several processes; run by test_online_processes.py.

What the trained model of each is, and what it was trained on, goes into OUT.
"""

import json
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trueup.errors import TrueupError
from trueup.models import load
from trueup.objectives import objective
from trueup.training import Progress, TrainingConfig, TrainingResult, train

PROMPTS = [{"prompt": f"Question {number}: "} for number in (0, 1, 2, 3, 0)]  # one stands twice
HELD = [{"prompt": f"Query {number}: "} for number in range(5)]
BAD = [{**row, "rejected": "no no"} for row in PROMPTS]
GOOD = [{**row, "completion": f"good {n}"} for n, row in enumerate(PROMPTS)]
QUESTIONS = [{"question": f"What is {n}?", "answers": ["e"]} for n in (0, 1, 2, 3, 0)]
CONFIG = TrainingConfig(
    batch_size=3,
    epochs=2,
    max_new_tokens=6,
    learning_rate=1e-2,
    schedule="constant",
    warmup=0.0,
    save_every=2,
    eval_every=2,
    monitor=True,
)


def codes(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """A number that differs between samples: Adam would make steps of equal rewards' rounding.

    The pairs that were scored are kept, for the count.
    """
    scored.extend(zip(prompts, completions, strict=True))
    return [sum(ord(letter) % 7 for letter in text) / 10 for text in completions]


def rank(prompt: Any, responses: Sequence[str], demonstrations: Sequence[Any]) -> list[int]:
    """The longest first."""
    scored.extend((prompt, text) for text in responses)
    return sorted(range(len(responses)), key=lambda place: -len(responses[place]))


def failing(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """A reward that fails in the second process alone."""
    return [1 / (int(os.environ["RANK"]) - 1) for _ in completions]


scored: list[Any] = []
RUNS: dict[str, dict[str, Any]] = {
    "grpo": {"fields": {"samples": 4}, "reward": codes},
    "raft": {"fields": {"samples": 4}, "reward": codes},
    "f-dpg": {"fields": {"samples": 4}, "reward": codes},
    "ctrl": {"fields": {"samples": 4, "calibration_samples": 4}, "reward": codes},
    "cyclealign": {"fields": {"samples": 3}, "ranker": rank},
    "d2o": {"fields": {"samples": 3}, "rows": BAD, "eval_rows": BAD[:3]},
    "adpa": {"fields": {}, "rows": GOOD, "eval_rows": GOOD[:3], "teachers": (1, 2)},
    "honesty": {
        "fields": {"samples": 3, "strategy": "multisample"},
        "rows": QUESTIONS,
        "eval_rows": None,
        "settings": {"eval_every": 0, "monitor": False},
    },
}


def main(model: Path, out: Path, names: Sequence[str]) -> None:
    """Train by every name, then stop in the second process, and fail there."""
    rank_number = os.environ.get("RANK", "0")
    for name in names:
        scored.clear()
        result = run(model, out / name, name)
        if rank_number == "0":
            write(out / f"{name}.json", result)
        (out / f"{name}.scored-{rank_number}.json").write_text(json.dumps(scored))
    if "RANK" not in os.environ:
        return
    for stage, at in (("sampling", 2), ("evaluating", 2), ("training", 3)):
        stopped = out / f"stopped-{stage}"
        note_error(stopped, model, "grpo", progress=partial(stop, stage, at))
        result = run(model, stopped, "grpo", resume=True)
        if rank_number == "0":
            write(out / f"stopped-{stage}.json", result)
    note_error(out / "failing", model, "grpo", reward=failing)


def stop(stage: str, at: int, told: Progress) -> None:
    """Interrupt the second process at a step of a stage."""
    if (told.stage, told.step, os.environ["RANK"]) == (stage, at, "1"):
        signal.raise_signal(signal.SIGINT)


def note_error(out: Path, model: Path, name: str, **changes: Any) -> None:
    """Write down the error that ends a run in this process."""
    try:
        run(model, out, name, **changes)
    except TrueupError as error:
        path = out.with_name(f"{out.name}-{os.environ['RANK']}.txt")
        path.write_text(f"{type(error).__name__}: {error}")


def run(model: Path, out: Path, name: str, **changes: Any) -> TrainingResult:
    """One run."""
    given = {"rows": PROMPTS, "eval_rows": HELD, **RUNS[name], **changes}
    fields, rows = given.pop("fields"), given.pop("rows")
    settings = given.pop("settings", {})
    for role, seed in zip(("teacher", "ref_teacher"), given.pop("teachers", ()), strict=False):
        folder = out.parents[1] / f"teacher-{seed}"
        given[role] = load(folder, device="cpu", dtype="float64")
    config = TrainingConfig(**{**vars(CONFIG), **settings})
    lm = load(model, device="cpu", dtype="float64")  # so that rounding is no difference
    return train(lm, objective(name, fields), rows, config=config, out=out, **given)


def write(path: Path, result: TrainingResult) -> None:
    """The tables and all weights."""
    tables = {"steps": result.steps, "evaluations": result.evaluations, "items": result.items}
    content: dict[str, Any] = {key: json.loads(table.to_json()) for key, table in tables.items()}
    content["guards"] = [guard.value for guard in result.guards]
    content["work"] = result.work.as_dict()
    weights = result.model.model.state_dict().values()
    content["weights"] = torch.cat([value.flatten() for value in weights]).tolist()
    path.write_text(json.dumps(content))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","))
