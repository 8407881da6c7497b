"""Training on own samples in two processes: the samples, losses and weights of one process."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_models import make_tiny
from tests.training.online_in_processes import RUNS
from tests.training.online_in_processes import __file__ as SCRIPT

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def outs(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the runs in one process and in two."""
    folder = tmp_path_factory.mktemp("processes")
    found = {"one": folder / "one", "two": folder / "two"}
    for seed in (1, 2):
        make_tiny("llama", folder / f"teacher-{seed}", seed=seed)
    for name, words in (("one", []), ("two", LAUNCH)):
        found[name].mkdir()
        launched(words, tiny_model_folder, found[name])
    return found


def launched(words: Sequence[str], model: Path, out: Path) -> None:
    done = subprocess.run(
        [sys.executable, *words, SCRIPT, str(model), str(out), ",".join(RUNS)],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=Path(__file__).parents[2],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
            "PYTHONPATH": ".",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]


def read(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return content


def numbers(table: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    """The columns of a table as numbers."""
    return {
        name: [float("nan") if value is None else value for value in column.values()]
        for name, column in table.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one(name: str, outs: dict[str, Path]) -> None:
    one, two = (read(outs[kind], name) for kind in ("one", "two"))
    for column in ("completion", "prompt", "round"):
        assert two["items"].get(column) == one["items"].get(column)
    for table in ("steps", "evaluations"):
        found, expected = numbers(two[table]), numbers(one[table])
        assert list(found) == list(expected)
        expected.pop("tokens", None)  # equal prompts share a row only within a process
        for column, values in expected.items():
            assert found[column] == pytest.approx(values, rel=1e-5, abs=1e-5, nan_ok=True), column
    assert two["guards"] == pytest.approx(one["guards"], abs=1e-5)
    assert np.abs(np.subtract(two["weights"], one["weights"])).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "cyclealign"])
def test_nothing_is_judged_twice(name: str, outs: dict[str, Path]) -> None:
    """A reward is asked where the sample was drawn, a ranker by the first process alone."""

    def asked(kind: str, rank: int) -> list[Any]:
        found: list[Any] = json.loads((outs[kind] / f"{name}.scored-{rank}.json").read_text())
        return [tuple(pair) for pair in found]

    parts = [asked("two", rank) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == sorted(asked("one", 0))
    assert bool(parts[1]) == (name == "grpo")


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "at"), [("sampling", 2), ("evaluating", 2), ("training", 3)])
def test_a_stop_in_one_process_stops_both_and_they_go_on_to_the_same_bits(
    stage: str, at: int, outs: dict[str, Path]
) -> None:
    told = [(outs["two"] / f"stopped-{stage}-{rank}.txt").read_text() for rank in (0, 1)]
    assert all(f"stopped after step {at} of 4" in line for line in told)
    assert read(outs["two"], f"stopped-{stage}") == read(outs["two"], "grpo")


@pytest.mark.slow
def test_an_error_in_one_process_ends_both_in_one_line(outs: dict[str, Path]) -> None:
    told = [(outs["two"] / f"failing-{rank}.txt").read_text() for rank in (0, 1)]
    assert told[0] == told[1]
    assert told[0].startswith("UserError: reward failing: failed at ")
    assert "\n" not in told[0]
