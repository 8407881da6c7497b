"""Checkpoints: all that a run needs to go on as if it had never stopped, each whole or absent."""

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from trueup.models import Work
from trueup.models.tensors import load_tensors, new_folder, remove_folder, save_tensors

KEPT = 2


@dataclass
class State:
    """Where a run stands, apart from its tensors.

    Fields: step counts the finished steps; rows and evaluations are the tables so far; best_step
            is the evaluation with the lowest loss, waited counts those after it; objective holds
            an objective's running numbers; of online training round counts the finished rounds,
            place the steps taken in the one under way, and memory is what passes from round to
            round.
    """

    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best_step: int | None = None
    waited: int = 0
    work: Work = field(default_factory=Work)
    objective: dict[str, Any] = field(default_factory=dict)
    round: int = 0
    place: int = 0
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensors:
    """The tensors of a checkpoint: trained weights, optimiser, generators per process."""

    weights: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    randomness: list[dict[str, Tensor]]


class Checkpoints:
    """The folder that holds a run's last checkpoints and best weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """The steps of all whole checkpoints, oldest first."""
        return _numbers(self.folder, r"step-(\d+)")

    def save(self, state: State, tensors: Tensors) -> None:
        """Write a checkpoint; older ones go once it is whole."""
        with new_folder(self._path(state.step)) as part:
            save_tensors(part / "weights.safetensors", tensors.weights)
            save_tensors(part / "optimiser.safetensors", tensors.optimiser)
            for rank, values in enumerate(tensors.randomness):
                save_tensors(part / f"randomness-{rank}.safetensors", values)
            (part / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
        self._prune()

    def newest(self) -> tuple[State, Tensors] | None:
        """The newest whole checkpoint, if there is any."""
        steps = self.steps()
        if not steps:
            return None
        path = self._path(steps[-1])
        raw = json.loads((path / "state.json").read_text(encoding="utf-8"))
        raw["work"] = Work(**raw["work"])
        randomness = sorted(path.glob("randomness-*.safetensors"))
        tensors = Tensors(
            weights=load_tensors(path / "weights.safetensors")[0],
            optimiser=load_tensors(path / "optimiser.safetensors")[0],
            randomness=[load_tensors(file)[0] for file in randomness],
        )
        return State(**raw), tensors

    def save_best(self, step: int, weights: dict[str, Tensor]) -> None:
        """Keep the weights of the best evaluation so far."""
        save_tensors(self._best(step), weights)

    def best(self, step: int) -> dict[str, Tensor]:
        """The weights that `save_best` kept."""
        return load_tensors(self._best(step))[0]

    def clear(self) -> None:
        """Remove everything."""
        remove_folder(self.folder)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}.safetensors"

    def _prune(self) -> None:
        """Remove old checkpoints, best weights that none of the kept ones names, and remains."""
        for step in self.steps()[:-KEPT]:
            remove_folder(self._path(step))
        named = set()
        for step in self.steps():
            raw = (self._path(step) / "state.json").read_text(encoding="utf-8")
            named.add(json.loads(raw)["best_step"])
        for step in _numbers(self.folder, r"best-(\d+)\.safetensors"):
            if step not in named:
                self._best(step).unlink()
        for path in self.folder.glob(".*.part"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _numbers(folder: Path, pattern: str) -> list[int]:
    """The numbers in the names of a folder's entries, sorted."""
    if not folder.is_dir():
        return []
    found = (re.fullmatch(pattern, path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)
