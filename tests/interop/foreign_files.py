"""Small logs as lm-evaluation-harness and inspect_ai write them."""

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"


def lm_eval_row(number: int, *, prompt: str = "", label: str = "none", **metrics: Any) -> Any:
    """One line of samples_*.jsonl."""
    return {
        "doc_id": number,
        "doc": {"q": number},
        "target": str(number % 4),
        "arguments": {"gen_args_0": {"arg_0": prompt or f"Question {number}:", "arg_1": " yes"}},
        "resps": [[["-1.0", "False"]]],
        "filtered_resps": [["-1.0", "False"]],
        "filter": label,
        "metrics": list(metrics),
        **metrics,
    }


def write_samples(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """The rows as samples_*.jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def answers(path: Path, values: Sequence[Any], *, metric: str = "acc") -> Path:
    """Samples of one task, a value each."""
    return write_samples(path, (lm_eval_row(n, **{metric: v}) for n, v in enumerate(values)))


def inspect_sample(number: int, *, epoch: int = 1, **scores: Any) -> dict[str, Any]:
    """One sample of an inspect log."""
    return {
        "id": number,
        "epoch": epoch,
        "input": [{"id": f"random-{epoch}-{number}", "role": "user", "content": f"Ask {number}"}],
        "target": str(number),
        "scores": {name: {"value": value, "answer": None} for name, value in scores.items()},
    }


def inspect_log(samples: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    """An inspect log in its plain form."""
    about = {"task": "asking", "task_version": 0, "model": "some/model", "config": {}}
    log = {
        "version": 2,
        "status": "success",
        "eval": about | {"model_generate_config": {}},
        "samples": samples,
    }
    return log | changes


def write_inspect(path: Path, log: Mapping[str, Any]) -> Path:
    """The log as `.json`, or as an `.eval` archive under Deflate, as older versions wrote it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(log), encoding="utf-8")
        return path
    header = {key: value for key, value in log.items() if key != "samples"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", "{}")
        for each in log["samples"]:
            name = f"samples/{each['id']}_epoch_{each['epoch']}.json"
            archive.writestr(name, json.dumps(each))
        archive.writestr("header.json", json.dumps(header))
    return path
