"""The folder of one training run: what it was started with, where it stands, what came out."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from trueup.errors import UserError
from trueup.files import disk_errors, write_json, write_table
from trueup.models import LanguageModel, Work
from trueup.models.multi_head import MultiHead
from trueup.models.tensors import full_disk, new_folder
from trueup.stats import Estimate
from trueup.training.checkpoints import Checkpoints
from trueup.training.result import TrainingResult

SCHEMA = 1
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json")
TABLES = ("steps", "evaluations", "items")


class Record:
    """`OUT/training/`: run.json, tables, reference and checkpoints; the model stands in `OUT`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / "training"
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self.reference = self.folder / "reference.safetensors"

    @property
    def status(self) -> str:
        """`absent`, `running` or `finished`."""
        return str(self._read().get("status", "absent"))

    def check(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Raise UserError where work would be lost, or a run would go on as another one."""
        status = self.status
        if not resume:
            steps = self.checkpoints.steps()
            if status == "running" and steps:
                raise UserError(
                    f"{self.out}: holds an unfinished run, {steps[-1]} steps done; go on with "
                    "--resume, or choose another folder"
                )
            return
        former = self._read().get("settings", {}) if status != "absent" else settings
        former, settings = _flat(former), _flat(settings)
        for name in dict.fromkeys([*former, *settings]):
            old, new = former.get(name), settings.get(name)
            if old != new:
                raise UserError(
                    f"{self.out}: was started with another {name}, {_short(old)}, got "
                    f"{_short(new)}; restore it, or start anew in another folder"
                )

    def start(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Note the settings; without `resume` forget what an earlier run left.

        What a killed process was writing when it died goes in any case.
        """
        remains = [*self.folder.glob(".*.part"), *self.out.glob(".README.md.*.part")]
        for path in remains:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not resume:
            self.checkpoints.clear()
            shutil.rmtree(self.folder / "rounds", ignore_errors=True)
        write_json(self.folder / "run.json", _content("running", settings))

    def save_model(self, lm: LanguageModel, heads: MultiHead | None = None) -> None:
        """Put the model into `out`, file by file from a folder beside it; heads beside it."""
        with new_folder(self.folder / "model") as part:
            lm.save(part)
            if heads is not None:
                heads.save(part)
        saved = sorted((self.folder / "model").iterdir())
        names = {path.name for path in saved}
        with disk_errors(self.out), full_disk():
            for pattern in WEIGHTS:
                for path in self.out.glob(pattern):
                    if path.name not in names:
                        path.unlink()
            for path in saved:
                path.replace(self.out / path.name)
            (self.folder / "model").rmdir()

    def finish(self, settings: Mapping[str, Any], result: TrainingResult) -> None:
        """Write the tables, then the word `finished`; checkpoints go last."""
        for name in TABLES:
            write_table(self.folder / f"{name}.parquet", getattr(result, name))
        content = _content("finished", settings)
        content["guards"] = [guard.as_dict() for guard in result.guards]
        content |= {"work": result.work.as_dict(), "best_step": result.best_step}
        write_json(self.folder / "run.json", content | {"notes": result.notes})
        self.checkpoints.clear()

    def result(self, model: LanguageModel) -> TrainingResult:
        """What a finished run gave back."""
        content = self._read()
        read = {name: pd.read_parquet(self.folder / f"{name}.parquet") for name in TABLES}
        tables = {name: pd.DataFrame() if table.empty else table for name, table in read.items()}
        return TrainingResult(
            model=model,
            guards=[_estimate(values) for values in content["guards"]],
            work=Work(**content["work"]),
            best_step=content["best_step"],
            notes=content["notes"],
            **tables,
        )

    def _read(self) -> dict[str, Any]:
        """run.json, empty where there is none."""
        path = self.folder / "run.json"
        if not path.is_file():
            return {}
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: is damaged ({error}); choose another folder") from error
        return content


def _content(status: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The head of run.json."""
    return {"schema": SCHEMA, "status": status, "settings": dict(settings)}


def _estimate(values: Mapping[str, Any]) -> Estimate:
    """An estimate from its row, where an undefined number is null."""
    numbers = {
        name: float("nan") if values[name] is None else values[name]
        for name in ("value", "low", "high")
    }
    return Estimate(**{**values, **numbers})


def _short(value: object) -> str:
    """A value for an error, hashes cut."""
    text = repr(value)
    return text if len(text) <= 30 else f"{text[:26]}...{text[-1]}"


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with those of inner mappings beside them, so that a difference has a name."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(value if isinstance(value, Mapping) else {name: value})
    return flat
