"""Run one command many times, killed at random moments, in forks of one warmed-up process.

    python -m tests.cli.kill_harness KILLS SEED FOLDER -- WORDS...

Runs `trueup WORDS --out FOLDER/calm` undisturbed, then `trueup WORDS --out FOLDER/N` until KILLS of
them were hit by SIGKILL at a random moment, each resumed to its end. Prints a JSON list of what
every kill met: the folder, how far its run was, and the exit code of the resumed one.
"""

import contextlib
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
    with contextlib.redirect_stdout(sys.stderr):  # in this process, so that all is imported
        assert run_words([*words, "--out", str(folder / "warm")]) == 0
    began = time.monotonic()
    assert finished(start([*words, "--out", str(folder / "calm")])) == 0
    calm_seconds = time.monotonic() - began
    draw = random.Random(seed)
    met: list[dict[str, object]] = []
    reach = calm_seconds
    for attempt in range(4 * kills):
        if len(met) == kills:
            break
        out = folder / str(attempt)
        child = start([*words, "--out", str(out)])
        # one moment in each part of the run, so that early and late ones are among them
        time.sleep(reach * (len(met) + draw.random()) / kills)
        os.kill(child, signal.SIGKILL)
        was_killed = finished(child) == -signal.SIGKILL
        state = how_far(out)
        code = finished(start([*words, "--out", str(out), "--resume"]))
        if not was_killed:
            reach *= 0.8  # it was quicker than the undisturbed one
        else:
            met.append({"out": str(out), "state": state, "code": code})
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
