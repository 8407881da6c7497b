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
    calm = out / "calm"
    operations = in_child(lambda: counted(lambda: go(model, pairs, calm), calm, kill_at=0))
    expected = contents(calm)
    moments = random.Random(0).sample(range(1, operations), kills)
    for moment in moments:
        folder = out / f"killed-{moment}"
        in_child(lambda: counted(lambda: go(model, pairs, folder), folder, kill_at=moment))
        in_child(lambda: go(model, pairs, folder))
        if contents(folder) != expected:
            sys.stdout.write(f"differs {moment}\n")
    sys.stdout.write(f"done {operations} {len(moments)}\n")


def go(model: Path, pairs: list[dict[str, str]], out: Path) -> int:
    train(load(model, device="cpu"), "dpo", pairs, config=CONFIG, out=out, resume=True)
    return 0


def counted(act: Callable[[], int], folder: Path, *, kill_at: int) -> int:
    """Act, and count the file operations below the folder, or die at one of them."""
    seen = 0

    def hook(event: str, values: tuple[object, ...]) -> None:
        nonlocal seen
        if event in EVENTS and str(values[0]).startswith(str(folder)):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    act()
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
