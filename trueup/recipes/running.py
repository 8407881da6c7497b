"""Run a recipe's steps in order; a finished step is skipped while what it reads stays the same."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trueup.api.progress import Progress, ignored
from trueup.errors import TrueupError, UserError
from trueup.files import content_hash, plain, write_json
from trueup.recipes.checking import read_recipe
from trueup.recipes.recipe import Recipe, Source, Step

STATE = "recipe.json"
OUTPUTS = {
    "audit": ("items.parquet", "metrics.json"),
    "compare": ("compare.json",),
    "generate": ("samples.jsonl",),
}
NOT_THE_MODEL = {"run.json", "metrics.json", "compare.json", "report.html", "README.md", STATE}


@dataclass(frozen=True)
class StepResult:
    """One step after its turn.

    Fields: folder is where its files are; is_skipped says that it was done already; result is what
            the API gave, None where it was skipped or only wrote a page.
    """

    step: Step
    folder: Path
    is_skipped: bool = False
    result: Any = None

    def as_dict(self) -> dict[str, Any]:
        """The step as `--json` holds it."""
        told = {"name": self.step.name, "verb": self.step.verb, "folder": self.folder}
        return told | {"skipped": self.is_skipped}


def run_recipe(
    recipe: str | Path | Recipe, *, resume: bool = False, progress: Progress | None = None
) -> Iterator[StepResult]:
    """Check the whole recipe, then run step after step and give each one's result.

    Edges:  with resume, a step that is finished and whose model, data, settings and versions hash
            the same is skipped; one that was stopped goes on; one that has changed is run anew,
            its former folder kept as `NAME.old-1`.
    Raises: UserError before any work where the recipe is wrong, or its folder is taken.
    """
    checked = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    journal = Journal(checked.out, resume=resume)
    return _results(checked, journal, progress or ignored)


class Journal:
    """`OUT/recipe.json`: what each step has read and made."""

    def __init__(self, out: Path, *, resume: bool) -> None:
        self.out = out
        self.path = out / STATE
        self.steps: dict[str, dict[str, Any]] = {}
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            if not self.path.is_file():
                raise UserError(f"{out}: holds something else than a recipe's runs; name another")
            if not resume:
                raise UserError(f"{out}: holds this recipe's runs; add --resume, or name another")
            self.steps = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        """The steps of an earlier run."""
        try:
            steps: dict[str, dict[str, Any]] = json.loads(self.path.read_text("utf-8"))["steps"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}: is damaged; name another out") from error
        return steps

    def folder(self, step: Step) -> Path:
        """The step's own folder."""
        return self.out / step.name

    def is_done(self, step: Step, inputs: str) -> bool:
        """Whether the step was finished on the same inputs and its files are as it left them."""
        entry = self.steps.get(step.name, {})
        made = outputs_hash(step, self.folder(step))
        return entry.get("inputs") == inputs and made is not None and entry.get("outputs") == made

    def begin(self, step: Step, inputs: str) -> bool:
        """Note that the step starts; whether it goes on with what lies in its folder.

        A folder that was made from other inputs is kept under another name.
        """
        folder = self.folder(step)
        entry = self.steps.get(step.name, {})
        goes_on = entry.get("inputs") == inputs and entry.get("outputs") is None
        goes_on = goes_on and step.verb != "compare"  # which is done in one piece
        if folder.exists() and not goes_on:
            number = 1
            while (old := folder.with_name(f"{folder.name}.old-{number}")).exists():
                number += 1
            folder.rename(old)
        self._note(step, inputs, None)
        return goes_on and folder.exists()

    def finish(self, step: Step, inputs: str) -> None:
        """Note that the step is done."""
        self._note(step, inputs, outputs_hash(step, self.folder(step)))

    def _note(self, step: Step, inputs: str, outputs: str | None) -> None:
        self.steps[step.name] = {"inputs": inputs, "outputs": outputs}
        write_json(self.path, {"schema": 1, "steps": self.steps})


def inputs_hash(recipe: Recipe, step: Step, journal: Journal) -> str:
    """What the step's result depends on: its settings, all that it reads, the versions."""
    told = {
        "verb": step.verb,
        "methods": step.methods,
        "settings": dict(step.settings),
        "seed": step.seed,
        "device": recipe.device,
        "dtype": recipe.dtype,
        "versions": [version(name) for name in ("trueup", "torch", "transformers", "tokenizers")],
        "sources": [_source_hash(source, journal) for source in step.sources],
        "roles": [bool(step.model), bool(step.eval_data), *step.helpers, *step.data],
    }
    return content_hash(json.dumps(plain(told), sort_keys=True))


def outputs_hash(step: Step, folder: Path) -> str | None:
    """The content of what a finished step leaves; None where a file is missing."""
    if step.verb == "align":
        return _model_hash(folder) if (folder / "run.json").is_file() else None
    files = [folder / name for name in OUTPUTS[step.verb]]
    return content_hash(*files) if all(file.is_file() for file in files) else None


def _source_hash(source: Source, journal: Journal) -> str:
    """What a step reads, by content; a hub id by its name."""
    if source.step is not None:
        return str(journal.steps[source.step]["outputs"])
    if not source.text:
        return source.words
    path = Path(source.text)
    if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
        return _model_hash(path)
    found = content_hash(path) if path.exists() else source.text
    return source.before + found + source.after


def _model_hash(folder: Path) -> str:
    """Weights, configuration and tokenizer of a model folder."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    kept = [path for path in files if path.name not in NOT_THE_MODEL and path.suffix != ".parquet"]
    shown = [path for path in kept if not path.name.startswith(".")]
    return content_hash(*(part for path in shown for part in (path.name, path)))


def _results(recipe: Recipe, journal: Journal, progress: Progress) -> Iterator[StepResult]:
    """Every step in its turn."""
    for step in recipe.steps:
        if step.verb == "report":
            yield StepResult(step, _page(step, journal))
            continue
        folder = journal.folder(step)
        inputs = inputs_hash(recipe, step, journal)
        if journal.is_done(step, inputs):
            yield StepResult(step, folder, is_skipped=True)
            continue
        resume = journal.begin(step, inputs)
        try:
            result = _run(recipe, step, folder, resume, _named(progress, step), journal)
        except UserError as error:
            raise UserError(f"{step.place}: {error}") from error
        except TrueupError as error:
            raise type(error)(f"step {step.name!r}: {error}") from error
        journal.finish(step, inputs)
        yield StepResult(step, folder, result=result)


def _run(
    recipe: Recipe, step: Step, folder: Path, resume: bool, progress: Progress, journal: Journal
) -> Any:
    """Do what one step says."""
    if step.verb == "compare":
        from trueup.api import compare

        return compare(*(_place(side, journal) for side in step.sides), out=folder)
    common: dict[str, Any] = {
        "out": folder,
        "seed": step.seed,
        "resume": resume,
        "device": recipe.device,
        "dtype": recipe.dtype,
        "progress": progress,
    }
    model = _place(step.model, journal) if step.model is not None else ""
    data = {name: source.text for name, source in step.data.items()}
    if step.verb == "audit":
        from trueup.api import audit

        return audit(model, list(step.methods), data=data, **common, **step.settings)
    if step.verb == "align":
        from trueup.api import align

        helpers: dict[str, Any] = {
            name: _place(source, journal) for name, source in step.helpers.items()
        }
        return align(
            model,
            step.methods[0],
            data=data[step.methods[0]],
            eval_data=None if step.eval_data is None else step.eval_data.text,
            **helpers,
            **common,
            **step.settings,
        )
    from trueup.api.generating import chosen_decoding, generate

    chain, sampling = chosen_decoding(step.methods[0], step.settings)
    reward = {name: source.words for name, source in step.helpers.items()}
    settings = asdict(sampling) | common
    return generate(model, data["prompts"], decoder=chain, reward=reward, **settings)


def _page(step: Step, journal: Journal) -> Path:
    """Write a run's page again."""
    from trueup.report import report_run

    return report_run(_place(step.sides[0], journal))


def _place(source: Source, journal: Journal) -> str:
    """The folder of an earlier step, or what the recipe names."""
    return source.words if source.step is None else str(journal.out / source.step)


def _named(progress: Progress, step: Step) -> Progress:
    """The progress under the step's name."""

    def tell(done: int, total: int, what: str) -> None:
        progress(done, total, f"{step.name}: {what}")

    return tell
