"""`trueup select POOL`: keep the part of a data file that is worth training on."""

from pathlib import Path
from typing import Annotated

import typer

from trueup.cli import printing
from trueup.cli.options import AsJson, Device, Dtype, Out, Resume, Settings, settings_of

EXAMPLE = (
    "Example: trueup select prefs.jsonl --method ches --model my-model --keep 0.95 --out chosen"
)


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("select", epilog=EXAMPLE)(select)


def select(
    pool: Annotated[
        str,
        typer.Argument(
            metavar="POOL", help="JSONL, JSON, CSV, TSV, Parquet, a data set folder or id."
        ),
    ],
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="The selector, such as ches.")
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="The model that will be trained.")
    ],
    keep: Annotated[
        float, typer.Option("--keep", metavar="SHARE", help="The share of rows to keep, up to 1.")
    ],
    out: Out,
    settings: Settings = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Keep the rows worth training on; --out gets selected.jsonl and every score."""
    chosen = settings_of(settings)
    with printing.working() as progress:
        from trueup.api.selecting import select as choose
        from trueup.selection import selector

        choose(
            pool,
            selector(method, chosen),
            model=model,
            keep=keep,
            out=out,
            resume=resume,
            device=device,
            dtype=dtype,
            progress=progress,
        )
    _show(out, as_json=as_json)


def _show(out: Path, *, as_json: bool) -> None:
    """What the run folder tells."""
    import pandas as pd

    from trueup.runs import Run

    run = Run.open(out)
    selected, scores = run.path / "selected.jsonl", run.path / "scores.parquet"
    if as_json:
        printing.show_json(
            {
                "schema": 1,
                "selector": run.info["arguments"]["selector"],
                "model": run.info["model"]["id"],
                "rows": run.info["rows"],
                "kept": run.info["kept"],
                "work": run.work(),
                "selected": selected,
                "scores": scores,
            }
        )
        return
    found = pd.read_parquet(scores)
    printing.show_lines(f"{run.info['kept']} of {run.info['rows']} rows kept")
    for name, is_kept in (("kept", True), ("dropped", False)):
        values = found.loc[found["kept"] == is_kept, "score"]
        if len(values):
            printing.show_lines(f"{name} scores: {values.min():.4g} to {values.max():.4g}")
    printing.show_lines(f"\nselected: {selected}\nscores: {scores}")
