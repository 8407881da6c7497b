"""The README.md beside trained weights: what was done to them, on what, with which effect."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trueup.files import plain, write_text
from trueup.stats import Estimate


def write_model_card(
    folder: Path,
    *,
    method: str,
    arxiv: str = "",
    base_model: str,
    base_fingerprint: str,
    data_source: str,
    data_hash: str,
    rows: int,
    objective: Mapping[str, Any],
    settings: Mapping[str, Any],
    guards: Sequence[Estimate] = (),
    before: Sequence[Estimate] = (),
    after: Sequence[Estimate] = (),
    is_adapter: bool = False,
    notes: Sequence[str] = (),
) -> Path:
    """Write `folder/README.md` atomically; written again later, it may carry audits' estimates.

    Fields: before and after are audits of the base and the trained model, matched by audit, metric
            and slice; guards are the engine's own numbers on held-out rows.
    """
    parts = [
        _front_matter(method, base_model, is_adapter=is_adapter),
        f"# {folder.name}\n",
        f"`{base_model}` trained by **{method}**"
        + (f" ([arXiv {arxiv}](https://arxiv.org/abs/{arxiv}))" if arxiv else "")
        + f" with trueup {version('trueup')}.\n",
        _facts(
            {
                "base model": f"`{base_model}`",
                "base model's content hash": f"`{base_fingerprint}`",
                "data": f"`{data_source}`, {rows} training rows",
                "data's content hash": f"`{data_hash}`",
            }
        ),
        _section("Objective", _facts({name: f"`{value}`" for name, value in objective.items()})),
        _section("Training", _facts({name: f"`{value}`" for name, value in settings.items()})),
        _section("Guards", _estimates(guards)),
        _section("Before and after", _comparison(before, after)),
        _section("Notes", "".join(f"- {note}\n" for note in notes)),
    ]
    path = folder / "README.md"
    write_text(path, "\n".join(part for part in parts if part))
    return path


def _front_matter(method: str, base_model: str, *, is_adapter: bool) -> str:
    """The YAML head that the hub reads; JSON strings are YAML strings."""
    library = "peft" if is_adapter else "transformers"
    tags = json.dumps(["trueup", method])
    model = json.dumps(base_model)
    return f"---\nlibrary_name: {library}\nbase_model: {model}\ntags: {tags}\n---\n"


def _section(title: str, body: str) -> str:
    """A titled part, or nothing where the body is empty."""
    return f"## {title}\n\n{body}" if body else ""


def _facts(values: Mapping[str, Any]) -> str:
    """Names and values as a table."""
    if not values:
        return ""
    rows = "".join(f"| {name} | {_cell(value)} |\n" for name, value in plain(dict(values)).items())
    return f"| | |\n|---|---|\n{rows}"


def _estimates(estimates: Sequence[Estimate]) -> str:
    """Estimates as a table."""
    if not estimates:
        return ""
    rows = "".join(
        f"| {_cell(item.metric)} | {_cell(item.slice)} | {item.numbers()} | {item.n} |\n"
        for item in estimates
    )
    return f"| metric | slice | value [95 % interval] | n |\n|---|---|---|--:|\n{rows}"


def _comparison(before: Sequence[Estimate], after: Sequence[Estimate]) -> str:
    """Audits' estimates side by side."""
    if not before and not after:
        return ""
    old = {(item.audit, item.metric, item.slice): item for item in before}
    new = {(item.audit, item.metric, item.slice): item for item in after}
    rows = ""
    for key in dict.fromkeys([*old, *new]):
        sides = [side[key].numbers() if key in side else "" for side in (old, new)]
        rows += f"| {' | '.join(map(_cell, key))} | {' | '.join(sides)} |\n"
    return f"| audit | metric | slice | before | after |\n|---|---|---|---|---|\n{rows}"


def _cell(value: object) -> str:
    """Text that cannot end a table's cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
