"""`trueup generate MODEL`: a decoder's completions for a file of prompts."""

from typing import Annotated

import typer

from trueup.cli import printing
from trueup.cli.options import (
    AsJson,
    Decoder,
    Device,
    Dtype,
    Heads,
    OptionalOut,
    Resume,
    Rewards,
    Seed,
    Settings,
    Writing,
    heads_of,
    settings_of,
)
from trueup.errors import UserError

EXAMPLE = (
    "Example: trueup generate my-model --prompts prompts.jsonl --decoder best-of-n "
    "--reward words > samples.jsonl"
)


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("generate", epilog=EXAMPLE)(generate)


def generate(
    model: Writing,
    prompts: Annotated[
        str,
        typer.Option("--prompts", metavar="FILE", help="Rows with the column prompt or messages."),
    ],
    out: OptionalOut = None,
    decoder: Decoder = "sample",
    reward: Rewards = None,
    settings: Settings = None,
    n: Annotated[int, typer.Option("--n", metavar="N", help="Samples per prompt.")] = 1,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", help="The longest sample.")
    ] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="NUMBER", help="0 is greedy.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="N", help="Only the likeliest N; 0 is all.")
    ] = 0,
    top_p: Annotated[
        float, typer.Option("--top-p", metavar="NUMBER", help="Only the likeliest share; 1 is all.")
    ] = 1.0,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="End a sample before this text; repeatable."),
    ] = None,
    heads: Heads = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Write completions; one JSON object per line on stdout, and in --out."""
    weights, fields = heads_of(heads), settings_of(settings)
    if resume and out is None:
        raise UserError("--resume needs the --out of the run to go on with")
    with printing.working() as progress:
        from trueup.api.generating import generate as decoded
        from trueup.decoding.compose import compose

        result = decoded(
            model,
            prompts,
            out=out,
            decoder=compose(decoder, fields),
            reward=reward,
            n=n,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            stop=stop or (),
            seed=seed,
            resume=resume,
            device=device,
            dtype=dtype,
            heads=weights,
            progress=progress,
        )
    if as_json:
        printing.show_json(result.as_dict())
    elif result.folder is None:
        printing.show_lines(result.as_jsonl())
    else:
        printing.show_lines(f"{len(result.rows)} samples: {result.folder / 'samples.jsonl'}")
        printing.show_lines(f"report: {result.folder / 'report.html'}")
