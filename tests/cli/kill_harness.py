"""Run one command many times, killed at random moments, in forks of one warmed-up process.

    python -m tests.cli.kill_harness KILLS SEED FOLDER -- WORDS...

Runs `trueup WORDS --out FOLDER/calm` undisturbed, then KILLS times `trueup WORDS --out FOLDER/N`,
each killed by SIGKILL at a random moment and resumed to its end. Prints a JSON list of what every
kill met: how far the run was, and the exit code of the resumed one.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from trueup.cli.session import run_words


def main() -> None:
    kills, seed, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    words = sys.argv[sys.argv.index("--") + 1 :]
    torch.set_num_threads(1)
    finished(start([*words, "--out", str(folder / "warm")]))
    began = time.monotonic()
    assert finished(start([*words, "--out", str(folder / "calm")])) == 0
    calm_seconds = time.monotonic() - began
    draw = random.Random(seed)
    met = []
    for number in range(kills):
        out = folder / str(number)
        child = start([*words, "--out", str(out)])
        # one moment in each part of the run, so that early and late ones are among them
        time.sleep(calm_seconds * (number + draw.random()) / kills)
        os.kill(child, signal.SIGKILL)
        was_killed = finished(child) == -signal.SIGKILL
        state = how_far(out)
        code = finished(start([*words, "--out", str(out), "--resume"]))
        met.append({"killed": was_killed, "state": state, "code": code})
    print(json.dumps(met))


def start(words: list[str]) -> int:
    """Fork a process that runs the command."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os._exit(run_words(words))


def finished(child: int) -> int:
    """The exit code of a process, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def how_far(out: Path) -> str:
    """Where the run stood when it was killed."""
    if not (out / "run.json").is_file():
        return "absent"
    status = json.loads((out / "run.json").read_text("utf-8"))["status"]
    return f"{status}, {len(list(out.glob('items/part-*')))} chunks"


if __name__ == "__main__":
    main()
