"""Train in forked processes that are killed at their n-th file operation; run by test_kill.py.

The interpreter's audit hooks see every file that is opened, renamed or removed below the output
folder; the child kills itself at one of them, so that no moment of a save is left to chance.
"""

import json
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from trueup.models import load
from trueup.training import TrainingConfig, train

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
CONFIG = TrainingConfig(
    batch_size=4,
    epochs=4,
    learning_rate=2e-3,
    save_every=3,
    eval_every=2,
    early_stopping=50,
    eval_fraction=0.25,
)


def main(model: Path, rows: Path, out: Path, kills: int) -> None:
    """Print how many operations there are, and every kill after which the result differed."""
    torch.set_num_threads(1)
    pairs = json.loads(rows.read_text())

    def go(folder: Path, kill_at: int | None = None) -> int:
        seen = None if kill_at is None else count_operations(folder, kill_at)
        lm = load(model, device="cpu")
        train(lm, "dpo", pairs, config=CONFIG, out=folder, resume=True)
        return len(seen or ())

    go(out / "calm")  # here, so that the children find everything imported
    expected = contents(out / "calm")
    operations = in_child(partial(go, out / "counted", 0))
    for moment in random.Random(0).sample(range(1, operations), kills):
        folder = out / f"killed-{moment}"
        in_child(partial(go, folder, moment))
        in_child(partial(go, folder))
        if contents(folder) != expected:
            sys.stdout.write(f"differs {moment}\n")
    sys.stdout.write(f"done {operations} {kills}\n")


def count_operations(folder: Path, kill_at: int) -> list[str]:
    """Collect the file operations below the folder from now on, or die at one of them."""
    seen: list[str] = []

    def hook(event: str, values: tuple[object, ...]) -> None:
        if event in EVENTS and str(values[0]).startswith(str(folder)):
            seen.append(f"{event} {values[0]}")
            if len(seen) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def in_child(act: Callable[[], int]) -> int:
    """What the act gives back, made in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(act()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return int(text or 0)


def contents(folder: Path) -> dict[str, bytes]:
    """What a run leaves: weights, tables, the record."""
    paths = [*folder.glob("*.safetensors"), *(folder / "training").rglob("*.*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*map(Path, sys.argv[1:4]), int(sys.argv[4]))
