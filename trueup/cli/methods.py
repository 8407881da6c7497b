"""`trueup methods [QUERY]`: which methods there are, and which of them are proven."""

from typing import TYPE_CHECKING, Annotated, get_args

import typer

from trueup.cli import printing
from trueup.cli.options import AsJson
from trueup.errors import check_choice

if TYPE_CHECKING:
    from trueup.catalog import Entry

EXAMPLE = "Example: trueup methods dpo"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("methods", epilog=EXAMPLE)(methods)


def methods(
    query: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY", help="Words of a name, title, stage, year or arXiv id."),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage",
            metavar="STAGE",
            help="data, training, decoding, prompt/output, audit or red-team.",
        ),
    ] = None,
    as_json: AsJson = False,
    with_base: Annotated[
        bool,
        typer.Option(
            "--base", help="In --json without --stage, the methods without a number as well."
        ),
    ] = False,
) -> None:
    """List the methods, or those that hold every word of the query."""
    from trueup import catalog

    if stage is not None:
        check_choice(get_args(catalog.Stage), stage=stage)
    words = " ".join(query or ())
    entries = catalog.search(words, base=with_base or stage is not None or not as_json)
    found = [entry for entry in entries if stage in (None, entry.stage)]
    if as_json:
        printing.show_json([entry.as_dict() for entry in found])
        return
    if not found:
        where = f" at stage {stage}" if stage else ""
        printing.show(f"no method{where} holds {words!r}; `trueup methods` lists all")
        return
    _show(found)
    if stage == "training":
        printing.show("which one for your data: trueup align --objective help")


def _show(entries: "list[Entry]") -> None:
    """One line per method, as long as the title fits."""
    from rich.text import Text

    from trueup.api.tables import plain_table

    table = plain_table()
    table.add_column("no.", justify="right", no_wrap=True)
    table.add_column("name", no_wrap=True, max_width=18, overflow="ellipsis")
    table.add_column("title", no_wrap=True, overflow="ellipsis", max_width=30)
    table.add_column("stage", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for entry in entries:
        shown = Text(entry.status, style="green" if entry.status == "proven" else "dim")
        number = "" if entry.number is None else str(entry.number)
        table.add_row(number, Text(entry.name), Text(entry.title), entry.stage, shown)
    printing.show(table)
    proven = sum(entry.status == "proven" for entry in entries)
    printing.show(f"\n{len(entries)} methods, {proven} proven")
