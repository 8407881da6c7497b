"""Options that several verbs share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from trueup.errors import UserError

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A transformers or peft folder, or a hub id.")
]
Data = Annotated[
    str,
    typer.Option(
        "--data", metavar="FILE", help="JSONL, JSON, CSV, TSV, Parquet, a data set folder or id."
    ),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="The run folder to write; must be new.")
]
OptionalOut = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The run folder to write; must be new.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; repeatable."),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Where chance starts.")]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[
    str,
    typer.Option("--dtype", metavar="NAME", help="auto, float32, bfloat16, float16 or float64."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run in --out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
FailIf = Annotated[
    str | None,
    typer.Option(
        "--fail-if",
        metavar="EXPR",
        help='Exit with 3 where this holds: "low(AUDIT.METRIC) > 0.1".',
    ),
]


def settings_of(words: Sequence[str] | None) -> dict[str, str]:
    """The `--set KEY=VALUE` words as a mapping.

    Raises: UserError where a word has no `=`, or a key stands twice.
    """
    found: dict[str, str] = {}
    for word in words or ():
        key, sign, value = word.partition("=")
        key = key.strip().replace("-", "_")
        if not (key and sign):
            raise UserError(f"--set needs a name, '=' and a value such as beta=0.1, got {word!r}")
        if key in found:
            raise UserError(f"--set {key} is given twice, {found[key]!r} and {value!r}")
        found[key] = value
    return found
