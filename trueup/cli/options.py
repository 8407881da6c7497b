"""Options that several verbs share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from trueup.errors import UserError

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A transformers or peft folder, or a hub id.")
]
Audited = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A transformers or peft folder, a hub id, a sentence encoder, a file of word vectors, "
        "URL#NAME of a chat model, or none where the data hold the texts.",
    ),
]
Writing = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A transformers or peft folder, a hub id, or URL#NAME of a chat model.",
    ),
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
Rewards = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        metavar="NAME",
        help="What to aim at: words, lexicon:FILE, keywords:A,B, max-words:N, regex:PATTERN, "
        "FILE.py:FUNCTION, a classifier, or URL#MODEL, a judge that grades; repeatable, as "
        "NAME=... if the decoder weighs them.",
    ),
]
Heads = Annotated[
    list[str] | None,
    typer.Option(
        "--heads", metavar="NAME=WEIGHT", help="Mix the heads of a mah-dpo model; repeatable."
    ),
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


def _decoders_shown(name: str) -> str:
    """Show the table of decoders where someone asks for help, and leave."""
    if name != "help":
        return name
    from trueup.api.guide import decoder_table
    from trueup.cli import printing

    printing.show(decoder_table())
    raise typer.Exit


Decoder = Annotated[
    str,
    typer.Option(
        "--decoder",
        metavar="NAME",
        help="How to decode, several with + between them; `help` lists all.",
        is_eager=True,
        callback=_decoders_shown,
    ),
]


def settings_of(words: Sequence[str] | None) -> dict[str, str]:
    """The `--set KEY=VALUE` words as a mapping.

    Raises: UserError where a word has no `=`, or a key stands twice.
    """

    def field(key: str) -> str:
        return key.replace("-", "_")

    return _pairs("--set", words or (), "a value such as beta=0.1", field)


def heads_of(words: Sequence[str] | None) -> dict[str, float]:
    """The `--heads NAME=WEIGHT` words as a mapping.

    Raises: UserError where a word has no `=`, a weight is no number, or a name stands twice.
    """
    found = {}
    for name, text in _pairs("--heads", words or (), "a weight such as helpful=0.7", str).items():
        try:
            found[name] = float(text)
        except ValueError:
            raise UserError(f"--heads {name} must be a number, got {text!r}") from None
    return found


def _pairs(
    option: str, words: Sequence[str], wanted: str, named: Callable[[str], str]
) -> dict[str, str]:
    """The words NAME=VALUE of an option, no name twice."""
    found: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        key = named(key.strip())
        if not (key and sign):
            raise UserError(f"{option} needs a name, '=' and {wanted}, got {word!r}")
        if key in found:
            raise UserError(f"{option} {key} is given twice, {found[key]!r} and {value!r}")
        found[key] = value
    return found
