"""lm-evaluation-harness: `samples_*.jsonl` as `--log_samples` writes them, of any 0.4 version."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from trueup.data.canonical import canonical, one_line
from trueup.data.table import place
from trueup.errors import UserError
from trueup.files import content_hash
from trueup.interop.foreign_log import (
    ForeignLog,
    ForeignMetric,
    ForeignTask,
    Sample,
    is_binary,
    items_of,
)
from trueup.interop.lm_eval_values import goal_of, numbers_of, rule_of

KEYS_OF_ALL = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics",
    "doc_hash", "prompt_hash", "target_hash",
}  # fmt: skip
_SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[^_]+)\.jsonl")

Row = dict[str, Any]


def read_lm_eval(path: Path) -> ForeignLog:
    """One model's samples: of one file, or of every task in a results folder, its newest file.

    Raises: UserError where there are no samples, those of several models, or damaged ones.
    """
    found = _files(path) if path.is_dir() else {_task_of(path): path}
    tasks: list[ForeignTask] = []
    tables: dict[str, pd.DataFrame] = {}
    generation: dict[str, Mapping[str, Any]] = {}
    notes: list[str] = []
    totals: Mapping[str, Any] = {}
    for name, file in found.items():
        totals = _totals(file)
        read = _Reading(file)
        scores = read.scores(totals.get("higher_is_better", {}).get(name, {}))
        notes += [f"{name}: {metric} is left out, {why}" for metric, why in read.left_out.items()]
        if scores:
            version = str(totals.get("versions", {}).get(name, ""))
            tasks.append(ForeignTask(name=name, version=version, scores=scores))
            tables[name] = items_of([*read.samples.values()], scores)
            generation[name] = read.generation
    if not tasks:
        raise UserError(f"{path}: no metric can be read; " + ("; ".join(notes) or "it is empty"))
    return ForeignLog(
        source=path,
        tool="lm-evaluation-harness",
        model=str(totals.get("model_name") or next(iter(found.values())).parent.name),
        tasks=tuple(tasks),
        tables=tables,
        generation=generation,
        notes=tuple(notes),
    )


class _Reading:
    """The samples of one file: a document each, with the metrics of all its filters."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.samples: dict[Any, Sample] = {}
        self.rules: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.generation: Mapping[str, Any] = {}
        for number, row in enumerate(_rows(file)):
            self.add(row.get("doc_id", f"row {number}"), row)

    def add(self, document: Any, row: Row) -> None:
        """Take in one line: a document under one filter."""
        requests = _requests(row)
        texts = [part for request in requests for part in request if isinstance(part, str)]
        if not self.samples:
            parts = (part for request in requests for part in request)
            self.generation = next((part for part in parts if isinstance(part, dict)), {})
        content = content_hash(canonical({"prompt": texts, "target": str(row["target"])}))[:32]
        sample = self.samples.setdefault(document, Sample(content, "".join(texts[:1])[:200], {}))
        if sample.content != content:
            raise UserError(
                f"{self.file}: doc_id {document!r} stands for two prompts; give one run's samples"
            )
        label = row.get("filter", "none")
        for metric in row.get("metrics") or [name for name in row if name not in KEYS_OF_ALL]:
            name = metric if label == "none" else f"{metric},{label}"
            self.keep(sample, name, metric, row.get(metric))

    def keep(self, sample: Sample, name: str, metric: str, value: Any) -> None:
        """The numbers of one value; a metric with a value of another form is left out."""
        if value is None or name in self.left_out:
            return
        rule = self.rules.setdefault(name, rule_of(metric, value))
        numbers = numbers_of(rule, value)
        if numbers is None:
            self.left_out[name] = f"its {one_line(repr(value), 40)} is no number"
        else:
            sample.numbers[name] = numbers

    def scores(self, declared: Mapping[str, bool]) -> tuple[ForeignMetric, ...]:
        """The metrics that can be compared."""
        found = []
        for name, rule in self.rules.items():
            goal = goal_of(name.partition(",")[0], declared)
            if goal is None:
                self.left_out.setdefault(
                    name, "nothing says what is better; keep results_*.json beside the samples"
                )
            if goal is None or name in self.left_out:
                continue
            found.append(
                ForeignMetric(
                    name=name,
                    rule="mean" if rule == "brier" else rule,
                    goal=goal[0],
                    ideal=goal[1],
                    is_share=rule == "mean" and is_binary([*self.samples.values()], name),
                )
            )
        return tuple(found)


def _files(folder: Path) -> dict[str, Path]:
    """The newest samples of every task in a folder, or in the one of the model in it."""
    every = [file for name in ("", "*/") for file in folder.glob(f"{name}samples_*.jsonl")]
    if not every:
        raise UserError(
            f"{folder}: holds no samples_*.jsonl, only totals; run lm_eval with --log_samples"
        )
    models = sorted({str(file.parent) for file in every})
    if len(models) > 1:
        raise UserError(
            f"{folder}: holds the results of {len(models)} models; give the folder of one, as "
            f"{models[0]}"
        )
    every.sort(key=lambda file: file.name)  # of one task by date
    return {_task_of(file): file for file in every}


def _task_of(file: Path) -> str:
    """The task that a file's name tells."""
    match = _SAMPLES.fullmatch(file.name)
    return match["task"] if match else file.stem.removeprefix("samples_")


def _totals(file: Path) -> Mapping[str, Any]:
    """The results_*.json of the same date beside the samples, else nothing."""
    match = _SAMPLES.fullmatch(file.name)
    beside = file.with_name(f"results_{match['date']}.json") if match else None
    if beside is None or not beside.is_file():
        return {}
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{beside}: not valid JSON ({one_line(str(error))})") from error
    return found if isinstance(found, dict) else {}


def _rows(file: Path) -> Iterator[Row]:
    """The samples, one per line; the first versions wrote one JSON list instead."""
    try:
        with file.open(encoding="utf-8") as lines:
            if lines.read(1) == "[":
                for number, row in enumerate(json.loads("[" + lines.read()), start=1):
                    yield _checked(place(str(file), "row", number), row)
                return
            lines.seek(0)
            for number, text in enumerate(lines, start=1):
                if text.strip():
                    where = place(str(file), "line", number)
                    yield _checked(where, _parsed(where, text))
    except ValueError as error:  # bytes that are no UTF-8 are one too
        raise UserError(f"{file}: not valid JSON ({one_line(str(error))})") from error


def _parsed(where: str, text: str) -> Any:
    """One line of JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({one_line(str(error))})") from error


def _checked(where: str, row: Any) -> Row:
    """The row, if it has what every sample has."""
    if isinstance(row, dict) and {"arguments", "target"} <= set(row):
        return row
    raise UserError(
        f"{where}: no sample of lm-evaluation-harness, which has 'arguments' and 'target'"
    )


def _requests(row: Row) -> list[list[Any]]:
    """The arguments of every request: {"gen_args_0": {"arg_0": ...}}, or plain lists before."""
    given = row["arguments"]
    several = given.values() if isinstance(given, dict) else given
    return [[*each.values()] if isinstance(each, dict) else [*each] for each in several]
